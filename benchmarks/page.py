"""Measures the frame rate of the page's map with 30,000 tags, while it is zoomed and while it is dragged.

It runs in headless Chromium, on a page of 1400×1000 CSS pixels. Every frame triggers the next one by turning the wheel
or moving the pointer, so that every frame has changes to draw. The figures are the time between frames, 1/60 s at best,
and the CPU time of all browser processes per frame, which stays comparable on a busy machine. If "renderer" names
SwiftShader, there is no GPU and the CPU draws. The benchmark needs neither server nor model: it generates the answers
from a fixed seed.

``BOORU_EMBED_MAP_TAGS`` is the number of tags (30,000).
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import CDPSession, Page, Route, sync_playwright

from benchmarks._results import write

STATIC = Path(__file__).parent.parent / "booru_embed_core/web/static"
URL = "http://page.invalid/"
SECONDS = 5
CLUSTERS = 60
FRAME_MS = 1000 / 60
DRIVE = """
([kind, seconds]) => new Promise((resolve) => {
  const map = document.querySelector(".map");
  const { left, top, width, height } = map.getBoundingClientRect();
  const times = [];
  const at = (turn) => ({
    bubbles: true, cancelable: true, view: window, button: 0,
    clientX: left + width * (0.5 + 0.2 * Math.sin(turn)), clientY: top + height * (0.5 + 0.2 * Math.cos(turn)),
  });
  if (kind === "drag") map.dispatchEvent(new MouseEvent("mousedown", at(0)));
  const step = (now) => {
    times.push(now);
    const turn = (now - times[0]) / 500;
    if (kind === "drag") window.dispatchEvent(new MouseEvent("mousemove", at(turn)));
    else map.dispatchEvent(new WheelEvent("wheel", { ...at(turn), deltaY: -20 * Math.cos(turn) }));
    if (now - times[0] < seconds * 1000) return requestAnimationFrame(step);
    if (kind === "drag") window.dispatchEvent(new MouseEvent("mouseup", at(turn)));
    resolve(times);
  };
  requestAnimationFrame(step);
})
"""
RENDERER = """
() => {
  const gl = document.createElement("canvas").getContext("webgl2");
  return gl.getParameter(gl.getExtension("WEBGL_debug_renderer_info").UNMASKED_RENDERER_WEBGL);
}
"""


def tag_map(num_tags: int) -> dict[str, Any]:
    """An answer of ``/api/map/0``: clusters of tags, with counts by Zipf's law."""
    random = np.random.default_rng(7)
    centres = random.normal(0, 3, (CLUSTERS, 2))
    points = centres[random.integers(0, CLUSTERS, num_tags)] + random.normal(0, 0.5, (num_tags, 2))
    points = np.rint(65_535 * (points - points.min(0)) / np.ptp(points, axis=0).max()).astype(np.int64)
    return {
        "map": "benchmark",
        "num_pieces": 1,
        "num_tags": num_tags,
        "tags": [f"some_tag_{index}" for index in range(num_tags)],
        "categories": random.integers(0, 5, num_tags).tolist(),
        "counts": [max(5, 4_000_000 // (index + 1)) for index in range(num_tags)],
        "x": points[:, 0].tolist(),
        "y": points[:, 1].tolist(),
    }


def serve(page: Page, num_tags: int) -> None:
    """Answers the page's requests in this process."""
    info = {
        "embedding_dim": 128,
        "num_tags": num_tags,
        "categories": {},
        "ratings": [],
        "has_posts": False,
        "has_map": True,
    }
    answers = {
        "info": info,
        "map/0": tag_map(num_tags),
        "complete": {"completions": [], "known": [], "unknown": []},
        "similar": {"neighbours": []},
    }

    def answer(route: Route) -> None:
        path = route.request.url.removeprefix(URL).partition("?")[0]
        if path.startswith("api/"):
            route.fulfill(body=json.dumps(answers[path.removeprefix("api/")]), content_type="application/json")
        else:
            route.fulfill(path=STATIC / (path.removeprefix("static/") or "index.html"))

    page.route("**/*", answer)


def cpu_seconds(session: CDPSession) -> dict[str, float]:
    """CPU seconds of the browser's processes so far, by kind."""
    seconds: dict[str, float] = {}
    for process in session.send("SystemInfo.getProcessInfo")["processInfo"]:
        seconds[process["type"]] = seconds.get(process["type"], 0.0) + process["cpuTime"]
    return seconds


def figures(times: list[float], cpu_before: dict[str, float], cpu_after: dict[str, float]) -> dict[str, Any]:
    """Frames per second, the median and 95th percentile of frame times, and CPU time per frame; `times` in ms."""
    intervals = np.diff(times)
    cpu_ms = {
        kind: round(1000 * (cpu_after[kind] - cpu_before.get(kind, 0.0)) / len(intervals), 2) for kind in cpu_after
    }
    return {
        "num_frames": len(intervals),
        "frames_per_second": round(1000 * len(intervals) / (times[-1] - times[0]), 1),
        "median_ms": round(float(np.median(intervals)), 1),
        "p95_ms": round(float(np.percentile(intervals, 95)), 1),
        "share_on_time": round(float((intervals < 1.5 * FRAME_MS).mean()), 3),
        "cpu_ms_per_frame": round(sum(cpu_ms.values()), 1),
        "cpu_ms_per_frame_by_process": cpu_ms,
    }


def main() -> None:
    """Measures both ways of moving and writes ``results/page.json``."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium on the PATH; install your distribution's (apt-get install chromium)")
    num_tags = int(os.environ.get("BOORU_EMBED_MAP_TAGS", "30000"))
    load = os.getloadavg()[0]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        ) as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        serve(page, num_tags)
        page.goto(URL)
        page.wait_for_function("n => document.querySelector('.map')?.dataset.drawn === String(n)", arg=num_tags)
        page.locator(".map").scroll_into_view_if_needed()
        session = browser.new_browser_cdp_session()
        moves = {}
        for kind in ("wheel", "drag"):
            before = cpu_seconds(session)
            times = page.evaluate(DRIVE, [kind, SECONDS])
            moves[kind] = figures(times, before, cpu_seconds(session))
            print(kind, moves[kind])
        box = page.locator(".map").bounding_box()
        assert box is not None
        write(
            "page",
            {
                "num_tags": num_tags,
                "map_pixels": [round(box["width"]), round(box["height"])],
                "browser": f"Chromium {browser.version}",
                "renderer": page.evaluate(RENDERER),
                "load_average_before": round(load, 2),
                "moves": moves,
            },
        )


if __name__ == "__main__":
    main()

"""The tables of docs/reference/benchmarks.md, made from ``results/*.json``: ``python -m benchmarks.tables``.

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``, where NAME is its result file's. To add one: a
function in `TABLES`, and the two marks in the page.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from operator import truediv
from pathlib import Path
from typing import Any, Final

from benchmarks._results import RESULTS

PAGE: Final = Path(__file__).parent.parent / "docs/reference/benchmarks.md"
MOST: Final[Mapping[str, int]] = {"posts": 7, "tag_frequencies": 4, "packed_tokens": 5, "all of it": 15}
"""What a stage of the data path may cost, in bare parses."""
MOST_MB: Final = 1_500


def batches(result: Mapping[str, Any]) -> str:
    """Rates of each way to draw batches, by the records of a batch, and ours over each."""
    sizes = list(result["figures"])
    head = ["", *(f"{int(size):,}" for size in sizes), *(f"ours ÷ it, {int(size):,}" for size in sizes), "M tokens/s"]
    rows = []
    for name, first in result["figures"][sizes[0]].items():
        of_size = [result["figures"][size][name] for size in sizes]
        part = (
            "" if first["records_drawn_from"] == result["num_posts"] else f" ({first['records_drawn_from']:,} records)"
        )
        rows.append(
            [
                name + part,
                *(_short(figure["records_per_cpu_second"] / 1e6) for figure in of_size),
                *(_short(figure["ours_over_it"]) for figure in of_size),
                _short(max(figure["tokens_per_cpu_second"] for figure in of_size) / 1e6),
            ]
        )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if name != "torch")
    missing = ", ".join(name.replace("_", "-") for name in result["not_installed"])
    return "\n".join(
        [
            f"{result['num_posts']:,} records of {result['num_tokens'] / result['num_posts']:.1f} tokens, from a "
            f"packed file that is {result['packed_file']}. Millions of records per CPU second, by the records of a "
            "batch; M tokens/s is at the size where it is highest. Medians of "
            f"{result['rounds']} alternated rounds.",
            "",
            *_table(head, rows),
            "",
            f"Ours over the fastest loader as it ships: {_by_size(result['ours_over_fastest_peer'])}; over the fastest "
            f"made by hand: {_by_size(result['ours_over_fastest_by_hand'])}.",
            "",
            f"{_where(result)}, torch {result['torch']}. Load average at the start: {result['load_average_before']}. "
            f"{versions}." + (f" Not installed: {missing}." if missing else ""),
        ]
    )


def data_path(result: Mapping[str, Any]) -> str:
    """What each stage costs beside a bare parse and what it may cost, and other ways on a part."""
    stages, part = result["stages"], result["part"]
    head = ["", "CPU s", "÷ bare parse", "at most", "from … to", "peak MB", "at most"]
    rows = [
        [
            _way(name),
            *_cost(figures),
            str(MOST.get(name, "")),
            f"{min(figures['ratios']):.2f} … {max(figures['ratios']):.2f}",
            f"{figures['peak_mb']:,}",
            "" if name == "bare_parse" else f"{MOST_MB:,}",
        ]
        for name, figures in stages.items()
    ]
    part_rows = [
        [
            _way(name),
            *_cost(figures),
            f"{statistics.median(map(truediv, figures['ratios'], part['ours']['ratios'])):.2f}",
            f"{figures['peak_mb']:,}",
        ]
        for name, figures in part.items()
    ]
    missing = ", ".join(result["not_installed"])
    return "\n".join(
        [
            f"{result['num_posts']:,} posts, medians of {result['rounds']} alternated rounds:",
            "",
            *_table(head, rows),
            "",
            f"The last file alone, {result['num_posts_of_part']:,} posts, as often:",
            "",
            *_table(["", "CPU s", "÷ bare parse", "÷ ours", "peak MB"], part_rows),
            "",
            f"{_where(result)}. Load average at the start: {result['load_average_before']}."
            + (f" Not installed: {missing}." if missing else ""),
        ]
    )


def embedding(result: Mapping[str, Any]) -> str:
    """Posts a second of each way to embed, by corpus, and the first way, ours as it ships, over each."""
    parts = []
    for name, corpus in result["figures"].items():
        tables = {
            "Ours and theirs as they ship, all captions": corpus["as_they_ship"],
            "Each way, a tenth of the captions": corpus["each_way"],
        }
        parts.append(f"{name}: {corpus['captions']:,} captions of {corpus['mean_tags']:.1f} tags.")
        for title, figures in tables.items():
            rows = [
                [
                    way,
                    _short(figure["posts_per_cpu_second"]),
                    f"{figure['ours_over_it']:.2f}",
                    " … ".join(f"{ratio:.2f}" for ratio in figure["ours_over_it_rounds"]),
                    _short(figure["posts_per_second"]),
                    f"{figure['ours_over_it_wall']:.2f}",
                ]
                for way, figure in figures.items()
            ]
            head = [title, "posts per CPU s", "ours ÷ it", "from … to", "posts per s", "ours ÷ it"]
            parts += ["", *_table(head, rows), ""]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    missing = ", ".join(result["not_installed"])
    return "\n".join(
        [
            f"On {result['device']}, threads: {result['machine']['threads']}; alternated rounds.",
            "",
            *parts,
            f"{_where(result)}, torch {result['torch']}. Load average at the start: {result['load_average_before']}. "
            + (f"Not installed: {missing}." if missing else f"{versions}."),
        ]
    )


def training(result: Mapping[str, Any]) -> str:
    """Speed of a step of each way, and what each takes over ours, by the lengths of captions and the dtype."""
    parts = []
    for lengths, figures in result["figures"].items():
        rows = [
            [
                f"{name}, {dtype}",
                _short(of_way["cpu_seconds"]),
                f"{of_way['tokens_per_cpu_second']:,}",
                f"{of_way['tokens_per_second']:,}",
                f"{of_way['over_ours']:.2f}",
                f"{min(of_way['ratios']):.2f} … {max(of_way['ratios']):.2f}",
            ]
            for dtype, ways in figures["ways"].items()
            for name, of_way in ways.items()
        ]
        parts += [
            f"Lengths: {lengths}. {result['posts']} captions of {figures['tokens'] / result['posts']:.1f} tags a step; "
            f"padded, {figures['padding']} slots a token. Wanted of padded classes: {figures['target']} times ours.",
            "",
            *_table(["", "CPU s a step", "tokens per CPU s", "tokens per s", "CPU s ÷ ours", "from … to"], rows),
            "",
        ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = (
        f"{_where(result)}, torch {result['torch']}, threads: {result['machine']['threads']}. "
        f"Load average at the start: {result['load_average_before']}. Medians of {result['rounds']} alternated rounds. "
    )
    return "\n".join([*parts, where + (f"{versions}." if versions else "Not installed: transformers.")])


def search(result: Mapping[str, Any]) -> str:
    """Build time, size, recall and time of a query of each index, without a filter and with one."""
    figures = result["figures"]
    shares = list(next(iter(figures.values()))["filtered"])
    head = ["", "CPU s to build", "bytes a post", "breadth"]
    for asked in ("tags", "a post", *(f"tags, {float(share):.0%} pass" for share in shares)):
        head += [f"recall@10, {asked}", "ms"]
    rows = []
    for name, of_way in figures.items():
        row = [name, _short(of_way["build_seconds"]), _short(of_way["bytes_per_post"]), f"{of_way['breadth']:,}"]
        for figure in (of_way["typed"], of_way["posts"], *(of_way["filtered"][share] for share in shares)):
            row += [f"{figure['recall']:.3f}", _short(figure["milliseconds"])]
        rows.append(row)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join(
        [
            f"{result['num_posts']:,} generated posts, vectors of {result['dim']} numbers, {result['num_queries']} "
            "queries of each kind; CPU milliseconds a query.",
            "",
            *_table(head, rows),
            "",
            f"{_where(result)}, one thread. Load average at the start: {result['load_average_before']}. {versions}.",
        ]
    )


def page(result: Mapping[str, Any]) -> str:
    """Frames of the map, by the way in which it is moved."""
    head = ["moved by", "frames per s", "on time", "median, ms", "p95, ms", "CPU ms a frame"]
    rows = [
        [
            kind,
            f"{figure['frames_per_second']:.1f}",
            f"{100 * figure['share_on_time']:.0f}%",
            f"{figure['median_ms']:.1f}",
            f"{figure['p95_ms']:.1f}",
            f"{figure['cpu_ms_per_frame']:.1f}",
        ]
        for kind, figure in result["moves"].items()
    ]
    return "\n".join(
        [
            *_table(head, rows),
            "",
            f"{result['num_tags']:,} tags on {' by '.join(map(str, result['map_pixels']))} pixels, "
            f"{result['browser']}, drawn by {result['renderer']}. {_where(result)}, "
            f"{result['machine']['cores']} cores. Load average at the start: {result['load_average_before']}.",
        ]
    )


def serving(result: Mapping[str, Any]) -> str:
    """Latencies and requests a second, as people ask and flat out."""
    head = ["", "requests per s", "p50, ms", "p95, ms", "p99, ms", "server's CPU ms a request"]
    names = {"steady": f"{result['rate']} a second", "flat out": "as many as are answered"}
    rows = []
    for name, figure in result["figures"].items():
        cpu = 1000 * figure["server_cpu_seconds"] / figure["num_requests"]
        times = [f"{figure[f'p{share}_milliseconds']:.1f}" for share in (50, 95, 99)]
        rows.append([names[name], f"{figure['requests_per_second']:.0f}", *times, f"{cpu:.1f}"])
    return "\n".join(
        [
            *_table(head, rows),
            "",
            f"{result['num_tags']:,} tags, captions of {result['caption_tags']}, {result['num_clients']} clients, "
            f"{result['seconds']} s each. {_where(result)}, {result['machine']['cores']} cores that the clients share. "
            f"Load average at the start: {result['load_average_before']}.",
        ]
    )


TABLES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "data_path": data_path,
    "batches": batches,
    "embedding": embedding,
    "training": training,
    "search": search,
    "page": page,
    "serving": serving,
}


def rendered(page: str, results: Path = RESULTS) -> str:
    """The text of `page` with every table as the results say.

    Raises:
        ValueError: the page lacks the marks of a table.
    """
    for name, table in TABLES.items():
        text = table(json.loads((results / f"{name}.json").read_text(encoding="utf-8")))
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, num = between.subn(lambda marks, text=text: f"{marks[1]}\n{text}\n\n{marks[2]}", page)
        if num != 1:
            raise ValueError(f"{PAGE.name}: wants <!-- {name} --> and <!-- /{name} --> once, has {num}; add the marks")
    return page


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cost(figures: Mapping[str, Any]) -> tuple[str, str]:
    return _short(figures["cpu_seconds"]), f"{figures['ratio']:.2f}"


def _way(name: str) -> str:
    return name.replace("bare_parse", "bare parse")


def _short(number: float) -> str:
    """Three digits that count, no exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _by_size(ratios: Mapping[str, float | None]) -> str:
    shown = [f"{ratio:.1f} at {int(size):,}" for size, ratio in ratios.items() if ratio is not None]
    return ", ".join(shown) or "none was installed"


def _where(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    on = machine["gpu"] or machine["cpu"]
    return f"Commit `{result['commit']}`, {result['time'][:10]}, {on}"


def main() -> None:
    """Rewrites the page."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

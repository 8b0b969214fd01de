"""The pictures of docs/images that show Dagster's UI: `make screenshots` draws them anew, of the tests' small project.

Not a test, and by its name no part of the suite: its functions run in order, and each leaves what the next one shows.
"""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image
from playwright.sync_api import FloatRect, ViewportSize, expect

from tests.dagster.project_helpers import REPOSITORY
from tests.dagster.ui.browser_helpers import RUN_SECONDS, Ui

pytestmark = pytest.mark.timeout(2 * RUN_SECONDS)
IMAGES = REPOSITORY / "docs" / "images"
NUM_COLOURS = 128
MAX_BYTES = 300_000
SETTLE_MS = 2000
"""For what is drawn after the text that was waited for; the UI never stops asking, so its network is never idle."""
SIZE: ViewportSize = {"width": 1400, "height": 860}


def shoot(ui: Ui, name: str, clip: FloatRect | None = None) -> None:
    """Writes what the page shows as `name`, with few colours, to keep the file small."""
    ui.page.wait_for_timeout(SETTLE_MS)
    picture = Image.open(io.BytesIO(ui.page.screenshot(clip=clip, animations="disabled"))).convert("RGB")
    file = IMAGES / name
    picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    assert file.stat().st_size < MAX_BYTES


def test_lineage(ui: Ui) -> None:
    ui.page.set_viewport_size({"width": 2900, "height": 1600})
    ui.open_lineage("posts", "Downstream")
    expect(ui.page.get_by_text("Materialized", exact=True)).to_have_count(10)
    # Dagster fits the first level to the window: the rest comes into it by zooming out.
    ui.page.mouse.move(1500, 300)
    ui.page.keyboard.down("Control")
    ui.page.mouse.wheel(0, 120)
    ui.page.keyboard.up("Control")
    ui.page.wait_for_timeout(1000)
    boxes = ui.page.locator("foreignObject").evaluate_all(
        "nodes => nodes.map(n => n.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
    )
    left, top = (min(box[side] for box in boxes) - 12 for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) + 12 for side in (2, 3))
    shoot(ui, "lineage.png", {"x": left, "y": top, "width": right - left, "height": bottom - top})


def test_vocab_and_its_plot(ui: Ui) -> None:
    ui.page.set_viewport_size(SIZE)
    ui.open_asset("vocab")
    expect(ui.page.get_by_text("number of the tag within its category")).to_be_visible()
    shoot(ui, "ui-vocab.png")
    expect(ui.show("plot").get_by_role("img", name="vocab")).to_be_visible()
    shoot(ui, "ui-vocab-plot.png")


def test_automation(ui: Ui) -> None:
    ui.page.set_viewport_size({"width": 1400, "height": 640})
    ui.page.goto("/automation")
    expect(ui.page.get_by_text("rebuild_what_changed").first).to_be_visible()
    shoot(ui, "ui-automation.png")


def test_checks(ui: Ui) -> None:
    ui.page.set_viewport_size(SIZE)
    ui.open_asset("evaluation", "Checks")
    expect(ui.page.get_by_text("Passed", exact=True)).to_be_visible()
    shoot(ui, "ui-checks.png")


def test_an_edit_its_badge_and_the_run(ui: Ui) -> None:
    ui.page.set_viewport_size(SIZE)
    ui.open_lineage("vocab", "Downstream")
    ui.project.set(keep_percentile=90, num_epochs=1)
    expect(ui.badge).to_be_visible()
    ui.badge.hover()
    expect(ui.page.get_by_text("has a new data version")).to_be_visible()
    shoot(ui, "ui-stale.png")
    ui.project.set(keep_percentile=90, num_epochs=60)  # long enough to be seen at it
    ui.launch("Materialize all")
    ui.page.reload()  # without the notification, which covers the last lines
    expect(ui.page.get_by_text(re.compile(r"loss .* ETA")).nth(5)).to_be_visible(timeout=RUN_SECONDS * 1000)
    shoot(ui, "ui-run.png")


def test_why_it_was_rebuilt(ui: Ui) -> None:
    ui.page.set_viewport_size({"width": 1700, "height": 860})  # else the line is cut off
    ui.open_asset("vocab")
    row = ui.metadata("why")
    expect(row).to_contain_text("keep_percentile 95.0 → 90.0")
    row.scroll_into_view_if_needed()
    box = row.bounding_box()
    assert box is not None
    above = 140  # the section's title and the names of the columns
    shoot(ui, "ui-why.png", {**box, "y": box["y"] - above, "height": box["height"] + above})

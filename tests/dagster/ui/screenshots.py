"""The pictures in docs/images that show Dagster's UI: `make screenshots` draws them anew, of the tests' small project.

Not a test, and by its name no part of the suite.
"""

from __future__ import annotations

import io

import pytest
from browser_helpers import Ui, expect
from PIL import Image
from playwright.sync_api import FloatRect
from project_helpers import REPOSITORY

pytestmark = pytest.mark.timeout(600)
IMAGES = REPOSITORY / "docs" / "images"
NUM_COLOURS = 128
MAX_BYTES = 300_000


def shoot(ui: Ui, name: str, clip: FloatRect | None = None) -> None:
    """Writes what the page shows as `name`, with few colours, to keep the file small."""
    ui.page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(ui.page.screenshot(clip=clip, animations="disabled"))).convert("RGB")
    file = IMAGES / name
    picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    assert file.stat().st_size < MAX_BYTES


def test_lineage(ui: Ui) -> None:
    ui.page.set_viewport_size({"width": 2600, "height": 1250})
    ui.open_lineage("checkpoint", "Upstream")
    expect(ui.page.get_by_text("Materialized", exact=True)).to_have_count(5)
    boxes = ui.page.locator("foreignObject").evaluate_all(
        "nodes => nodes.map(n => n.getBoundingClientRect()).map(b => [b.left, b.top, b.right, b.bottom])"
    )
    left, top = (min(box[side] for box in boxes) - 12 for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) + 12 for side in (2, 3))
    shoot(ui, "lineage.png", {"x": left, "y": top, "width": right - left, "height": bottom - top})

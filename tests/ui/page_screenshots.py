"""`make screenshots` renders the pictures of the page in docs/images, with the model that `make run` trained.

This is not a test; its name keeps it out of the suite.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from booru_embed_core.web.app import create_app
from booru_embed_core.web.served import Loading
from booru_embed_core.web.sources import Sources

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::booru_embed_core.embedder.embedder.UnknownTagsWarning"),
]
ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "data/warehouse/checkpoint/current"
IMAGES = ROOT / "docs/images"
NUM_COLOURS = 256
MAX_BYTES = 300_000
CAPTION = "1girl,long_hair,touhou"
NUM_POINTS = "() => fetch('api/map/0').then((answer) => answer.json()).then((piece) => piece.num_tags)"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    if not CHECKPOINT.exists():
        pytest.fail(f"{CHECKPOINT} is missing; `make run` trains it")
    app = create_app(Loading(Sources(CHECKPOINT).load))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def shoot(page: Page, name: str) -> None:
    """Writes a screenshot as `name`, with few colours to keep the file small."""
    page.wait_for_load_state("networkidle")
    picture = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    picture.quantize(NUM_COLOURS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    assert (IMAGES / name).stat().st_size < MAX_BYTES


@pytest.mark.parametrize(
    ("name", "scheme", "width", "height"),
    [("page.png", "light", 1280, 1180), ("page_dark.png", "dark", 1280, 1180), ("page_narrow.png", "light", 360, 780)],
)
def test_page(browser: Browser, url: str, name: str, scheme: str, width: int, height: int) -> None:
    with browser.new_context(
        base_url=url,
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
    ) as context:
        page = context.new_page()
        page.goto(f"/#tags={CAPTION}")
        expect(page.locator(".columns .row").first).to_be_visible()
        expect(page.get_by_role("application")).to_have_attribute("data-drawn", str(page.evaluate(NUM_POINTS)))
        page.get_by_title("Show the tags near long_hair").click()
        expect(page.locator(".neighbours .row").first).to_be_visible()
        if name == "page.png":
            page.get_by_role("combobox", name="Add a tag").press_sequentially("s")
            expect(page.get_by_role("option").first).to_be_visible()
        shoot(page, name)

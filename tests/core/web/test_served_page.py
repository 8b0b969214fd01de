"""The page on the real server, with a real model and posts: what `tests/ui` makes up is what the server says."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import uvicorn
from playwright.sync_api import Page, expect

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.web.app import create_app
from booru_embed_core.web.completions import Completer
from booru_embed_core.web.served import Loading, Served
from booru_embed_core.web.tag_map import tag_map
from tests.chromium_helpers import running_browser

pytestmark = pytest.mark.filterwarnings("ignore::booru_embed_core.embedder.embedder.UnknownTagsWarning")
SHOWN_SECONDS = 60


@pytest.fixture(scope="module")
def may_load() -> threading.Event:
    """The model is there only once this is set."""
    return threading.Event()


@pytest.fixture(scope="module")
def url(search_embedder: BooruEmbedder, post_search: PostSearch, may_load: threading.Event) -> Iterator[str]:
    """Where the page is served."""

    def load() -> Served:
        may_load.wait(SHOWN_SECONDS)
        return Served(search_embedder, Completer(search_embedder), post_search, tag_map(search_embedder))

    server = uvicorn.Server(uvicorn.Config(create_app(Loading(load)), port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        threading.Event().wait(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    may_load.set()
    server.should_exit = True
    thread.join()


@pytest.fixture
def page(url: str) -> Iterator[Page]:
    with (
        running_browser(SHOWN_SECONDS) as browser,
        browser.new_context(base_url=url, reduced_motion="reduce") as context,
    ):
        context.set_default_timeout(SHOWN_SECONDS * 1000)
        page = context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        yield page
        assert [text for text in said if "503" not in text] == []


@pytest.mark.slow
def test_from_a_loading_server_to_the_posts_of_a_caption(
    page: Page, search_embedder: BooruEmbedder, may_load: threading.Event
) -> None:
    vocab = search_embedder.vocab
    first, second = vocab.tags[0], vocab.tags[1]
    page.goto(f"/#tags={first},nosuchtag")
    expect(page.get_by_text("the model is loading").first).to_be_visible()
    may_load.set()
    expect(page.locator(".chip .name")).to_contain_text([first, "nosuchtag unknown"])
    expect(page.locator(".columns .row").first).to_be_visible()
    assert first not in page.locator(".columns .row .name").all_text_contents()
    expect(page.get_by_role("application")).to_have_attribute("data-drawn", str(vocab.num_tags))
    field = page.get_by_role("combobox", name="Add a tag")
    field.press_sequentially(second)
    expect(page.get_by_role("option").first.locator(".name")).to_have_text(second)
    field.press("Enter")
    expect(page.locator(".chip .name")).to_contain_text([first, "nosuchtag unknown", second])
    page.get_by_role("switch", name="ratings").check()
    expect(page.get_by_role("link", name="on Danbooru").first).to_be_visible()
    page.get_by_title(f"Show the tags near {first}").click()
    expect(page.locator(".neighbours .row").first).to_be_visible()
    expect(page.get_by_role("alert")).to_have_count(0)

"""One browser per module, since Playwright keeps an event loop while it lives, and one page per test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.chromium_helpers import running_browser
from tests.ui.page_helpers import SHOWN_SECONDS, URL, StandIn


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser(SHOWN_SECONDS) as running:
        yield running


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def page(browser: Browser, stand_in: StandIn) -> Iterator[Page]:
    """A page that is not open yet; at the end its console must show no error, such as a CSP violation."""
    with browser.new_context(base_url=URL, viewport={"width": 1280, "height": 900}, reduced_motion="reduce") as context:
        context.set_default_timeout(SHOWN_SECONDS * 1000)
        context.route("**/*", stand_in.handle)
        page = context.new_page()
        said: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        yield page
        assert [text for text in said if not (stand_in.has_failed and "Failed to load resource" in text)] == []

"""The list of tags below a text field, in Chromium; what it imports from ComfyUI's page is stood in for.

``docs/guides/comfyui.md`` says which page of ComfyUI it was tried in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import parse_qs, urlparse

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.chromium_helpers import running_browser
from tests.integrations.comfyui_helpers import PACK

URL = "http://comfyui.test/"
SCRIPT = "extensions/booru_embed/autocomplete.js"
PAGE = f"""<!doctype html><textarea id="caption"></textarea><textarea id="other"></textarea>
<script type="module">
  import {{ app }} from "./scripts/app.js";
  import "./{SCRIPT}";
  const widget = (name, id) => ({{ name, element: document.getElementById(id) }});
  const loader = {{ widgets: [{{ name: "checkpoint", value: "mine" }}] }};
  const graph = {{ links: {{ 7: {{ origin_id: 1 }} }}, getNodeById: () => loader }};
  const inputs = [{{ name: "model", link: 7 }}];
  app.extension.setup();
  app.extension.nodeCreated({{ comfyClass: "BooruEmbedFill", widgets: [widget("caption", "caption")], inputs, graph }});
  app.extension.nodeCreated({{ comfyClass: "CLIPTextEncode", widgets: [widget("caption", "other")], inputs, graph }});
  document.body.dataset.ready = "yes";
</script>"""
MODULES = {
    "scripts/app.js": "export const app = { registerExtension(one) { app.extension = one; } };",
    "scripts/api.js": "export const api = { fetchApi: (path) => fetch(path) };",
    SCRIPT: (PACK / "web" / "autocomplete.js").read_text(encoding="utf-8"),
}
TAGS = [
    {"tag": "cat_ears", "category": "general", "count": 3435, "insert": "cat ears", "typed": 2, "alias": None},
    {"tag": "cat_girl", "category": "general", "count": 12, "insert": "cat girl", "typed": 2, "alias": "catgirl"},
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser(20) as running:
        yield running


@pytest.fixture
def asked() -> list[dict[str, list[str]]]:
    return []


@pytest.fixture
def page(browser: Browser, asked: list[dict[str, list[str]]]) -> Iterator[Page]:
    def answer(route: Route) -> None:
        url = urlparse(route.request.url)
        path = url.path[1:]
        if path == "booru_embed/tags":
            asked.append(parse_qs(url.query))
            is_error = "nothing" in asked[-1]["text"][0]
            body = json.dumps({"error": "no checkpoint"} if is_error else TAGS)
            route.fulfill(body=body, content_type="application/json", status=400 if is_error else 200)
        elif path in MODULES:
            route.fulfill(body=MODULES[path], content_type="text/javascript")
        else:
            route.fulfill(body=PAGE, content_type="text/html")

    page = browser.new_page()
    page.route("**/*", answer)
    page.goto(URL)
    page.locator("[data-ready]").wait_for()
    yield page
    page.close()


def test_tags_are_listed_and_taken(page: Page, asked: list[dict[str, list[str]]]) -> None:
    caption = page.locator("#caption")
    caption.press_sequentially("1girl, ca")
    expect(page.get_by_role("option")).to_have_text(["cat_ears3,435", "catgirl → cat_girl12"])
    assert asked[-1] == {"text": ["1girl, ca"], "checkpoint": ["mine"]}
    caption.press("ArrowDown")
    caption.press("Enter")
    expect(caption).to_have_value("1girl, cat girl, ")
    expect(page.get_by_role("listbox", include_hidden=True)).to_be_hidden()
    caption.press_sequentially("ca")
    page.get_by_role("option").first.click()
    expect(caption).to_have_value("1girl, cat girl, cat ears, ")
    caption.fill("")
    caption.press_sequentially("1girl ca")  # spaces separate: the tag stays one word
    page.get_by_role("option").first.wait_for()
    caption.press("Tab")
    expect(caption).to_have_value("1girl cat_ears ")


def test_errors_and_other_nodes_list_nothing(page: Page, asked: list[dict[str, list[str]]]) -> None:
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    with page.expect_console_message(lambda message: "booru-embed: no checkpoint" in message.text):
        page.locator("#caption").press_sequentially("nothing")
    expect(page.get_by_role("listbox", include_hidden=True)).to_be_hidden()
    num_asked = len(asked)
    page.locator("#other").press_sequentially("ca")
    page.wait_for_timeout(300)  # more than the extension waits before it asks
    assert len(asked) == num_asked

"""The page without a server, in Chromium: it reads captions and completes them as the library does."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export import demo
from booru_embed_core.export.demo import vocab_values
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.model.encoder import SUMMARY_ID
from booru_embed_core.schema import Category, ExportFormat
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab
from tests.chromium_helpers import running_browser
from tests.core.export.demo_helpers import RUNTIME_VARIABLE, StandInNetwork, real_runtime, stand_in_runtime
from tests.core.model_helpers import Trained

SHOWN_SECONDS = 60
CAPTIONS = ("", "1girl, cat ears", "hatsune miku, (tail:1.5)", "sword, armor, -cape", "whiskers")
ODD = (
    (":3", Category.GENERAL, 90), (">:(", Category.GENERAL, 80), (";)", Category.GENERAL, 70),
    ("cat", Category.GENERAL, 60), ("cat_ears", Category.GENERAL, 50), ("long_hair", Category.GENERAL, 40),
    ("t-shirt", Category.GENERAL, 35), ("no_humans", Category.GENERAL, 30), ("^_^", Category.GENERAL, 20),
    ("hat", Category.GENERAL, 15), ("hat_ribbon", Category.GENERAL, 14), ("blonde_hair", Category.GENERAL, 13),
    ("river_spirit", Category.ARTIST, 9), ("steins;gate", Category.COPYRIGHT, 50), ("re:zero", Category.COPYRIGHT, 40),
    ("river_spirit", Category.COPYRIGHT, 12), ("tracer_(overwatch)", Category.CHARACTER, 30),
    ("Mixed_Case", Category.CHARACTER, 20), ("highres", Category.META, 99),
)  # fmt: skip
WAYS = (
    "{}", "({}:1.2)", "(({}))", "[{}]", "{{{}}}", '"{}"', "{}.", "{}++", "{}:1.3", "-{}", "({}:0)", "general:{}",
    "ch:{}", "({}",
)  # fmt: skip


@pytest.fixture(scope="module")
def source(trained: Trained) -> CheckpointSource:
    """A checkpoint with implications."""
    found = CheckpointSource.open(trained.checkpoint)
    index = found.vocab.tags.index
    pairs = [("cat_ears", "tail"), ("whiskers", "cat_ears"), ("cape", "armor")]
    causes, effects = (np.array([index(pair[end]) for pair in pairs]) for end in (0, 1))
    implications = Implications.of_pairs(causes, effects, found.vocab.num_tags)
    return dataclasses.replace(found, vocab=dataclasses.replace(found.vocab, implications=implications))


@pytest.fixture(scope="module")
def folder(source: CheckpointSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("demo")
    given = dataclasses.replace(source, runtime=stand_in_runtime(work / "runtime"), license_id="cc0-1.0")
    export(ExportFormat.DEMO, given, work / "page")
    return work / "page"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser(SHOWN_SECONDS) as running:
        yield running


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    """The page, loaded; at the end its console must be silent, and nothing else than the folder asked for."""
    with browser.new_context(viewport={"width": 1280, "height": 800}) as context:
        page = context.new_page()
        said: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        expect(page.locator("#columns")).to_have_attribute("aria-busy", "false")
        yield page
        assert said == []
        base = url.rpartition("/")[0]
        assert [one for one in asked if not one.startswith((base, "data:"))] == []


@pytest.fixture
def page(browser: Browser, folder: Path) -> Iterator[Page]:
    with opened(browser, (folder / "index.html").as_uri()) as page:
        yield page


def completions(page: Page, caption: str, category: str = "general") -> list[str]:
    """The names in the column of `category`."""
    page.get_by_role("combobox").fill(caption)
    expect(page.locator("#columns")).to_have_attribute("aria-busy", "false")
    return page.locator(f"#columns .{category} .row .name").all_inner_texts()


def test_the_folder_says_what_it_is(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {
        "index.html", "vocab.js", "runtime.js", "network.js", "README.md", "LICENSES"
    }  # fmt: skip
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert "\nsdk: static\napp_file: index.html\nlicense: cc0-1.0\n---\n" in text
    assert "in float32." in text
    assert "onnxruntime-web 1.30.0" in (folder / "LICENSES").read_text(encoding="utf-8")


def test_large_networks_are_rounded(
    source: CheckpointSource, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "MAX_FLOAT_BYTES", 1000)
    export(ExportFormat.DEMO, dataclasses.replace(source, runtime=folder.parent / "runtime"), tmp_path / "page")
    assert "in int8." in (tmp_path / "page" / "README.md").read_text(encoding="utf-8")
    sizes = [(one / "network.js").stat().st_size for one in (tmp_path / "page", folder)]
    assert sizes[0] < 0.6 * sizes[1]


def test_completions_are_those_of_the_library(page: Page, source: CheckpointSource) -> None:
    vocab = source.vocab
    network = StandInNetwork(vocab.num_special, vocab.num_tags, SUMMARY_ID)
    embedder = BooruEmbedder(network, source.config, vocab)
    for caption in CAPTIONS:
        expected = [one.tag for one in embedder.complete(caption, 10, "general")]
        assert completions(page, caption) == expected
        assert "tail" not in expected or "cat" not in caption
        expected = [one.tag for one in embedder.complete(caption, 10, "character")]
        assert completions(page, caption, "character") == expected
    found = page.evaluate(
        "async () => (await demo.completer.complete(demo.read(demo.names, '1girl'), 20)).slice(0, 20)"
    )
    for one, other in zip(found, embedder.complete("1girl", 20), strict=True):
        assert vocab.tags[one["tag"]] == other.tag
        assert one["probability"] == pytest.approx(other.probability, rel=1e-5)


def test_a_network_that_reads_no_implied_tags_gets_none(page: Page, source: CheckpointSource) -> None:
    splits = source.config.splits.model_copy(update={"drop_implied": True})
    config = source.config.model_copy(update={"splits": splits})
    vocab = source.vocab
    embedder = BooruEmbedder(StandInNetwork(vocab.num_special, vocab.num_tags, SUMMARY_ID), config, vocab)
    page.evaluate("() => { booruEmbed.vocab.drops_implied = true; }")
    caption = "whiskers, tail, 1girl"
    expected = [one.tag for one in embedder.complete(caption, 10, "general")]
    assert completions(page, caption) == expected
    page.evaluate("() => { booruEmbed.vocab.drops_implied = false; }")
    assert completions(page, caption + ",") != expected


def test_the_page_shows_how_a_caption_is_read_and_takes_suggestions(page: Page) -> None:
    caption = page.get_by_role("combobox")
    caption.fill("cat ears, (solo:1.5), -hat, -cape, nonsense")
    assert page.locator("#chips li").all_inner_texts() == [
        "cat_ears", "solo \u00d7 1.5", "cape excluded", "hat unknown", "nonsense unknown"
    ]  # fmt: skip
    expect(page.locator("#implied")).to_have_text("Left out, since the caption implies them: tail")
    caption.fill("cat ears, (tra")
    expect(page.get_by_role("option")).to_have_count(1)
    caption.press("ArrowDown")
    caption.press("Enter")
    expect(caption).to_have_value("cat ears, (tracer \\(overwatch\\), ")
    expect(page.get_by_role("listbox")).to_be_hidden()
    page.get_by_role("button", name="Clear").click()
    expect(caption).to_have_value("")
    page.locator("#columns .row").first.click()
    expect(page.locator("#chips li")).to_have_count(1)


def test_captions_are_read_as_the_library_reads_them(page: Page) -> None:
    """The rules that docs/guides/hub.md names, in captions of one tag and of several."""
    tags, categories, counts = zip(*ODD, strict=True)
    ids = np.array([list(Category).index(category) for category in categories], np.uint8)
    aliases = {Category.GENERAL: {"longhair": "long_hair", "cat-eared": "cat_ears", "smile;": "hat"}}
    vocab = Vocab(tags, ids, np.array(counts), aliases=aliases)
    tokenizer = Tokenizer(vocab)
    numbers = random.Random(5)
    names = [*tokenizer.spellings, "longhair", "cat-eared", "no_such_tag"]
    written = [*names, *(name.replace("_", " ") for name in names), *(name.replace("_", "-") for name in names)]
    written += [name.upper() for name in names] + [name.replace("(", "\\(").replace(")", "\\)") for name in names]
    captions = [way.format(name) for way in WAYS for name in written]
    captions.remove("-;\\)")  # the library reads no tag here
    for separator in (", ", " ", "\n", "; ", "\uff0c", " | "):
        captions += [separator.join(numbers.choices(names, k=4)) for _ in range(25)]
    captions += ["cat ears blonde hair hat ribbon", "(cat ears, hat:1.2), :3", "cat, (cat:1.3)", "cat, (cat:0)"]
    found: list[dict[str, Any]] = page.evaluate(
        "([values, captions]) => { const names = new demo.Names(values);"
        " return captions.map((caption) => demo.read(names, caption)); }",
        [vocab_values(vocab, False), captions],
    )
    different = []
    for caption, reading in zip(captions, found, strict=True):
        encoded = tokenizer.encode(caption)
        tags_read = [token_id - vocab.num_special for token_id in encoded.token_ids]
        weights = pytest.approx(list(encoded.weights) or [1] * len(tags_read), rel=1e-5)
        excluded = [token_id - vocab.num_special for token_id in encoded.excluded]
        same = (reading["tags"], reading["unknown"], reading["excluded"]) == (tags_read, [*encoded.unknown], excluded)
        if not same or reading["weights"] != weights:
            different.append((caption, reading, encoded))
    assert len(captions) > 1500
    assert different == []


@pytest.mark.timeout(300)
def test_the_real_runtime_gives_the_tags_of_the_library(
    source: CheckpointSource, browser: Browser, tmp_path: Path
) -> None:
    """From a plain file server, and from the file itself."""
    runtime = real_runtime()
    if runtime is None:
        pytest.skip(f"{RUNTIME_VARIABLE} names no onnxruntime-web: `npm pack onnxruntime-web@1.30.0` writes one")
    export(ExportFormat.DEMO, dataclasses.replace(source, runtime=runtime), tmp_path / "page")
    handler = partial(QuietHandler, directory=str(tmp_path / "page"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for url in (f"http://127.0.0.1:{server.server_port}/", (tmp_path / "page" / "index.html").as_uri()):
            with opened(browser, url) as page:
                for caption in CAPTIONS:
                    for category in ("general", "character"):
                        expected = [one.tag for one in source.embedder.complete(caption, 10, category)]
                        assert completions(page, caption, category) == expected
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    """Python's own file server."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        pass

    def do_GET(self) -> None:
        if self.path == "/favicon.ico":
            self.send_error(404)
        else:
            super().do_GET()

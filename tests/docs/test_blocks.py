"""Every code block of the docs runs on a small trained project, in the page's order, or gives a reason not to."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import shutil
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.settings import load_settings
from booru_embed_core.training.loop import train
from booru_embed_core.training.step import NonFiniteLossError
from tests.dagster.project_helpers import SAMPLE, Project, failure, make_project, rows
from tests.docs.doc_helpers import PAGES, ROOT, SERVER, Block, blocks_of, check, run, serving

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
NOT_RUN = 25
"""Blocks with ``<!-- not run: … -->``; before you raise it, see what of the new block can run."""
ASSETS = "posts,tag_frequencies,vocab,packed_tokens,checkpoint,post_embeddings"
SHORTER = {"condition-a-model.md": {"= 3000, 600, 64": "= 400, 150, 64", "lr=2e-3": "lr=1e-2"}}
"""Replacements that shorten what takes a minute in a guide."""
SERVED = ("http-clients.md",)
"""Pages whose blocks call one server."""


@pytest.fixture(scope="session")
def trained_project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project trained for one epoch, with the embedding dimensions of the bundled settings; copy it."""
    made = make_project(tmp_path_factory.mktemp("docs") / "project")
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as source, made.export_file.open("a", encoding="utf-8") as export:
        # The docs name this tag, which is rare among the first posts.
        export.writelines(itertools.islice((line for line in source if "hatsune_miku" in line), 30))
    made.set(keep_percentile=100)
    text = made.settings_file.read_text(encoding="utf-8")
    text = text.replace("embedding_dim = 16", "embedding_dim = 128").replace("[8]", "[16, 32, 64]")
    made.settings_file.write_text(text, encoding="utf-8")
    result = made.materialize(ASSETS)
    assert result.success, failure(result)
    return made


@pytest.fixture
def workplace(trained_project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, with what a reader has after ``make run`` and an export of their own."""
    shutil.copytree(trained_project.folder / "warehouse", tmp_path / "data/warehouse", symlinks=True)
    shutil.copytree(tmp_path / "data/warehouse/posts/current", tmp_path / "posts")
    settings = trained_project.settings_file.read_text(encoding="utf-8")
    settings = settings.replace('"warehouse"', '"data/warehouse"').replace("export/*.csv", "exports/*.csv")
    (tmp_path / "settings.toml").write_text(settings, encoding="utf-8")
    (tmp_path / "exports").mkdir()
    posts = rows(trained_project)
    for number, post in enumerate(posts):
        post["score"] = str(number % 40)
    for file in ("my_posts.csv", "exports/posts-1.csv"):
        with (tmp_path / file).open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, posts[0])
            writer.writeheader()
            writer.writerows(posts[:100])
    with gzip.open(tmp_path / "exports/posts-2.json.gz", "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(post) + "\n" for post in posts[100:200])
    (tmp_path / "e621").mkdir()
    with gzip.open(tmp_path / "e621/posts.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write("id,rating,tag_string,description,is_deleted,is_flagged,score\n")
        stream.write('1,s,big_hat lynx,"two\nlines, ""quoted""",f,f,3\n2,q,lynx,,t,f,0\n')
    with gzip.open(tmp_path / "e621/tags.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write("id,name,category,post_count\n1,lynx,5,9\n2,big_hat,0,9\n")
    with gzip.open(tmp_path / "tags.csv.gz", "wt", encoding="utf-8") as stream:
        stream.write("tag,category,post_count,aliases\n1girl,0,9,1girls\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)  # the commands of the package
    return tmp_path


def fail_to_train(workplace: Path) -> None:
    """Leaves ``work/failed.pt``, from a loss that is non-finite after a step or two."""
    made = workplace / "data/warehouse"
    packed, vocab = made / "packed_tokens/current/tokens.safetensors", made / "vocab/current"
    settings = load_settings()
    too_high = settings.training.model_copy(update={"learning_rate": 1e30, "warmup_share": 0.0})
    with pytest.raises(NonFiniteLossError):
        train(packed, vocab, workplace / "work", workplace / "out", settings.model, too_high)


def place(block: Block) -> str:
    return f"{block.page.relative_to(ROOT).as_posix()}:{block.line}"


@pytest.mark.parametrize("block", BLOCKS, ids=place)
def test_a_block_is_what_it_says(block: Block) -> None:
    check(block)


def test_no_block_is_skipped_in_silence() -> None:
    skipped = Counter(block.reason for block in BLOCKS if block.reason)
    assert skipped.total() == NOT_RUN, skipped
    assert skipped.total() < len(BLOCKS) / 2


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if not block.reason}), ids=lambda p: p.stem)
def test_blocks_run(page: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    if page.name == "interruptions.md":
        fail_to_train(workplace)
    with serving(["booru-embed", "serve"]) if page.name in SERVED else nullcontext(SERVER) as address:
        for block in blocks_of(page):
            code = block.code.replace(SERVER, address)
            for long, short in SHORTER.get(page.name, {}).items():
                code = code.replace(long, short)
            if block.reason is None:
                run(block._replace(code=code), names, monkeypatch)
    if page.name == "condition-a-model.md":
        assert names["num_steps"] == 150
        assert names["with_captions"][-1][1] < 0.97 * names["without"][-1][1]


def test_a_block_without_a_reason_is_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    fence = "`" * 3
    notes = ["<!-- not run: needs a cluster -->", "<!-- not run: -->", "<!-- not run -->", ""]
    page.write_text("\n\n".join(f"{note}\n{fence}sh\nls\n{fence}" for note in notes), encoding="utf-8")
    assert [block.reason for block in blocks_of(page)] == ["needs a cluster", None, None, None]
    with pytest.raises(AssertionError, match=r"page\.md:8: ls does not run here: give the reason"):
        run(blocks_of(page)[1], {}, pytest.MonkeyPatch())

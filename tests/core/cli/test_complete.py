"""``booru-embed complete | fill | similar`` print what the library returns."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.implications import Implications
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained


def test_what_was_read_otherwise_than_it_stands_is_noted(run: Run, trained: Trained) -> None:
    asked = ("1girl, (cat ears:1.0)", "--checkpoint", trained.checkpoint, "-k", 2)
    plain, noted = run("complete", "1girl cat_ears", *asked[1:]), run("complete", *asked)
    assert (noted.code, noted.out) == (0, plain.out)
    assert noted.err == "note: (cat ears:1.0): read as cat_ears\n"
    (row,) = run("embed", *asked[:3], "--json").json["embeddings"]
    assert run("complete", *asked, "--json").json["notes"] == row["notes"] == ["(cat ears:1.0): read as cat_ears"]


def test_complete_is_the_librarys(run: Run, trained: Trained) -> None:
    embedder = BooruEmbedder.load(trained.checkpoint, precision="fp32")
    found = run("complete", "1girl cat_ears", "-c", trained.checkpoint, "--json", "-k", 5, "--category", "general")
    wanted = embedder.complete("1girl cat_ears", k=5, category="general")
    assert found.json["unknown"] == []
    assert [list(one.values())[:2] for one in found.json["completions"]] == [[*one[:2]] for one in wanted]
    assert [one["probability"] for one in found.json["completions"]] == pytest.approx([one[2] for one in wanted])
    assert set(found.json["completions"][0]) == {"tag", "category", "probability"}
    table = run("complete", "1girl cat_ears", "-c", trained.checkpoint, "-k", 5, "--category", "general")
    assert [line.split()[1:] for line in table.out.splitlines()] == [["general", one.tag] for one in wanted]
    unknown = run("complete", "solo xyzzy", "-c", trained.checkpoint, "--json")
    assert unknown.json["unknown"] == ["xyzzy"]
    assert "xyzzy" in unknown.err
    every = run("complete", " ".join(embedder.vocab.tags), "-c", trained.checkpoint)
    assert (every.code, every.out) == (0, "")


def test_similar_is_the_librarys(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    found = run("similar", "cat ears", "-c", trained.checkpoint, "--json", "-k", 4, "--category", "character")
    wanted = embedder.similar_tags("cat_ears", k=4, category="character")
    assert found.json["tag"] == "cat ears"
    assert [tuple(one.values()) for one in found.json["neighbours"]] == wanted
    table = run("similar", "cat ears", "-c", trained.checkpoint, "-k", 4)
    assert len(table.out.splitlines()) == 4


def test_a_caption_may_begin_with_a_minus(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    asked = ("-c", trained.checkpoint, "--json")
    for options in (("-tail, 1girl", "-k", 99), ("-k99", "-tail, 1girl")):
        names = {one["tag"] for one in run("complete", *options, *asked).json["completions"]}
        assert names == {one.tag for one in embedder.complete("-tail, 1girl", 99)}
        assert "tail" not in names
    assert run("fill", "-tail, 1girl", "-n", 2, *asked).json["tags"][0]["tag"] == "1girl"
    assert run("similar", "-cat_ears", "-k", 2, *asked).failed(1).startswith("'-cat_ears' is 0 tags, not one")
    assert "No such option" in run("complete", "--blorb", *asked).failed(2)


def with_implications(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the checkpoint, in whose vocabulary bell implies collar."""
    copy = tmp_path / "checkpoint"
    shutil.copytree(trained.checkpoint, copy)
    vocab = trained.corpus.vocab
    pair = [np.array([vocab.tags.index(tag)]) for tag in ("bell", "collar")]
    save_vocab(replace(vocab, implications=Implications.of_pairs(*pair, vocab.num_tags)), copy)
    return copy


def test_complete_leaves_out_what_follows_and_what_is_banned(run: Run, trained: Trained, tmp_path: Path) -> None:
    checkpoint = with_implications(trained, tmp_path)
    found = run("complete", "1girl bell", "-c", checkpoint, "--json", "-k", 99, "--ban", "*_ears", "--ban", "blorb")
    names = {one["tag"] for one in found.json["completions"]}
    assert not {"collar", "cat_ears"} & names
    assert found.json["implied"] == ["collar"]
    assert found.err.startswith("warning: banned: blorb: no tag matches; nothing is banned by it. ")
    kept = run("complete", "1girl bell", "-c", checkpoint, "--json", "-k", 99, "--implied", "keep")
    assert {"collar", "cat_ears"} <= {one["tag"] for one in kept.json["completions"]}
    assert kept.json["implied"] == ["collar"]
    table = run("complete", "1girl bell", "-c", checkpoint)
    assert table.err == "note: left out, since the caption implies them: collar; --implied keep offers them\n"


def test_fill_is_the_librarys(run: Run, trained: Trained) -> None:
    embedder = BooruEmbedder.load(trained.checkpoint, precision="fp32")
    asked = ("fill", "(cat ears:1.2), 1girl", "-c", trained.checkpoint, "-n", 4, "--seed", 5, "--limit", "general=2")
    wanted = embedder.fill("(cat ears:1.2), 1girl", 4, seed=5, limits={"general": 2})
    found = run(*asked)
    assert (found.code, found.out) == (0, wanted.prompt() + "\n")
    assert found.err == "note: (cat ears:1.2): read as cat_ears with weight 1.2\n"
    as_json = run(*asked, "--json", "--dialect", "novelai").json
    assert as_json["prompt"] == wanted.prompt("novelai")
    for one, tag in zip(as_json["tags"], wanted.tags, strict=True):
        assert list(one.values()) == [*tag[:3], pytest.approx(tag[3]), *tag[4:]]
    banned = run(*asked, "--ban", "t*", "--temperature", 0, "--category", "general", "--json").json["tags"]
    assert not any(one["tag"].startswith("t") or one["category"] != "general" for one in banned)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--limit", "artist"], 2, "--limit artist: give a category and a number, such as artist=0."),
        (["--limit", "species=1"], 2, "--limit species=1: give a category and a number"),
        (["-n", 201], 2, "201 is not in the range 0<=x<=200"),
        (["--dialect", "midjourney"], 2, "'midjourney' is not one of 'a1111', 'comfyui', 'novelai', 'danbooru'"),
        (["--rating", "g", "--temperature", 11], 2, "11.0 is not in the range"),
    ],
)
def test_fill_refuses_in_a_line(run: Run, trained: Trained, options: list[object], code: int, message: str) -> None:
    assert message in run("fill", "solo", "-c", trained.checkpoint, *options).failed(code)

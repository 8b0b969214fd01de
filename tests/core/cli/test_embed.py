"""``booru-embed complete | similar`` print what the library returns."""

from __future__ import annotations

from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained


def test_what_was_read_otherwise_than_it_stands_is_noted(run: Run, trained: Trained) -> None:
    asked = ("1girl, (cat ears:1.0)", "--checkpoint", trained.checkpoint, "-k", 2)
    plain, noted = run("complete", "1girl cat_ears", *asked[1:]), run("complete", *asked)
    assert (noted.code, noted.out) == (0, plain.out)
    assert noted.err == "note: (cat ears:1.0): read as cat_ears\n"


def test_complete_is_the_librarys(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    found = run("complete", "1girl cat_ears", "-c", trained.checkpoint, "--json", "-k", 5, "--category", "general")
    wanted = embedder.complete("1girl cat_ears", k=5, category="general")
    assert found.json["unknown"] == []
    assert [tuple(one.values()) for one in found.json["completions"]] == wanted
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

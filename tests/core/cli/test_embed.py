"""``booru-embed embed | complete | similar`` print what the library returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained


def test_a_dim_beyond_the_embedding_is_wrong_use(run: Run, trained: Trained) -> None:
    found = run("embed", "solo", "--dim", 99, "-c", trained.checkpoint).failed(2)
    assert found == "--dim 99 exceeds the embedding's 16 numbers. See `booru-embed embed --help`"


def test_embed_prints_a_line_of_numbers_a_caption(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    captions = ["1girl, cat ears", "1boy sword", ""]
    found = run("embed", *captions, "-c", trained.checkpoint, "--dim", 8)
    assert (found.code, found.err) == (0, "")
    rows = [[float(number) for number in line.split("\t")] for line in found.out.splitlines()]
    assert np.array(rows) == pytest.approx(embedder.embed(captions, dim=8), abs=1e-6)


def test_embed_as_json_names_unknown_tags_there_and_on_stderr(
    run: Run, trained: Trained, embedder: BooruEmbedder
) -> None:
    captions = ["1girl, no such tag, cat ears", "solo"]
    found = run("embed", *captions, "-c", trained.checkpoint, "--json", "--rating", "q", "--score", "5")
    assert found.json["dim"] == 16
    rows = found.json["embeddings"]
    assert [row["caption"] for row in rows] == captions
    assert [row["unknown"] for row in rows] == [["no_such_tag"], []]
    with pytest.warns(UserWarning, match="no_such_tag"):
        wanted = embedder.embed(captions, rating="q", score=5)
    assert np.array([row["vector"] for row in rows]) == pytest.approx(wanted, abs=1e-7)
    assert found.err == (
        f"warning: {captions[0]!r}: not in the vocabulary: no_such_tag; left out. "
        "`booru-embed inspect vocab` lists the known tags\n"
    )


def test_what_was_read_otherwise_than_it_stands_is_noted(run: Run, trained: Trained) -> None:
    asked = ("1girl, (cat ears:1.2)", "--checkpoint", trained.checkpoint, "-k", 2)
    plain, noted = run("complete", "1girl cat_ears", *asked[1:]), run("complete", *asked)
    assert (noted.code, noted.out) == (0, plain.out)
    assert noted.err == "note: (cat ears:1.2): brackets and weights are left out\n"


def test_embed_writes_a_npy_file_whole(run: Run, trained: Trained, embedder: BooruEmbedder, tmp_path: Path) -> None:
    file = tmp_path / "vectors.npy"
    found = run("embed", "solo", "1girl", "-c", trained.checkpoint, "-o", file)
    assert (found.code, found.out, found.err) == (0, "", f"{file}: float32 [2, 16]\n")
    assert np.array_equal(np.load(file), embedder.embed(["solo", "1girl"]))
    assert [one.name for one in tmp_path.iterdir()] == ["vectors.npy"]
    message = run("embed", "solo", "-c", trained.checkpoint, "-o", tmp_path / "none" / "x.npy").failed(1)
    assert message == f"{tmp_path / 'none'}: no such folder, for --output x.npy; create it first"


def test_nothing_but_unknown_tags_is_a_failure(run: Run, trained: Trained) -> None:
    for arguments in (("embed", "solo", "xyzzy"), ("complete", "xyzzy", "--json"), ("similar", "xyzzy")):
        message = run(*arguments, "-c", trained.checkpoint).failed(1)
        assert message.startswith("'xyzzy': not in the vocabulary: xyzzy; ")


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


def test_a_rating_that_was_never_given_in_training_is_a_failure(run: Run, trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(trained.checkpoint, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "trained_ratings": ["s"]}), encoding="utf-8")
    for command in ("embed", "complete"):
        message = run(command, "solo", "-c", copy, "--rating", "g").failed(1)
        assert message.startswith("rating 'g' was never given in training, which knew s; leave rating and score out")
        assert run(command, "solo", "-c", copy, "--rating", "s").code == 0


def test_similar_is_the_librarys(run: Run, trained: Trained, embedder: BooruEmbedder) -> None:
    found = run("similar", "cat ears", "-c", trained.checkpoint, "--json", "-k", 4, "--category", "character")
    wanted = embedder.similar_tags("cat_ears", k=4, category="character")
    assert found.json["tag"] == "cat ears"
    assert [tuple(one.values()) for one in found.json["neighbours"]] == wanted
    table = run("similar", "cat ears", "-c", trained.checkpoint, "-k", 4)
    assert len(table.out.splitlines()) == 4

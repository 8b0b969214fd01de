"""``booru-embed embed`` prints and writes what the library returns."""

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


def test_a_rating_that_was_never_given_in_training_is_a_failure(run: Run, trained: Trained, tmp_path: Path) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(trained.checkpoint, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "trained_ratings": ["s"]}), encoding="utf-8")
    for command in ("embed", "complete"):
        message = run(command, "solo", "-c", copy, "--rating", "g").failed(1)
        assert message.startswith("rating 'g' was never given in training, which knew s; leave rating and score out")
        assert run(command, "solo", "-c", copy, "--rating", "s").code == 0

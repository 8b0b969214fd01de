"""``booru-embed embed`` prints and writes what the library returns."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

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
    del config["checksum"]  # as in a checkpoint of an older build
    (copy / "config.json").write_text(json.dumps({**config, "trained_ratings": ["s"]}), encoding="utf-8")
    for command in ("embed", "complete"):
        message = run(command, "solo", "-c", copy, "--rating", "g").failed(1)
        assert message.startswith("rating 'g' was never given in training, which knew s; leave rating and score out")
        assert run(command, "solo", "-c", copy, "--rating", "s").code == 0


@pytest.fixture
def captions_file(tmp_path: Path) -> Path:
    rows = [{"id": 7, "tags": "1girl, cat ears"}, {"id": 9, "tags": ["xyzzy"]}, {"id": 8, "tags": {"solo": 0.5}}]
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps({**row, "score": 3}) + "\n" for row in rows))
    return file


def test_a_file_is_embedded_with_ids_and_counts_that_add_up(
    run: Run, trained: Trained, embedder: BooruEmbedder, captions_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.parquet"
    arguments = ("embed", "--file", captions_file, "-c", trained.checkpoint, "-o", output, "--dim", 8)
    message = run(*arguments).failed(1)
    assert message.startswith(f"{captions_file}: line 2: 'xyzzy': not in the vocabulary: xyzzy; no known tag is left")
    found = run(*arguments, "--on-unknown", "zero")
    assert (found.code, found.out) == (0, "")
    assert found.err.splitlines() == [
        f"{output}: float32 [3, 8]",
        f"{captions_file}: 3 rows read: 2 with known tags, 0 empty, 1 of unknown tags alone (zero vectors)",
        "warning: not in the vocabulary, in 1 row, such as xyzzy",
        "note: not read: score",
    ]
    table = pq.read_table(output)
    assert (table["id"].to_pylist(), table["unknown"].to_pylist()) == ([7, 9, 8], [[], ["xyzzy"], []])
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    assert vectors[[0, 2]] == pytest.approx(embedder.embed(["1girl, cat ears", {"solo": 0.5}], dim=8), abs=1e-6)
    assert not vectors[1].any()


def test_captions_come_from_standard_input_a_line_each(
    run: Run, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    def typed(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    wanted = run("embed", "1girl, cat ears", "solo", "-c", trained.checkpoint, "--dim", 8)
    typed(b"1girl, cat ears\nsolo\n")
    found = run("embed", "-", "-c", trained.checkpoint, "--dim", 8)
    assert (found.code, found.out) == (0, wanted.out)
    assert found.err == "standard input: 2 rows read: 2 with known tags, 0 empty\n"
    typed(b'"solo"\n\n["xyzzy", "solo"]\n')
    printed = run("embed", "-", "-c", trained.checkpoint, "--json", "--input-format", "jsonl", "--batch-size", 1)
    assert printed.json["dim"] == 16
    assert [(row["id"], row["unknown"]) for row in printed.json["embeddings"]] == [(0, []), (1, ["xyzzy"])]
    assert printed.err.startswith("standard input: 2 rows read: 2 with known tags, 0 empty; 1 blank lines left out\n")
    typed(b"")
    assert run("embed", "-", "-c", trained.checkpoint, "--json").json == {"dim": 16, "embeddings": []}


def test_an_interrupted_job_is_resumed_and_a_changed_one_is_not(
    run: Run, trained: Trained, captions_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.npy"
    rest = ("embed", "-f", captions_file, "-c", trained.checkpoint, "--batch-size", 1, "--on-unknown", "empty")
    assert run(*rest, "-o", tmp_path / "whole.npy").code == 0
    with monkeypatch.context() as patch:
        real, calls = BooruEmbedder.embed_encoded, iter([1, 2])

        def stopping(*values: Any) -> NDArray[np.float32]:
            if next(calls) == 2:
                raise KeyboardInterrupt
            return real(*values)

        patch.setattr(BooruEmbedder, "embed_encoded", stopping)
        stopped = run(*rest, "-o", output)
    assert (stopped.code, stopped.err) == (130, "stopped; 1 row is kept: the same command goes on from there\n")
    changed = run(*rest, "-o", output, "--dim", 4).failed(1)
    assert changed.endswith(
        "holds 1 row of an interrupted job with no --dim; run it with these again to go on, or --restart begins anew"
    )
    resumed = run(*rest, "-o", output)
    assert resumed.err.startswith("resuming after 1 row\n")
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert run(*rest, "-o", output, "--restart").code == 0


def test_unknown_captions_of_the_command_line_are_gone_past(run: Run, trained: Trained, tmp_path: Path) -> None:
    found = run("embed", "solo", "xyzzy", "-c", trained.checkpoint, "--on-unknown", "zero", "-o", tmp_path / "x.jsonl")
    assert found.code == 0
    assert "xyzzy; no known tag is left; its vector is zero" in found.err
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [(row["id"], row["unknown"], any(row["vector"])) for row in rows] == [(0, [], True), (1, ["xyzzy"], False)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "Name captions, - for standard input, or --file FILE."),
        (("solo", "--file", "in.txt"), 2, "Name captions, or - for standard input, or --file FILE: one of them."),
        (("-", "--file", "in.txt"), 2, "Name captions, or - for standard input, or --file FILE: one of them."),
        (("solo", "-"), 2, "Name captions, or - for standard input, or --file FILE: one of them."),
        (("solo", "--column", "x"), 2, "--input-format, --column, --id-column and --restart are for - and --file."),
        (("-", "--restart"), 2, "--restart is for --output, which alone is resumed."),
        (("-", "--column", "x"), 2, "--column and --id-column are for JSON lines and Parquet; text has one caption a"),
        (("-", "-o", "x.npy", "--json"), 2, "--output writes a file and --json prints: give one of them."),
        (("-", "-o", "x.csv"), 1, "x.csv: vectors are written as .parquet, .npy, .jsonl; name an --output of these"),
        (("solo", "-o", "x.csv"), 1, "x.csv: vectors are written as .parquet, .npy, .jsonl; name an --output of these"),
        (("-", "-o", "none/x.npy"), 1, "none: no such folder, for --output x.npy; create it first"),
        (("--file", "none.txt"), 1, "none.txt: no such file; name a file of captions"),
    ],
)
def test_wrong_use_is_told(
    run: Run,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("embed", *arguments, "-c", trained.checkpoint).failed(code).startswith(message)

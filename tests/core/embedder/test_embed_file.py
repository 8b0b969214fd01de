"""A file of captions becomes one of vectors, with the same bytes whatever interrupts it."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from booru_embed_core.embedder import embed_file as module
from booru_embed_core.embedder.caption_files import CaptionFile, CaptionFileError, InputFormat
from booru_embed_core.embedder.embed_file import PROGRESS_FILE, Counts, EmbedJobError, embed_file
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.job_identity import JobSettings, input_hash
from booru_embed_core.embedder.results import UnknownTagsWarning
from booru_embed_core.errors import DiskError
from booru_embed_core.filesystem import ForeignPathError, locked_folder

CAPTIONS = [
    "1girl, cat ears",
    "1boy sword",
    "",
    "xyzzy",
    "solo, plugh",
    "(smile:1.2)",
    "scenery sky",
    "xyzzy plugh",
    "solo",
    "1girl",
]
FORMS = [".npy", ".jsonl", ".parquet"]
Embed = Callable[..., Counts]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("\n".join(CAPTIONS) + "\n")
    return path


@pytest.fixture
def run_job(search_embedder: BooruEmbedder, file: Path, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Embeds `file` into an output, in batches of three rows, each of which is recorded."""
    monkeypatch.setattr(module, "_COMMIT_SECONDS", 0.0)

    def call(output: Path, *, restart: bool = False, say: Any = lambda _: None, **changes: Any) -> Counts:
        source = CaptionFile(file, InputFormat.TEXT)
        settings = JobSettings("model", "text", input_hash(source), batch_size=3, on_unknown="zero")
        return embed_file(search_embedder, source, output, replace(settings, **changes), say, restart)

    return call


class Stopped:
    """Lets the embedder's network fail at its n-th batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, batch: int, error: BaseException) -> None:
        real, self.num_batches = BooruEmbedder.embed_encoded, 0

        def failing(*values: Any) -> Any:
            self.num_batches += 1
            if self.num_batches == batch:
                raise error
            return real(*values)

        monkeypatch.setattr(BooruEmbedder, "embed_encoded", failing)


@pytest.mark.parametrize("suffix", FORMS)
def test_a_job_that_is_stopped_anywhere_goes_on_to_the_same_bytes(run_job: Embed, tmp_path: Path, suffix: str) -> None:
    whole, output = tmp_path / f"whole{suffix}", tmp_path / f"out{suffix}"
    counts = run_job(whole)
    for batch in (1, 2, 4):
        lines: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            Stopped(patch, batch, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt) as told:
                run_job(output, say=lines.append)
        kept = 3 * (batch - 1)
        assert str(told.value) == (f"{kept} rows are kept: the same command goes on from there" if kept else "")
        assert lines == []
        assert not output.exists()
        with pytest.MonkeyPatch.context() as patch:
            rest = Stopped(patch, 99, KeyError())
            assert run_job(output, say=lines.append) == counts
        assert rest.num_batches == 4 - batch + 1
        assert lines == ([f"resuming after {kept} rows"] if kept else [])
        assert output.read_bytes() == whole.read_bytes()
        output.unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.txt", f"whole{suffix}"]


def test_a_job_that_is_killed_goes_on_from_its_last_record(run_job: Embed, tmp_path: Path) -> None:
    run_job(tmp_path / "whole.npy")
    with pytest.MonkeyPatch.context() as patch:
        Stopped(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_job(tmp_path / "out.npy")
    for name in ("vectors.f32", "rows.jsonl"):
        with (tmp_path / "out.npy.parts" / name).open("ab") as stream:
            stream.write(b"half a batch")  # written after the last record
    run_job(tmp_path / "out.npy")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_rows_add_up_and_vectors_are_those_of_the_library(
    run_job: Embed, search_embedder: BooruEmbedder, tmp_path: Path
) -> None:
    counts = run_job(tmp_path / "out.jsonl")
    assert (counts.num_known, counts.num_empty, counts.num_unknown, counts.num_partly) == (7, 1, 2, 1)
    assert (counts.num_rows, counts.num_noted) == (10, 1)
    assert counts.unknown == ["xyzzy", "plugh"]
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(10))
    assert [row["unknown"] for row in rows if row["unknown"]] == [["xyzzy"], ["plugh"], ["xyzzy", "plugh"]]
    found = np.array([row["vector"] for row in rows], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTagsWarning)
        wanted = list(search_embedder.embed_stream(CAPTIONS, 3, on_unknown="zero"))
    assert np.array_equal(found, np.concatenate(wanted))
    assert not found[[3, 7]].any()
    run_job(tmp_path / "empty.npy", on_unknown="empty", dim=4)
    empty = np.load(tmp_path / "empty.npy")
    assert empty.shape == (10, 4)
    assert np.allclose(empty[3], empty[2], atol=1e-6)


def test_a_row_that_cannot_be_embedded_is_named_and_corrected_without_beginning_anew(
    run_job: Embed, file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.npy"
    with pytest.raises(CaptionFileError) as caught:
        run_job(output, on_unknown="raise")
    assert str(caught.value) == (
        f"{file}: line 4: 'xyzzy': not in the vocabulary: xyzzy; no known tag is left. `booru-embed inspect vocab` "
        "lists the known tags; --on-unknown zero or empty goes past such rows. 3 rows are kept: the same command goes "
        "on from there"
    )
    lines: list[str] = []
    file.write_text("\n".join([*CAPTIONS[:3], "bell", *CAPTIONS[4:7], "bell", *CAPTIONS[8:]]) + "\n")
    run_job(output, on_unknown="raise", say=lines.append)
    assert lines == ["resuming after 3 rows"]
    run_job(tmp_path / "whole.npy")
    assert output.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_a_row_that_cannot_be_embedded_may_be_gone_past(run_job: Embed, tmp_path: Path) -> None:
    with pytest.raises(CaptionFileError, match="line 4"):
        run_job(tmp_path / "out.npy", on_unknown="raise")
    lines: list[str] = []
    run_job(tmp_path / "out.npy", say=lines.append)
    assert lines == ["resuming after 3 rows"]


def test_a_broken_first_row_leaves_nothing(search_embedder: BooruEmbedder, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    for line, message in (
        ("{", "is no JSON value"),
        ('{"hat": -1}', "'hat' has the weight -1; give a number from 0 to"),
        ('["hat", 3]', "a tag of a caption is int 3; give text, a list of tags"),
    ):
        file.write_text(f"{line}\n")
        source = CaptionFile(file, InputFormat.JSONL)
        with pytest.raises(CaptionFileError, match=f"^{file}: line 1: .*{message}") as caught:
            embed_file(search_embedder, source, tmp_path / "out.npy", JobSettings())
        assert "kept" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [file]


@pytest.fixture
def interrupted(run_job: Embed, tmp_path: Path) -> Path:
    """The output of a job that was stopped after six rows."""
    with pytest.MonkeyPatch.context() as patch:
        Stopped(patch, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run_job(tmp_path / "out.npy")
    return tmp_path / "out.npy"


def test_another_job_does_not_go_on_and_says_how(run_job: Embed, interrupted: Path, file: Path) -> None:
    for changes, named in (
        ({"batch_size": 4, "dim": 8}, "--batch-size 3, no --dim"),
        ({"model": "other"}, r"another checkpoint \(model\)"),
        ({"on_unknown": "empty"}, "--on-unknown zero"),
    ):
        with pytest.raises(EmbedJobError, match=f"holds 6 rows of an interrupted job with {named}; run it with these"):
            run_job(interrupted, **changes)
    file.write_text("\n".join([*CAPTIONS, "hat"]))
    with pytest.raises(EmbedJobError, match=r"with another content of the input; .*, or --restart begins anew$"):
        run_job(interrupted)
    lines: list[str] = []
    assert run_job(interrupted, restart=True, say=lines.append).num_rows == 11
    assert lines == []


def test_rows_that_were_embedded_and_have_changed_are_noticed(run_job: Embed, interrupted: Path, file: Path) -> None:
    file.write_text("\n".join(["hat", *CAPTIONS[1:]]))
    same_hash = {
        "input_hash": json.loads((interrupted.with_name("out.npy.parts") / PROGRESS_FILE).read_text())["settings"][
            "input"
        ]
    }
    with pytest.raises(EmbedJobError, match=f"the first 6 rows of {file} changed since .*; --restart begins anew$"):
        run_job(interrupted, **same_hash)


@pytest.mark.parametrize("damage", ["record", "types", "counts", "vectors"])
def test_damaged_parts_are_not_gone_on_from(run_job: Embed, interrupted: Path, damage: str) -> None:
    folder = interrupted.with_name("out.npy.parts")
    if damage == "record":
        (folder / PROGRESS_FILE).write_text("{}")
    elif damage == "vectors":
        (folder / "vectors.f32").write_bytes(b"")
    else:
        values = json.loads((folder / PROGRESS_FILE).read_text())
        values["num_rows"] = "6" if damage == "types" else 5
        (folder / PROGRESS_FILE).write_text(json.dumps(values))
    told = {"record": "lacks settings", "types": "num_rows = '6': should be a valid integer"}
    with pytest.raises(
        EmbedJobError, match=rf"progress\.json: {told.get(damage, 'damaged record')}.*; --restart begins anew$"
    ):
        run_job(interrupted)
    assert run_job(interrupted, restart=True).num_rows == 10


def test_damaged_rows_of_the_parts_are_told(run_job: Embed, interrupted: Path) -> None:
    rows = interrupted.with_name("out.npy.parts") / "rows.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b'["xyzzy"]', b'{"xyzz":1}'[:9], 1))
    with pytest.raises(EmbedJobError, match=r"out\.npy\.parts: damaged \(.*\); --restart begins anew$"):
        run_job(interrupted)


@pytest.mark.parametrize("name", ["thesis.txt", "vectors.f32"])
def test_parts_take_nobodys_place_and_follow_no_link(run_job: Embed, tmp_path: Path, name: str) -> None:
    folder, precious = tmp_path / "out.npy.parts", tmp_path / "precious"
    precious.write_text("!")
    folder.mkdir()
    if name == "vectors.f32":
        (folder / name).symlink_to(precious)
    else:
        (folder / name).write_text("mine")
    with pytest.raises(
        ForeignPathError, match=rf"/{name}: stands where booru-embed keeps unfinished files, .* --output$"
    ):
        run_job(tmp_path / "out.npy")
    assert precious.read_text() == "!"
    assert [path.name for path in folder.iterdir()] == [name]


def test_two_processes_do_not_write_one_output(run_job: Embed, interrupted: Path) -> None:
    with (
        locked_folder(interrupted.with_name("out.npy.parts")),
        pytest.raises(ForeignPathError, match=r"another process writes it; .* name another --output$"),
    ):
        run_job(interrupted)


def test_a_full_disk_keeps_what_was_recorded(run_job: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_job(tmp_path / "whole.npy")
    with pytest.MonkeyPatch.context() as patch:
        Stopped(patch, 3, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DiskError, match=f"^{tmp_path}: No space left .*, or choose an --output on another disk$"):
            run_job(tmp_path / "out.npy")
    lines: list[str] = []
    run_job(tmp_path / "out.npy", say=lines.append)
    assert lines == ["resuming after 6 rows"]
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("name", [PROGRESS_FILE, "vectors.f32"])
def test_parts_that_cannot_be_removed_are_gone_on_from(
    run_job: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    run_job(tmp_path / "whole.npy")
    real = os.unlink

    def unlink(path: Any, **keywords: Any) -> None:
        if os.fspath(path).endswith(name):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        real(path, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        run_job(tmp_path / "out.npy")
    assert (tmp_path / "out.npy.parts" / name).exists()
    run_job(tmp_path / "out.npy")
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert not (tmp_path / "out.npy.parts").exists()


def test_progress_is_told_with_its_share_and_the_time_that_is_left(
    run_job: Embed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: Iterator[int] = iter(range(0, 1000, 4))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    lines: list[str] = []
    run_job(tmp_path / "out.npy", say=lines.append)
    assert lines
    for line in lines:
        num_rows, speed, share, left = line.split(", ")
        assert num_rows in ("3 rows", "6 rows", "9 rows", "10 rows")
        assert speed.endswith(" rows/s")
        assert share.endswith("%")
        assert left.startswith("about ")

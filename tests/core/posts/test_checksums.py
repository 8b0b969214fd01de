"""A folder is what its manifest says, or refused by the file's name."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from booru_embed_core.posts.checksums import CHECKSUMS_FILE, ChecksumError, verify_checksums, write_checksums
from tests.core.export_helpers import Walked


@pytest.fixture
def folder(sample: Walked, tmp_path: Path) -> Path:
    """Posts with their manifest, and files that are no part of it."""
    copy = tmp_path / "posts"
    shutil.copytree(sample.posts_dir, copy)
    write_checksums(copy)
    (copy / "version.json").write_text("{}")
    (copy / "plot.png").write_bytes(b"png")
    return copy


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ChecksumError, match=message) as caught:
        verify_checksums(folder, "posts")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_written_is_accepted(folder: Path) -> None:
    verify_checksums(folder, "posts")
    files = json.loads((folder / CHECKSUMS_FILE).read_text())["files"]
    assert {"part-00000.parquet", "rejects.parquet", "report.json"} <= set(files)
    assert files["report.json"]["bytes"] == (folder / "report.json").stat().st_size


def test_writing_again_gives_the_same_bytes(folder: Path) -> None:
    (folder / "version.json").unlink()
    before = (folder / CHECKSUMS_FILE).read_bytes()
    write_checksums(folder)
    assert (folder / CHECKSUMS_FILE).read_bytes() == before


@pytest.mark.parametrize("name", ["part-00000.parquet", "rejects.parquet", "report.json"])
def test_any_flipped_bit_and_any_cut_is_refused_by_name(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    generator = np.random.default_rng(7)
    for position in generator.integers(0, len(content), 20).tolist():
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        (folder / name).write_bytes(damaged)
        refused(folder, rf"/{re.escape(name)}: was changed: .*; build the posts again$")
        (folder / name).write_bytes(content[:position])
        refused(folder, rf"/{re.escape(name)}: {position} bytes, {len(content)} in manifest\.json; build the posts")


def test_every_flipped_bit_of_the_manifest_is_refused_or_white_space(folder: Path) -> None:
    manifest = folder / CHECKSUMS_FILE
    content = manifest.read_bytes()
    num_accepted = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        manifest.write_bytes(damaged)
        try:
            verify_checksums(folder, "posts")
        except ChecksumError as error:
            assert str(folder) in str(error)  # noqa: PT017
            assert CHECKSUMS_FILE in str(error)  # noqa: PT017
        else:
            num_accepted += 1
            assert json.loads(bytes(damaged)) == json.loads(content)
    assert num_accepted < content.count(b" ") + content.count(b"\n")
    for length in range(len(content) - 1):
        manifest.write_bytes(content[:length])
        refused(folder, r"/manifest\.json: is not JSON")


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / CHECKSUMS_FILE).read_text())
        change(content)
        (folder / CHECKSUMS_FILE).write_text(json.dumps(content))

    return apply


ENTRY = {"bytes": 1, "sha256": "a" * 64}


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "part-00000.parquet").unlink(), r"/part-00000\.parquet: .* no such file; build"),
        (
            lambda folder: shutil.copy(folder / "part-00000.parquet", folder / "part-00001.parquet"),
            r"/part-00001\.parquet: is not in manifest\.json, so not part of the posts; remove it$",
        ),
        (
            lambda folder: shutil.copy(folder / "rejects.parquet", folder / "part-00000.parquet"),
            r"/part-00000\.parquet: \d+ bytes, \d+ in manifest\.json",
        ),
        (lambda folder: (folder / CHECKSUMS_FILE).unlink(), r"/manifest\.json: no such file; build the posts again"),
        (shutil.rmtree, r"/manifest\.json: no such file"),
        (lambda folder: (folder / CHECKSUMS_FILE).write_text("[" * 100_000), r"/manifest\.json: is nested too deeply"),
        (lambda folder: (folder / CHECKSUMS_FILE).write_text("[]"), r"/manifest\.json: should be an object"),
        (edit(lambda content: content.update(files={})), r"/manifest\.json: lists no files"),
        (edit(lambda content: content.update(files={"a": 1})), r"/manifest\.json: files\.a"),
        (
            edit(lambda content: content["files"].update({"../a": ENTRY})),
            r"'\.\./a': should be the name of a file",
        ),
        (edit(lambda content: content["files"].update({"a": {**ENTRY, "bytes": -1}})), r"files\.a\.bytes = -1: should"),
        (
            edit(lambda content: content["files"].update({"a": ENTRY})),
            r"/a: is in manifest\.json, but there ",
        ),
        (edit(lambda content: content["files"].update({"\ud800": ENTRY})), r"manifest\.json: Invalid JSON"),
        (edit(lambda content: content.update(format_version=2)), r"format_version 2 instead of 1"),
        (lambda folder: as_pipe(folder / "rejects.parquet"), r"/rejects\.parquet: cannot be read \(not a plain file\)"),
    ],
)
def test_what_does_not_belong_together_is_refused(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    refused(folder, message)

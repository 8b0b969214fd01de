"""The command ``export``: where it finds what lies in the warehouse, what it writes and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import SafetensorError

from booru_embed_core.export import formats
from booru_embed_core.schema import ExportFormat
from tests.core.cli_helpers import Run
from tests.core.export.demo_helpers import stand_in_runtime
from tests.core.model_helpers import Trained


def test_each_format_is_written_and_its_files_are_named(run: Run, trained: Trained, tmp_path: Path) -> None:
    more = {ExportFormat.DEMO: ("--runtime", stand_in_runtime(tmp_path / "package"), "--license", "mit")}
    for form in ExportFormat:
        done = run("export", form, "-c", trained.checkpoint, "--output", tmp_path / form, *more.get(form, ()))
        assert (done.code, done.err) == (0, "")
        files = [path for path in (tmp_path / form).rglob("*") if path.is_file()]
        assert files
        assert done.out.splitlines() == [f"{path}: {path.stat().st_size:,} bytes" for path in sorted(files)]
    assert "\nlicense: mit\n" in (tmp_path / "demo" / "README.md").read_text(encoding="utf-8")
    (file,) = (tmp_path / "word2vec").iterdir()
    as_json = run("export", "word2vec", "-c", trained.checkpoint, "-o", tmp_path / "again", "--json").json
    assert as_json == {"format": "word2vec", "files": {str(tmp_path / "again" / file.name): file.stat().st_size}}


@pytest.mark.parametrize(("made_from", "is_found"), [("v1", True), ("another", False)])
def test_the_card_takes_the_evaluation_of_this_checkpoint_alone(
    run: Run, trained: Trained, tmp_path: Path, made_from: str, is_found: bool
) -> None:
    warehouse = tmp_path / "warehouse"
    shutil.copytree(trained.checkpoint, warehouse / "checkpoint/v1")
    (warehouse / "checkpoint/current").symlink_to("v1")
    folder = warehouse / "evaluation/current"
    folder.mkdir(parents=True)
    found = {"num_tags": 36, "tasks": {}, "split_sizes": {"test": 4321}, "caveats": []}
    (folder / "evaluation.json").write_text(json.dumps(found), encoding="utf-8")
    manifest = {"version": "v1", "inputs": {"checkpoint": made_from}, "files": ["evaluation.json"]}
    (folder / "version.json").write_text(json.dumps(manifest), encoding="utf-8")
    checkpoint = warehouse / "checkpoint/current"
    assert run("export", "hub", "-c", checkpoint, "-o", tmp_path / "hub").code == 0
    assert ("On 4,321 test posts" in (tmp_path / "hub/README.md").read_text(encoding="utf-8")) == is_found
    named = run("export", "hub", "-c", checkpoint, "-o", tmp_path / "named", "--evaluation", folder / "evaluation.json")
    assert named.code == 0
    assert "On 4,321 test posts" in (tmp_path / "named/README.md").read_text(encoding="utf-8")
    (folder / "version.json").write_text('{"inputs": ["x"]}', encoding="utf-8")
    damaged = run("export", "hub", "-c", checkpoint, "-o", tmp_path / "damaged")
    assert damaged.code == 0
    assert damaged.err.startswith("warning: the card is without figures of an evaluation: ")


def test_what_cannot_be_written_is_said_in_one_line(run: Run, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    message = run("export", "parquet", "-c", trained.checkpoint, "-o", tmp_path / "mine").failed(1)
    assert message.startswith(f"{tmp_path / 'mine'}: exists and is not an empty folder")
    assert "no such file" in run("export", "parquet", "-c", tmp_path, "-o", tmp_path / "out").failed(1)
    assert "'pickle'" in run("export", "pickle", "-c", trained.checkpoint, "-o", tmp_path / "out").failed(2)
    options = ("--license", "All rights reserved")
    message = run("export", "hub", "-c", trained.checkpoint, "-o", tmp_path / "out", *options).failed(2)
    assert "--license All rights reserved: give the Hub's name of a licence" in message
    options = ("--runtime", tmp_path / "nowhere")
    message = run("export", "demo", "-c", trained.checkpoint, "-o", tmp_path / "out", *options).failed(1)
    assert message.startswith(f"{tmp_path / 'nowhere'}: not the .tgz of onnxruntime-web")
    assert {path.name for path in tmp_path.iterdir()} == {"mine"}


def test_a_full_disk_is_told_by_its_folder(
    run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(formats, "export", fill)
    message = run("export", "hub", "-c", trained.checkpoint, "-o", tmp_path / "out").failed(1)
    assert message.startswith(f"{tmp_path}: No space left on device (the disk ")
    assert message.endswith("; free some space, or choose an --output on another disk")

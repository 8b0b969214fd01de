"""An export is a whole folder or none, and the same checkpoint gives the same bytes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.schema import ExportFormat
from tests.core.export.demo_helpers import stand_in_runtime
from tests.core.model_helpers import Trained


@pytest.fixture(scope="module")
def source(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> CheckpointSource:
    runtime = stand_in_runtime(tmp_path_factory.mktemp("runtime") / "package")
    found = CheckpointSource.open(trained.checkpoint, tokens=trained.corpus.packed_path)
    return dataclasses.replace(found, runtime=runtime, license_id="cc-by-4.0")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_library_loads_the_hub_folder(source: CheckpointSource, tmp_path: Path) -> None:
    export(ExportFormat.HUB, source, tmp_path / "hub")
    loaded = BooruEmbedder.load(tmp_path / "hub", "cpu", "fp32")
    captions = ["1girl cat_ears tail", "", "sword, armor"]
    assert np.array_equal(loaded.embed(captions), source.embedder.embed(captions))
    text = (tmp_path / "hub/README.md").read_text(encoding="utf-8")
    assert "Not measured" in text
    assert "\nlicense: cc-by-4.0\n" in text


def test_a_hub_folder_without_a_counterpart_is_for_the_library_alone(source: CheckpointSource, tmp_path: Path) -> None:
    splits = source.config.splits.model_copy(update={"drop_implied": True})
    dropped = dataclasses.replace(source, config=source.config.model_copy(update={"splits": splits}))
    export(ExportFormat.HUB, dropped, tmp_path / "hub")
    assert not (tmp_path / "hub/modules.json").exists()
    assert "SentenceTransformer(" not in (tmp_path / "hub/README.md").read_text(encoding="utf-8")


def test_the_library_loads_the_onnx_folder_and_its_card_says_what_int8_loses(
    source: CheckpointSource, tmp_path: Path
) -> None:
    export(ExportFormat.ONNX, source, tmp_path / "onnx")
    loaded = BooruEmbedder.load(tmp_path / "onnx", "cpu")
    captions = ["1girl cat_ears tail", "", "sword, armor"]
    for values in ({}, {"rating": "g"}, {"rating": "g", "score": 5}):
        assert loaded.embed(captions, **values) == pytest.approx(source.embedder.embed(captions, **values), abs=1e-5)  # type: ignore[arg-type]
    for one, expected in zip(loaded.complete(captions[0]), source.embedder.complete(captions[0]), strict=True):
        assert (one.tag, one.category) == (expected.tag, expected.category)
        assert one.probability == pytest.approx(expected.probability, abs=1e-5)
    text = (tmp_path / "onnx/README.md").read_text(encoding="utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| recall@10, half of the tags hidden |")]
    cells = row.strip("| ").split(" | ")[1:]
    exact, rounded, difference = (float(cell.split(" ± ")[0]) for cell in cells)
    assert 0 < exact <= 1
    assert difference == pytest.approx(rounded - exact, abs=2e-4)


def test_without_posts_the_card_says_that_int8_was_not_measured(source: CheckpointSource, tmp_path: Path) -> None:
    export(ExportFormat.ONNX, dataclasses.replace(source, tokens=None), tmp_path / "onnx")
    assert "## Loss of int8\n\nNot measured" in (tmp_path / "onnx/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("form", ExportFormat)
def test_the_same_checkpoint_gives_the_same_bytes(source: CheckpointSource, tmp_path: Path, form: ExportFormat) -> None:
    for name in ("one", "two"):
        export(form, source, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two"}


def test_what_is_there_is_not_overwritten(source: CheckpointSource, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    for taken in (tmp_path, tmp_path / "mine"):
        with pytest.raises(FileExistsError, match="exists and is not an empty folder; remove it or name"):
            export(ExportFormat.PARQUET, source, taken)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_model_without_implied_tags_is_no_sentence_transformer(source: CheckpointSource, tmp_path: Path) -> None:
    splits = source.config.splits.model_copy(update={"drop_implied": True})
    dropped = dataclasses.replace(source, config=source.config.model_copy(update={"splits": splits}))
    with pytest.raises(ValueError, match=r"was trained with \[tokens\] drop_implied, .* export it as onnx or hub"):
        export(ExportFormat.SENTENCE_TRANSFORMERS, dropped, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_fails_leaves_nothing(source: CheckpointSource, tmp_path: Path) -> None:
    broken = dataclasses.replace(source, checkpoint=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        export(ExportFormat.HUB, broken, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []

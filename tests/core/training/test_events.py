"""Curves are readable by TensorBoard's own reader."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from booru_embed_core.training.events import EVENTS_FOLDER, EventLog
from booru_embed_core.training.loop import TrainingInterrupted
from tests.core.model_helpers import corpus, training_settings
from tests.core.training.training_helpers import Bench, stop_after

RECORDS = [
    {"step": step, "num_steps": 40, "loss": 1 / step, "terms": {"head": step * 0.5}} for step in (10, 20, 30, 40)
]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values of each curve, read by TensorBoard's own reader."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder)).Reload()
    return {tag: [(one.step, one.value) for one in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def write(folder: Path, first_step: int, records: list[dict[str, object]]) -> None:
    with EventLog(folder, first_step) as events:
        for record in records:
            events.append(record)


def test_every_number_of_a_record_is_a_curve(tmp_path: Path) -> None:
    write(tmp_path / "events", 0, RECORDS)
    found = curves(tmp_path / "events")
    assert found["loss"] == [(step, pytest.approx(1 / step)) for step in (10, 20, 30, 40)]
    assert found["terms/head"] == [(step, step * 0.5) for step in (10, 20, 30, 40)]
    assert set(found) == {"loss", "terms/head"}


def test_what_was_written_after_the_state_is_dropped(tmp_path: Path) -> None:
    write(tmp_path / "events", 0, RECORDS[:3])
    write(tmp_path / "events", 15, [{"step": 20, "loss": 7.0}])
    assert curves(tmp_path / "events")["loss"] == [(10, pytest.approx(0.1)), (20, 7.0)]


def test_a_training_from_the_start_begins_new_curves(tmp_path: Path) -> None:
    write(tmp_path / "events", 0, RECORDS)
    write(tmp_path / "events", 0, RECORDS[:1])
    assert curves(tmp_path / "events")["loss"] == [(10, pytest.approx(0.1))]


def test_without_tensorboard_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with EventLog(tmp_path / "events", 0) as events:
        events.append(RECORDS[0])
        events.copy_to(tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_was_stopped_and_resumed_has_the_curves_of_its_log(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    bench = Bench(corpus(tmp_path_factory.getbasetemp() / "tiny"), tmp_path)
    with pytest.raises(TrainingInterrupted):
        bench.train("one", training_settings(), should_stop=stop_after(17))
    bench.train("one", training_settings())
    published = bench.out_dir("one") / EVENTS_FOLDER
    found = curves(published)
    log = bench.log("one")
    assert found["loss"] == [(record["step"], pytest.approx(record["loss"])) for record in log]
    validated = [record for record in log if "validation" in record]
    assert len(validated) == 2
    assert [step for step, _ in found["validation/loss"]] == [record["step"] for record in validated]
    # TensorBoard puts the machine's name into event files and their names; none of it is published.
    assert sorted(file.name for file in published.iterdir()) == [f"events.out.tfevents.{i:06}" for i in range(2)]
    host = socket.gethostname()
    assert any(host in file.name for file in (bench.work_dir("one") / EVENTS_FOLDER).iterdir())
    assert not any(host.encode() in file.read_bytes() for file in published.iterdir())

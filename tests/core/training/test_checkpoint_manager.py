"""The files that a training keeps while it runs and when it fails, and how the next run resumes from them."""

from __future__ import annotations

import errno
import json
import math
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from booru_embed_core.errors import DiskError
from booru_embed_core.filesystem import file_sha256
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import CaptionBatch, Losses
from booru_embed_core.tokens.batches import Batch, EpochBatches, rows_of_split
from booru_embed_core.training import loop, states
from booru_embed_core.training import step as step_module
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.checkpoint_config import LOG_FILE, WEIGHTS_FILE, CheckpointError, read_config
from booru_embed_core.training.events import EVENTS_FOLDER
from booru_embed_core.training.loop import TrainingInterrupted
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.states import FAILED_STATE_FILE, DamagedStateWarning, read_state, state_files
from booru_embed_core.training.step import NonFiniteLossError, Run, compute_step
from tests.core.model_helpers import beyond_bounds, training_settings
from tests.core.training.training_helpers import LOGGED_STEPS, RESUMED, Bench, stop_after


@pytest.mark.parametrize(("function", "step"), [("compute_step", 13), ("compute_step", 0), ("validate", 17)])
def test_a_state_saved_by_another_thread_while_training_computes_ends_in_the_same_bits(
    bench: Bench,
    whole: tuple[str, list[dict[str, object]]],
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    step: int,
) -> None:
    """Like `ShutdownWatchdog` in the Dagster package when a step or a validation takes too long."""
    offered: list[Callable[[], str | None]] = []
    said: list[str | None] = []
    real = getattr(loop, function)

    def saved_meanwhile(run: Run, *rest: object) -> object:
        if run.step != step:
            return real(run, *rest)
        thread = threading.Thread(target=lambda: said.append(offered[0]()))
        thread.start()
        thread.join(timeout=60)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(loop, function, saved_meanwhile)
        with pytest.raises(KeyboardInterrupt):
            bench.train("late", RESUMED, offer_save=offered.append)
    assert said == [f"stopped at step {step} of 34; the state is in {bench.work_dir('late')}"]
    assert offered[0]() is None  # training is over: what it left half done is never saved
    assert state_files(bench.work_dir("late"))[-1].name == f"state-{step:09}.pt"
    seen: list[int] = []
    bench.train("late", RESUMED, report=lambda progress: seen.append(progress.step))
    # An interrupted validation is repeated and reported once.
    assert seen == [one for one in LOGGED_STEPS if one > step or (function == "validate" and one == step)]
    assert (bench.weights_sha256("late"), bench.log("late")) == whole


def test_nothing_is_saved_by_another_thread_while_the_weights_change(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[Callable[[], str | None]] = []
    threads: list[threading.Thread] = []
    said: list[str | None] = []
    real_step = Optimizer.step

    def watched(optimizer: Optimizer, rate: float) -> None:
        if not threads:
            threads.append(threading.Thread(target=lambda: said.append(offered[0]())))
            threads[0].start()
            threads[0].join(timeout=0.5)
            assert said == []
        real_step(optimizer, rate)

    monkeypatch.setattr(Optimizer, "step", watched)
    bench.train("watched", RESUMED, offer_save=offered.append)
    threads[0].join(timeout=60)
    (line,) = said
    assert line is not None
    assert line.startswith("stopped at step ")
    assert not line.startswith("stopped at step 0 ")


def test_a_state_is_copied_while_the_next_step_computes_and_before_its_weights_change(
    bench: Bench, whole: tuple[str, list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow: a step computes meanwhile, but waits with its update until the state is copied."""
    real_copy, real_step = states._copy, Optimizer.step
    events: list[str] = []
    has_computed = threading.Event()
    real_compute = compute_step

    def slow_copy(state: Any, stream: Any) -> None:
        if state["step"] == 7:
            assert has_computed.wait(timeout=60)
            events.append("copies")
            time.sleep(0.1)
        real_copy(state, stream)
        events.append(f"copied {state['step']}")

    def noted_compute(run: Run, batch: Batch) -> Losses:
        losses = real_compute(run, batch)
        if run.step == 7:
            has_computed.set()
        return losses

    def noted_step(optimizer: Optimizer, rate: float) -> None:
        events.append("changes")
        real_step(optimizer, rate)

    monkeypatch.setattr(states, "_copy", slow_copy)
    monkeypatch.setattr(loop, "compute_step", noted_compute)
    monkeypatch.setattr(Optimizer, "step", noted_step)
    with pytest.raises(TrainingInterrupted):
        bench.train("slow", RESUMED, should_stop=stop_after(8))
    assert events == [*["changes"] * 7, "copies", "copied 7", "changes", "copied 8"]
    bench.train("slow", RESUMED)
    assert (bench.weights_sha256("slow"), bench.log("slow")) == whole


def test_a_state_that_cannot_be_written_beside_the_training_stops_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(states, "_copy", full)
        with pytest.raises(DiskError, match="No space left"):
            bench.train("full", RESUMED)
    assert [file.name for file in bench.work_dir("full").iterdir() if "state" in file.name] == []


def test_the_last_states_and_the_best_checkpoint_are_there_while_training_runs(bench: Bench) -> None:
    settings = RESUMED.model_copy(update={"keep_states": 3})
    with pytest.raises(TrainingInterrupted):
        bench.train("kept", settings, should_stop=stop_after(30))
    work = bench.work_dir("kept")
    assert [int(file.stem.removeprefix("state-")) for file in state_files(work)] == [21, 28, 30]
    best = work / "best-epoch-1"
    model, config, _ = load_checkpoint(best)
    validation = next(record["validation"] for record in _work_log(work) if "validation" in record)
    assert (config.best_epoch, config.validation_loss) == (1.0, validation["loss"])
    bench.train("kept", settings)
    folders = [folder for folder in work.iterdir() if folder.is_dir() and folder.name != EVENTS_FOLDER]
    assert [folder.name for folder in folders] == ["best-epoch-2"]
    assert file_sha256(folders[0] / WEIGHTS_FILE) == bench.weights_sha256("kept")
    assert read_config(folders[0]) == read_config(bench.out_dir("kept"))
    assert not torch.equal(model.tag_bias, load_checkpoint(folders[0])[0].tag_bias)


def test_where_the_last_state_is_damaged_the_one_before_it_is_gone_on_from(
    bench: Bench, whole: tuple[str, list[dict[str, object]]]
) -> None:
    with pytest.raises(TrainingInterrupted):
        bench.train("damaged", RESUMED, should_stop=stop_after(20))
    before, last = state_files(bench.work_dir("damaged"))
    assert (before.name, last.name) == ("state-000000017.pt", "state-000000020.pt")
    last.write_bytes(last.read_bytes()[:1000])
    seen: list[int] = []
    with pytest.warns(DamagedStateWarning, match=r"020\.pt: damaged training state; resuming from state-000000017\.pt"):
        bench.train("damaged", RESUMED, report=lambda progress: seen.append(progress.step))
    assert seen[0] == 20
    assert (bench.weights_sha256("damaged"), bench.log("damaged")) == whole


def test_a_step_that_fails_leaves_the_state_before_it_to_look_into(
    bench: Bench, whole: tuple[str, list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = step_module.objective

    def overflowing(model: SetEncoder, captions: CaptionBatch, *rest: Any) -> Losses:
        losses = real(model, captions, *rest)
        asked.append(1)
        return losses if len(asked) != 13 else Losses(losses.total * math.inf, losses.terms)

    asked: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(step_module, "objective", overflowing)
        with pytest.raises(NonFiniteLossError) as error:
            bench.train("failed", RESUMED)
    work = bench.work_dir("failed")
    file = work / FAILED_STATE_FILE
    assert re.match(r"step 13: loss inf, gradient norm nan on a batch of 16 posts with ids \d+,", str(error.value))
    assert str(error.value).endswith(f"; the state before it is in {file}")
    state = read_state(file)
    assert state["step"] == 12
    batches = EpochBatches(bench.corpus.packed, rows_of_split(bench.corpus.packed, "train"), 16, RESUMED.seed)
    assert state["post_ids"] == error.value.post_ids == batches.packed.post_id[batches.rows(0, 12)].tolist()
    assert all(bool(tensor.isfinite().all()) for tensor in state["model"].values())
    # The saved state is unchanged; resuming from the failed state instead leads to the failing step.
    assert [one.name for one in state_files(work)] == ["state-000000007.pt"]
    file.rename(work / "state-000000012.pt")
    seen: list[int] = []
    with pytest.raises(TrainingInterrupted, match="stopped at step 13 of 34"):
        bench.train("failed", RESUMED, report=lambda progress: seen.append(progress.step), should_stop=stop_after(1))
    bench.train("failed", RESUMED, report=lambda progress: seen.append(progress.step))
    assert seen == [one for one in LOGGED_STEPS if one > 13]
    assert (bench.weights_sha256("failed"), bench.log("failed")) == whole


def test_after_a_failure_another_setting_is_another_training(bench: Bench) -> None:
    with pytest.raises(NonFiniteLossError, match=r"lower \[training\] learning_rate \(now 1e\+30\)"):
        bench.train("wild", beyond_bounds(learning_rate=1e30, warmup_share=0.0, checkpoint_every_steps=1))
    with pytest.raises(CheckpointError, match=r"other inputs or settings; remove state-\*\.pt there to train from the"):
        bench.train("wild", training_settings())
    for file in state_files(bench.work_dir("wild")):
        file.unlink()
    bench.train("wild", training_settings())
    bench.train("calm", training_settings())
    assert bench.weights_sha256("wild") == bench.weights_sha256("calm")
    assert bench.log("wild") == bench.log("calm")


def _work_log(work: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (work / LOG_FILE).read_text(encoding="utf-8").splitlines()]

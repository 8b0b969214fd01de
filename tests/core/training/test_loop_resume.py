"""A training stopped or killed at any point ends in the same bits as an uninterrupted one."""

from __future__ import annotations

import dataclasses
import math
import os
import signal

import numpy as np
import pytest
import torch

from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training.checkpoint_config import CheckpointError
from booru_embed_core.training.loop import TrainingInterrupted
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.progress import Progress
from booru_embed_core.training.states import state_files
from booru_embed_core.training.step import NonFiniteLossError
from tests.core.model_helpers import Corpus, training_settings
from tests.core.training.training_helpers import (
    ARRAYS,
    LOGGED_STEPS,
    NARROW,
    RESUMED,
    Bench,
    forks,
    stop_after,
    write_packed,
)


@pytest.mark.parametrize("num_steps", [1, 13, 17, 20, 33])
def test_a_training_that_was_stopped_ends_in_the_same_bits(
    bench: Bench, whole: tuple[str, list[dict[str, object]]], num_steps: int
) -> None:
    with pytest.raises(TrainingInterrupted, match=f"stopped at step {num_steps} of 34; the state is in"):
        bench.train("stopped", RESUMED, should_stop=stop_after(num_steps))
    assert not list(bench.out_dir("stopped").iterdir())
    seen: list[int] = []
    bench.train("stopped", RESUMED, report=lambda progress: seen.append(progress.step))
    assert seen == [step for step in LOGGED_STEPS if step > num_steps]
    assert (bench.weights_sha256("stopped"), bench.log("stopped")) == whole


def test_a_training_that_is_stopped_again_and_again_ends_in_the_same_bits(
    bench: Bench, whole: tuple[str, list[dict[str, object]]]
) -> None:
    num_stops = 0
    while num_stops < 20:
        try:
            bench.train("stopped", RESUMED, should_stop=stop_after(3))
            break
        except TrainingInterrupted:
            num_stops += 1
    assert num_stops == 11
    assert (bench.weights_sha256("stopped"), bench.log("stopped")) == whole


def test_states_are_saved_by_minutes_and_change_nothing(
    bench: Bench, whole: tuple[str, list[dict[str, object]]]
) -> None:
    settings = RESUMED.model_copy(update={"checkpoint_every_minutes": 1e-6, "keep_states": 100})
    with pytest.raises(TrainingInterrupted):
        bench.train("often", settings, should_stop=stop_after(20))
    steps = [int(file.stem.removeprefix("state-")) for file in state_files(bench.work_dir("often"))]
    assert steps == list(range(21))
    last = state_files(bench.work_dir("often"))[13]
    for later in state_files(bench.work_dir("often"))[14:]:
        later.unlink()
    assert last.name == "state-000000013.pt"
    bench.train("often", RESUMED)
    assert (bench.weights_sha256("often"), bench.log("often")) == whole


def train_until_killed(bench: Bench, step: int) -> None:
    """A training in its own process that kills itself when `step` is reported."""
    torch.set_num_threads(1)

    def report(progress: Progress) -> None:
        if progress.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    bench.train("killed", RESUMED, report=report)


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_state_and_ends_in_the_same_bits(
    bench: Bench, whole: tuple[str, list[dict[str, object]]]
) -> None:
    # Step 30 is logged and then lost: the last state is from step 21, or from 28 if that was written meanwhile.
    process = forks().Process(target=train_until_killed, args=(bench, 30))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not list(bench.out_dir("killed").iterdir())
    seen: list[int] = []
    bench.train("killed", RESUMED, report=lambda progress: seen.append(progress.step))
    assert seen in ([28, 30, 34], [30, 34])
    assert (bench.weights_sha256("killed"), bench.log("killed")) == whole


def test_a_training_that_was_done_but_not_published_is_published(bench: Bench) -> None:
    settings = training_settings(num_epochs=1)
    whole = bench.train("whole", settings)
    again = bench.train("whole", settings)
    assert math.isfinite(again.final_loss)
    assert dataclasses.replace(again, seconds=whole.seconds) == whole


def test_saving_more_often_is_the_same_training(bench: Bench, whole: tuple[str, list[dict[str, object]]]) -> None:
    with pytest.raises(TrainingInterrupted):
        bench.train("often", RESUMED.model_copy(update={"checkpoint_every_steps": 3}), should_stop=stop_after(5))
    bench.train("often", RESUMED)
    assert bench.weights_sha256("often") == whole[0]


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        (training_settings(learning_rate=2e-2), NARROW),
        (training_settings(num_epochs=3), NARROW),
        (training_settings(precision="bf16"), NARROW),
        (training_settings(), NARROW.model_copy(update={"dropout": 0.1})),
    ],
)
def test_the_state_of_another_training_is_refused(
    bench: Bench, settings: TrainingSettings, model: ModelSettings
) -> None:
    with pytest.raises(TrainingInterrupted):
        bench.train("one", training_settings(), should_stop=stop_after(2))
    (state,) = state_files(bench.work_dir("one"))
    before = state.read_bytes()
    with pytest.raises(
        CheckpointError, match=r"state-000000002\.pt: belongs to a training with other inputs or settings"
    ):
        bench.train("one", settings, model)
    assert state.read_bytes() == before


def test_the_state_of_a_training_in_another_precision_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings say "auto" on both machines."""
    for native, refusal in ((False, None), (True, "belongs to a training with other inputs or settings")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda native=native: {"avx512_bf16": native})
        with pytest.raises(CheckpointError if refusal else TrainingInterrupted, match=refusal):
            bench.train("one", training_settings(precision="auto"), should_stop=stop_after(2))


def test_the_state_of_other_posts_is_refused(bench: Bench, corpus: Corpus) -> None:
    with pytest.raises(TrainingInterrupted):
        bench.train("one", training_settings(), should_stop=stop_after(2))
    packed = corpus.packed
    for name in ("tokens", "rating", "score"):
        arrays = {key: getattr(packed, key).copy() for key in (*ARRAYS, name)}
        arrays[name][:2] = arrays[name][1::-1]  # swap two neighbours: lengths and counts stay the same
        assert not np.array_equal(arrays[name], getattr(packed, name))
        other = bench.folder / f"{name}.safetensors"
        write_packed(packed, other, arrays)
        with pytest.raises(CheckpointError, match="belongs to a training with other inputs"):
            bench.train("one", training_settings(), packed_path=other)


def test_weights_that_turn_nan_stop_the_next_step_and_keep_the_last_state(
    bench: Bench, whole: tuple[str, list[dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real_step = Optimizer.step
    steps: list[int] = []

    def poisoned(optimizer: Optimizer, rate: float) -> None:
        steps.append(1)
        real_step(optimizer, rate)
        if len(steps) == 15:
            optimizer.parameters[0].data[0, 0] = math.nan

    with monkeypatch.context() as patched:
        patched.setattr(Optimizer, "step", poisoned)
        with pytest.raises(NonFiniteLossError, match=r"step 16: loss nan, gradient norm nan on a batch of 16 posts"):
            bench.train("nan", RESUMED)
    # The state of step 14 is sound: without the poison, training ends as if it had never met it.
    bench.train("nan", RESUMED)
    assert (bench.weights_sha256("nan"), bench.log("nan")) == whole


def test_a_training_with_sampled_tags_that_was_stopped_ends_in_the_same_bits(bench: Bench) -> None:
    settings = RESUMED.model_copy(update={"num_sampled_tags": 1})
    bench.train("whole", settings)
    for num_steps in (1, 11, 5, 1):  # 17 steps end the first epoch
        with pytest.raises(TrainingInterrupted):
            bench.train("stopped", settings, should_stop=stop_after(num_steps))
    bench.train("stopped", settings)
    assert bench.weights_sha256("stopped") == bench.weights_sha256("whole")
    assert bench.log("stopped") == bench.log("whole")

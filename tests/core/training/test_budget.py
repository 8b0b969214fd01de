"""Trainings that are limited to a number of steps or minutes."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from booru_embed_core.training import budget
from booru_embed_core.training.budget import validated_rows
from booru_embed_core.training.checkpoint_config import CARD_FILE, read_config
from booru_embed_core.training.loop import TrainingInterrupted
from booru_embed_core.training.progress import Progress
from booru_embed_core.training.schedule import Steps, learning_rate
from booru_embed_core.training.step import Run
from tests.core.training.training_helpers import RESUMED, Bench, stop_after

LIMITED = RESUMED.model_copy(update={"max_steps": 19, "num_sampled_tags": 1})
"""17 steps are an epoch; the tables are sampled."""


def test_a_limited_training_has_its_own_schedule_and_minutes_are_turned_into_steps_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The speed of the machine is replaced, and not the steps that measure it."""
    seen: list[Progress] = []
    report = bench.train("steps", LIMITED, report=seen.append)
    assert [progress.step for progress in seen] == [7, 10, 14, 17, 19]
    assert [progress.step for progress in seen if progress.validation] == [17, 19]
    rates = [learning_rate(progress.step - 1, 19, LIMITED) for progress in seen]
    assert [progress.learning_rate for progress in seen] == rates
    assert report.num_steps == 19
    assert report.best_epoch in (1, 1 + 2 / 17)

    minutes = LIMITED.model_copy(update={"max_steps": None, "max_minutes": 100.0})
    real, asked = budget._step_seconds, itertools.count(1)

    def slow(run: Run, minutes: float) -> float:
        assert next(asked) == 1
        assert 0 < real(run, 1e-6) < 60
        return 6000 / 19.5

    monkeypatch.setattr(budget, "_step_seconds", slow)
    said: list[str] = []
    with pytest.raises(TrainingInterrupted, match="stopped at step 4 of 19"):
        bench.train("minutes", minutes, should_stop=stop_after(4), announce=said.append)
    bench.train("minutes", minutes)
    begun, first = said[-2:]
    assert "100 minutes are 19 of 34 steps, at 307.69 s a step" in said
    assert begun == f"trains {report.num_parameters:,} parameters on cpu: 19 steps"
    assert re.fullmatch(r"step 1/19  took [\d.]+ s for 16 posts and 149 tags; later ones may be faster", first)
    assert bench.weights_sha256("minutes") == bench.weights_sha256("steps")
    assert bench.log("minutes") == bench.log("steps")
    config = read_config(bench.out_dir("minutes"))
    assert (config.num_steps, config.num_planned_steps, config.is_practice) == (19, 34, True)
    card = (bench.out_dir("minutes") / CARD_FILE).read_text(encoding="utf-8")
    assert "posts, 1.1 of 2 epochs, a practice run: 19 of 34 steps; best after" in card


@pytest.mark.parametrize(("limit", "num"), [(None, 9000), (100, 9000), (99, 8910), (50, 4500), (1, 4096)])
def test_a_practice_run_within_an_epoch_validates_an_even_sample(limit: int | None, num: int) -> None:
    rows = np.arange(9000) * 2
    sample = validated_rows(Steps((100, 200), limit), rows)
    assert len(sample) == num
    assert set(np.diff(sample)) <= {2, 4, 6}
    assert sample[-1] >= 2 * 9000 - 6
    assert len(validated_rows(Steps((100, 200), limit), rows[:0])) == 0

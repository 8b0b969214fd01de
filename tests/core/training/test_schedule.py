"""The learning rate's shape, and seeds that do not collide."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.training.schedule import Steps, derive_seed, learning_rate
from tests.core.model_helpers import training_settings


@given(
    num_steps=st.integers(1, 400),
    share=st.floats(0, 0.99),
    peak=st.floats(1e-5, 1.0),
    decay=st.sampled_from(["linear", "cosine"]),
)
@settings(deadline=None)
def test_the_learning_rate_climbs_to_its_peak_and_falls_towards_zero(
    num_steps: int, share: float, peak: float, decay: str
) -> None:
    settings = training_settings(learning_rate=peak, warmup_share=share, decay=decay)
    rates = [learning_rate(step, num_steps, settings) for step in range(num_steps)]
    num_warmup = max(1, round(share * num_steps))
    assert all(rate > 0 for rate in rates)
    assert rates[num_warmup - 1] == pytest.approx(peak)
    assert max(rates) == pytest.approx(peak)
    assert all(after > before for before, after in itertools.pairwise(rates[:num_warmup]))
    falling = rates[num_warmup - 1 :]
    assert all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(falling))


def test_the_learning_rate_is_the_formula() -> None:
    settings = training_settings(learning_rate=0.8, warmup_share=0.25, decay="cosine")
    rates = [learning_rate(step, 8, settings) for step in range(8)]
    cosine = [0.4 * (1 + math.cos(math.pi * done / 6)) for done in range(6)]
    assert rates == pytest.approx([0.4, 0.8, *cosine])
    linear = settings.model_copy(update={"decay": "linear"})
    rates = [learning_rate(step, 8, linear) for step in range(8)]
    assert rates == pytest.approx([0.4, 0.8, *(0.8 * left / 6 for left in (6, 5, 4, 3, 2, 1))])


def test_a_training_of_one_step_has_the_peak() -> None:
    assert learning_rate(0, 1, training_settings(learning_rate=0.5, warmup_share=0.0)) == 0.5


@given(st.lists(st.lists(st.integers(-(2**63), 2**64), max_size=4), max_size=20))
@settings(deadline=None)
def test_seeds_tell_numbers_and_their_order_apart(keys: list[list[int]]) -> None:
    different = {tuple(key) for key in keys}
    seeds = {derive_seed(*key) for key in different}
    assert len(seeds) == len(different)
    assert all(0 <= seed < 2**63 for seed in seeds)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_steps_are_the_batches_of_epochs_one_after_another(sizes: list[int]) -> None:
    steps = Steps(tuple(itertools.accumulate(sizes)))
    positions = [(epoch, index) for epoch, size in enumerate(sizes) for index in range(size)]
    assert steps.num_steps == len(positions)
    assert [steps.position(step) for step in range(steps.num_steps)] == positions
    assert [steps.epochs_done(step) for step in range(steps.num_steps)] == [e + i / sizes[e] for e, i in positions]
    assert steps.position(steps.num_steps) == (len(sizes), 0)
    assert steps.epochs_done(steps.num_steps) == len(sizes)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 40))
def test_a_limit_ends_the_same_steps_early(sizes: list[int], limit: int, other: int) -> None:
    whole = Steps(tuple(itertools.accumulate(sizes)))
    steps = whole.limited(limit).limited(other).limited(None)
    assert steps.num_steps == min(limit, other, sum(sizes))
    assert steps.num_planned == whole.num_steps
    ends = [step for step in range(1, steps.num_steps + 1) if steps.is_end(step)]
    assert ends == sorted({*(end for end in whole.ends if end < steps.num_steps), steps.num_steps})
    assert [steps.position(step) for step in ends] == [whole.position(step) for step in ends]

"""Drift of shares against the definition, and what chance alone does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.tags.drift import share_drift
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA

COUNTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50), min_size=1)


def table(counts: dict[str, int]) -> pa.Table:
    return pa.table([list(counts), list(counts.values()), [1.0] * len(counts)], schema=FREQUENCY_SCHEMA)


@given(COUNTS, COUNTS)
def test_the_distance_is_the_total_variation(before: dict[str, int], after: dict[str, int]) -> None:
    p = {tag: count / sum(before.values()) for tag, count in before.items()}
    q = {tag: count / sum(after.values()) for tag, count in after.items()}
    wanted = sum(abs(p.get(tag, 0) - q.get(tag, 0)) for tag in {*p, *q}) / 2
    drift = share_drift(table(before), table(after))
    assert drift.distance == pytest.approx(wanted, abs=1e-12)
    assert 0 <= drift.by_chance <= 1
    steps = [abs(moved.before - moved.after) for moved in drift.moved]
    assert steps == sorted(steps, reverse=True)
    for moved in drift.moved:
        assert (moved.before, moved.after) == pytest.approx((p.get(moved.tag, 0), q.get(moved.tag, 0)))
    assert bool(drift.moved) == (wanted > 1e-12)
    assert share_drift(table(after), table(before)).distance == pytest.approx(wanted, abs=1e-12)


def test_the_tags_that_moved_most_are_named() -> None:
    drift = share_drift(table({"hat": 50, "bow": 30, "cat": 20}), table({"hat": 20, "bow": 30, "dog": 50}))
    assert drift.distance == pytest.approx(0.5)
    assert [tuple(moved) for moved in drift.moved] == [
        ("dog", 0.0, pytest.approx(0.5)),
        ("hat", pytest.approx(0.5), pytest.approx(0.2)),
        ("cat", pytest.approx(0.2), 0.0),
    ]


@pytest.mark.parametrize(("num_before", "num_after", "distance"), [(0, 0, 0.0), (0, 3, 1.0), (3, 0, 1.0)])
def test_a_category_that_comes_or_goes_has_moved_whole(num_before: int, num_after: int, distance: float) -> None:
    before, after = ({"hat": num} if num else {} for num in (num_before, num_after))
    drift = share_drift(table(before), table(after))
    assert (drift.distance, drift.by_chance, drift.moved) == (distance, 0.0, ())


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_samples_of_the_same_tags_differ_by_no_more_than_chance(exponent: float) -> None:
    generator = np.random.default_rng(7)
    weights = np.arange(1, 5001) ** -exponent
    rates = weights / weights.sum()
    for num_before, num_after in ((2_000, 2_000), (500, 50_000), (100_000, 1_000_000)):
        samples = [generator.poisson(num * rates) for num in (num_before, num_after)]
        drift = share_drift(
            *(table({f"tag_{index}": int(counts[index]) for index in np.flatnonzero(counts)}) for counts in samples)
        )
        assert drift.distance <= drift.by_chance + 0.01
        assert drift.distance > 0.3 * drift.by_chance, "the bound is of the order of what it bounds"


def test_no_more_than_three_tags_are_named() -> None:
    before, after = {"hat": 40, "bow": 30, "cat": 20, "dog": 10}, {"hat": 10, "bow": 20, "cat": 30, "dog": 40}
    assert len(share_drift(table(before), table(after)).moved) == 3


def test_a_rare_tag_adds_its_share_to_chance_and_a_frequent_one_its_deviation() -> None:
    drift = share_drift(table({"hat": 99, "bow": 1}), table({"hat": 1000}))
    rare, frequent = 1 / 1100, 1099 / 1100
    assert drift.by_chance == pytest.approx((2 * rare + (frequent / 100 + frequent / 1000) ** 0.5) / 2)

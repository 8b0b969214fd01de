"""The readers that are fuzzed, with some hundred mutated inputs each: ``fuzz.py`` tries many more by coverage."""

from __future__ import annotations

from random import Random

import pytest

from tests.faults.fuzz import TARGETS, target_of
from tests.faults.fuzz_cases import Target, cpu_limit, mutated

NUM_INPUTS = 200


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_mutated_inputs_are_read_or_refused_in_one_line(name: str) -> None:
    target, random = target_of(name), Random(18)
    seeds = target.seeds()
    random.shuffle(seeds)
    outcomes = [target.is_read(content) for content in seeds[:NUM_INPUTS]]
    outcomes += [target.is_read(mutated(random.choice(seeds), target, random)) for _ in range(NUM_INPUTS)]
    assert True in outcomes, "a fuzz whose inputs are all refused looks at nothing"
    assert False in outcomes or not target.errors


def failing(error: BaseException) -> Target:
    def read(content: bytes) -> None:
        raise error

    return Target(read, lambda: [b""], (b"a",), errors=(ValueError,))


def test_an_error_that_is_no_line_or_none_of_the_reader_s_is_found() -> None:
    assert not failing(ValueError("posts.csv: is empty")).is_read(b"")
    for error in (ValueError("two\nlines"), ValueError(""), ValueError("long" * 1_000)):
        with pytest.raises(AssertionError):
            failing(error).is_read(b"")
    with pytest.raises(KeyError):
        failing(KeyError("x")).is_read(b"")


def spin() -> None:
    with cpu_limit(0.05):
        while True:
            pass


def test_what_does_not_end_is_stopped() -> None:
    with pytest.raises(TimeoutError, match="CPU time"):
        spin()

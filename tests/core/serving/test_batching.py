"""Threads that ask at once: each gets its own answer, and the network is asked fewer times than they are many."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.serving.batching import BatchingNetwork
from booru_embed_core.serving.network import Sets


def sets_of(*lengths: int, first: int = 0) -> Sets:
    nothing = np.full(len(lengths), -1, dtype=np.int64)
    return Sets(np.arange(first, first + sum(lengths)), np.array(lengths, dtype=np.int64), nothing, nothing)


class Sums:
    """A network whose row for a set is the sum of its tags; the first call waits until it may end."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.started, self.may_end = threading.Event(), threading.Event()

    def tag_scores(self, sets: Sets) -> NDArray[np.float32]:
        self.sizes.append(len(sets.lengths))
        self.started.set()
        assert self.may_end.wait(30)
        if 666 in sets.tags:
            raise ValueError("666 is no tag")
        ends = np.cumsum(sets.lengths)
        return np.array(
            [[sets.tags[end - n : end].sum()] for end, n in zip(ends, sets.lengths, strict=True)], np.float32
        )

    embeddings = tag_scores

    def token_states(self, sets: Sets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        return np.zeros((len(sets.tags), 1), np.float32), np.zeros(1, np.int32)


def ask_while_busy(network: Sums, asked: list[Sets], max_sets: int) -> list[NDArray[np.float32] | Exception]:
    """The answers to `asked`, all of which arrive while the network computes for somebody else."""
    joined = BatchingNetwork(network, max_sets)

    def ask(sets: Sets) -> NDArray[np.float32] | Exception:
        try:
            return joined.tag_scores(sets)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(len(asked) + 1) as threads:
        first = threads.submit(ask, sets_of(1))
        assert network.started.wait(30)
        answers = []
        for place, sets in enumerate(asked):
            answers.append(threads.submit(ask, sets))
            while len(joined._tag_scores._waiting) < place + 1:
                threading.Event().wait(0.001)
        network.may_end.set()
        first.result()
        return [answer.result() for answer in answers]


def test_what_arrives_while_it_computes_goes_through_together() -> None:
    network = Sums()
    asked = [sets_of(1, 0, 2, first=10 * n) for n in range(1, 6)]
    answers = ask_while_busy(network, asked, max_sets=9)
    assert network.sizes == [1, 9, 6]
    for n, answer in enumerate(answers, 1):
        assert isinstance(answer, np.ndarray)
        assert answer.tolist() == [[10 * n], [0], [20 * n + 3]]


def test_a_call_larger_than_the_limit_goes_alone() -> None:
    network = Sums()
    answers = ask_while_busy(network, [sets_of(*[1] * 7), sets_of(1)], max_sets=2)
    assert network.sizes == [1, 7, 1]
    assert [len(answer) for answer in answers if isinstance(answer, np.ndarray)] == [7, 1]


def test_an_error_reaches_all_that_were_computed_together_and_nobody_else() -> None:
    answers = ask_while_busy(Sums(), [sets_of(1), sets_of(1, first=666), sets_of(1, first=5)], max_sets=2)
    assert [str(answer) for answer in answers[:2]] == ["666 is no tag"] * 2
    assert isinstance(answers[2], np.ndarray)
    assert answers[2].tolist() == [[5]]


@pytest.mark.parametrize("method", ["tag_scores", "embeddings", "token_states"])
def test_alone_it_is_the_network(method: str) -> None:
    network = Sums()
    network.may_end.set()
    sets = sets_of(2, 3)
    for ours, its in zip(getattr(BatchingNetwork(network), method)(sets), getattr(network, method)(sets), strict=True):
        np.testing.assert_array_equal(ours, its)

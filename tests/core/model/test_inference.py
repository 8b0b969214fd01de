"""Encoding in bounded memory: results depend neither on the chunk size nor on the order of sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.model import inference
from booru_embed_core.model.dense import DenseEncoder
from booru_embed_core.model.encoder import SUMMARY_ID
from booru_embed_core.model.inference import encode_sets, inference_dtype, token_states
from booru_embed_core.model.objective import FIRST_RATING_ID, FIRST_SCORE_ID
from tests.core.model_helpers import CATEGORY_SIZES, NUM_SPECIAL, encoder, random_captions

NUM_TAGS = sum(CATEGORY_SIZES)
MODEL = encoder()


def flat(sets: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array([tag for tags in sets for tag in tags], np.int64), np.array([len(tags) for tags in sets], np.int64)


@given(num=st.integers(1, 30), seed=st.integers(0, 1000), batch_tokens=st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_parts_of_any_size_give_the_same_states(num: int, seed: int, batch_tokens: int) -> None:
    sets = random_captions(num, NUM_TAGS, seed)
    whole = encode_sets(MODEL, *flat(sets))
    assert whole.shape == (num, 32)
    in_parts = encode_sets(MODEL, *flat(sets), batch_tokens=batch_tokens)
    torch.testing.assert_close(in_parts, whole, rtol=0, atol=2e-6)


def test_states_stand_in_the_order_of_the_sets() -> None:
    sets = [[4, 5, 6], [], [1], [2, 3], [7, 8, 9, 10]]
    states = encode_sets(MODEL, *flat(sets), batch_tokens=4)
    for state, tags in zip(states, sets, strict=True):
        ids = torch.tensor([SUMMARY_ID, *(tag + NUM_SPECIAL for tag in tags)])
        with torch.no_grad():
            alone = MODEL(ids, torch.tensor([len(ids)]), len(ids))[0]
        torch.testing.assert_close(state, alone, rtol=0, atol=2e-6)


def test_rating_and_score_are_tokens_where_they_are_given() -> None:
    sets = [[1, 2, 3], [1], [1, 2], []]
    tags, lengths = flat(sets)
    ratings, bins = np.array([-1, 2, -1, 2]), np.array([-1, -1, 9, 9])
    states = encode_sets(MODEL, tags, lengths, ratings, bins)
    for state, own, rating, score_bin in zip(states, sets, ratings.tolist(), bins.tolist(), strict=True):
        given_ = [FIRST_RATING_ID + rating] * (rating >= 0) + [FIRST_SCORE_ID + score_bin] * (score_bin >= 0)
        ids = torch.tensor([SUMMARY_ID, *given_, *(tag + NUM_SPECIAL for tag in own)])
        with torch.no_grad():
            alone = MODEL(ids, torch.tensor([len(ids)]), len(ids))[0]
        torch.testing.assert_close(state, alone, rtol=0, atol=2e-6)
    assert torch.cdist(states, states).add(torch.eye(4)).min() > 1e-2


def test_no_part_is_larger_than_allowed_but_for_a_single_set(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    real = DenseEncoder.__call__

    def noted(dense: DenseEncoder, token_ids: torch.Tensor, lengths: torch.Tensor, weights: None) -> torch.Tensor:
        assert len(token_ids) == int(lengths.sum())
        sizes.append((len(token_ids), len(lengths)))
        return real(dense, token_ids, lengths, weights)

    monkeypatch.setattr(DenseEncoder, "__call__", noted)
    sets = [*random_captions(40, NUM_TAGS, 1), list(range(NUM_TAGS))]
    encode_sets(MODEL, *flat(sets), batch_tokens=14)
    assert sum(num_sets for _, num_sets in sizes) == len(sets)
    assert all(num_tokens <= 14 or num_sets == 1 for num_tokens, num_sets in sizes)
    assert len(sizes) < len(sets)
    sizes.clear()
    tags, lengths = flat(sets)
    encode_sets(MODEL, tags, lengths, np.ones_like(lengths), np.ones_like(lengths), batch_tokens=14)
    assert all(num_tokens <= 14 or num_sets == 1 for num_tokens, num_sets in sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neither_order_of_tags_nor_repetition_of_a_set_shows(dtype: torch.dtype) -> None:
    sets = random_captions(20, NUM_TAGS, 3)
    states = encode_sets(MODEL, *flat(sets), dtype=dtype)
    backwards = encode_sets(MODEL, *flat([tags[::-1] for tags in sets]), dtype=dtype)
    assert torch.equal(states, backwards)
    twice = encode_sets(MODEL, *flat([*sets, *sets]), dtype=dtype)
    torch.testing.assert_close(twice[:20], twice[20:], rtol=0, atol=2e-6)


def test_no_sets_give_no_states() -> None:
    nothing = np.zeros(0, np.int64)
    assert encode_sets(MODEL, nothing, nothing).shape == (0, 32)
    assert token_states(MODEL, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).shape == (0, 32)


@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_token_states_stand_in_the_order_of_the_tokens(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(NUM_SPECIAL, NUM_SPECIAL + NUM_TAGS, (sum(lengths),), generator=generator)
    ids[np.cumsum([0, *lengths[:-1]])] = SUMMARY_ID
    states = token_states(MODEL, ids, torch.tensor(lengths))
    alone = [token_states(MODEL, part, torch.tensor([len(part)])) for part in ids.split(lengths)]
    torch.testing.assert_close(states, torch.cat(alone), rtol=0, atol=2e-6)


def some_weights(num: int, seed: int) -> NDArray[np.float32]:
    """Weights of 1 to 3, which copies of a tag can stand for."""
    return np.random.default_rng(seed).integers(1, 4, num).astype(np.float32)


@pytest.mark.parametrize("trunk", ["attention", "deepsets"])
def test_a_weight_counts_as_that_many_copies(trunk: str) -> None:
    model = encoder(trunk=trunk)
    sets = random_captions(12, NUM_TAGS, 5)
    tags, lengths = flat(sets)
    weights = some_weights(len(tags), 1)
    copies = np.repeat(tags, weights.astype(int))
    copied = np.add.reduceat(np.append(weights, 0), np.cumsum([0, *lengths[:-1]])) * (lengths > 0)
    found = encode_sets(model, tags, lengths, weights=weights)
    torch.testing.assert_close(found, encode_sets(model, copies, copied.astype(np.int64)), rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_weight_is_nearly_absence_and_a_large_one_nearly_all(dtype: torch.dtype) -> None:
    tags, lengths = flat([[4, 5, 6]])
    without = encode_sets(MODEL, *flat([[4, 6]]), dtype=dtype)
    nearly = encode_sets(MODEL, tags, lengths, weights=np.array([1, 1e-12, 1], np.float32), dtype=dtype)
    torch.testing.assert_close(nearly, without, rtol=0, atol=2e-6 if dtype == torch.float32 else 0.05)
    most, all_ = (
        encode_sets(MODEL, tags, lengths, weights=np.array([1, w, 1], np.float32), dtype=dtype) for w in (1e6, 1e9)
    )
    torch.testing.assert_close(most, all_, rtol=0, atol=1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_change_no_bit_of_sets_without(dtype: torch.dtype) -> None:
    plain, others = random_captions(20, NUM_TAGS, 3), random_captions(9, NUM_TAGS, 4)
    tags, lengths = flat(plain)
    states = encode_sets(MODEL, tags, lengths, dtype=dtype)
    ones = encode_sets(MODEL, tags, lengths, weights=np.ones(len(tags), np.float32), dtype=dtype)
    assert torch.equal(ones, states)
    more, more_lengths = flat(others)
    mixed = np.concatenate([np.ones(len(tags)), np.full(len(more), 0.5)]).astype(np.float32)
    together = encode_sets(MODEL, np.append(tags, more), np.append(lengths, more_lengths), weights=mixed, dtype=dtype)
    assert torch.equal(together[:20], states)


def test_no_part_mixes_weighted_sets_with_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, int]] = []
    real = DenseEncoder.__call__

    def noted(dense: DenseEncoder, ids: torch.Tensor, lengths: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        seen.append((weights is not None, len(lengths)))
        return real(dense, ids, lengths, weights)

    monkeypatch.setattr(DenseEncoder, "__call__", noted)
    tags, lengths = flat([[1, 2], [3], [], [4, 5, 6], [7]])
    encode_sets(MODEL, tags, lengths, weights=np.array([1, 0.5, 1, 1, 1, 1, 2], np.float32))
    assert seen == [(False, 3), (True, 2)]


def test_token_states_take_weights_too() -> None:
    a, b, c = range(NUM_SPECIAL, NUM_SPECIAL + 3)
    ids = torch.tensor([SUMMARY_ID, a, b, SUMMARY_ID, c, SUMMARY_ID, a, c, b])
    lengths = torch.tensor([3, 2, 4])
    plain = token_states(MODEL, ids, lengths)
    found = token_states(MODEL, ids, lengths, np.array([1, 2, 1, 1, 1, 1], np.float32))
    copied = token_states(MODEL, torch.tensor([SUMMARY_ID, a, b, b]), torch.tensor([4]))
    torch.testing.assert_close(found[:3], copied[:3], rtol=0, atol=5e-6)
    assert torch.equal(found[3:], token_states(MODEL, ids[3:], lengths[1:]))
    assert (found[:3] - plain[:3]).abs().max() > 1e-3
    assert torch.equal(token_states(MODEL, ids, lengths, np.ones(6, np.float32)), plain)


def test_a_gpu_computes_in_bf16_and_a_cpu_in_float32() -> None:
    assert inference_dtype(torch.device("cpu")) == torch.float32
    assert inference_dtype(torch.device("cuda")) == torch.bfloat16
    assert inference.BATCH_TOKENS > 0

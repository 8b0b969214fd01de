"""The dense inference path agrees with the training path, for every trunk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.model.dense import DenseEncoder, trunk_in
from booru_embed_core.model.encoder import SUMMARY_ID
from tests.core.model_helpers import CATEGORY_SIZES, NUM_SPECIAL, encoder

NUM_TAGS = sum(CATEGORY_SIZES)


MODELS = {
    "one block": encoder(num_layers=1),
    "three blocks": encoder(num_layers=3),
    "attention first": encoder(num_layers=2, feed_forward_first=False),
    "deepsets": encoder(trunk="deepsets"),
}


@pytest.mark.parametrize("name", MODELS)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12).map(sorted), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_states_are_those_of_training(name: str, lengths: list[int], seed: int) -> None:
    model = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(NUM_SPECIAL, NUM_SPECIAL + NUM_TAGS, (sum(lengths),), generator=generator)
    sizes = torch.tensor(lengths)
    token_ids[sizes.cumsum(0) - sizes] = SUMMARY_ID
    found = DenseEncoder(model, token_ids.unique(), torch.float32)(token_ids, sizes)
    with torch.no_grad():
        expected = model(token_ids, sizes, max(lengths))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    weights = torch.rand(len(token_ids), generator=generator) * 2 + 0.01
    found = DenseEncoder(model, token_ids.unique(), torch.float32)(token_ids, sizes, weights)
    with torch.no_grad():
        weighted = model(token_ids, sizes, max(lengths), weights=weights)
    torch.testing.assert_close(found, weighted, rtol=0, atol=1e-5)
    coarse = DenseEncoder(model, token_ids.unique(), torch.bfloat16)(token_ids, sizes)
    assert torch.nn.functional.cosine_similarity(coarse, expected).min() > 0.99


@pytest.mark.parametrize("name", MODELS)
def test_weights_that_are_converted_once_give_the_same_bytes(name: str) -> None:
    model, lengths = MODELS[name], torch.tensor([1, 3, 3, 8])
    token_ids = torch.arange(NUM_SPECIAL, NUM_SPECIAL + int(lengths.sum())).clamp(max=NUM_SPECIAL + NUM_TAGS - 1)
    token_ids[lengths.cumsum(0) - lengths] = SUMMARY_ID
    of_each, distinct = (model, trunk_in(model, torch.bfloat16)), token_ids.unique()
    states = [DenseEncoder(one, distinct, torch.bfloat16)(token_ids, lengths) for one in of_each]
    assert torch.equal(*states)
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())


@pytest.mark.parametrize("name", MODELS)
def test_token_vectors_are_rows_of_the_table_that_is_read(name: str) -> None:
    model = MODELS[name]
    some = torch.tensor([0, SUMMARY_ID, NUM_SPECIAL, NUM_SPECIAL + NUM_TAGS - 1])
    whole = torch.cat([model.tokens.weight[:NUM_SPECIAL], model.tag_vectors()])
    torch.testing.assert_close(model.token_vectors(some), whole[some], rtol=0, atol=0)

"""The network: permutation invariance, independence of other sets in the batch, and correct gradients."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from booru_embed_core.model.attention import SetLayout
from booru_embed_core.model.encoder import SUMMARY_ID, SetEncoder, rms_norm, swiglu, token_order
from booru_embed_core.model.objective import objective
from booru_embed_core.schema import CATEGORIES
from tests.core.model_helpers import CATEGORY_SIZES, NUM_SPECIAL, captions, encoder, random_captions, training_settings

NUM_TAGS = sum(CATEGORY_SIZES)
Trunk = Literal["attention", "deepsets"]
TRUNKS: tuple[Trunk, ...] = ("attention", "deepsets")
MODELS = {trunk: encoder(trunk=trunk) for trunk in TRUNKS}
SETS = st.lists(st.lists(st.integers(0, NUM_TAGS - 1), unique=True, max_size=NUM_TAGS), min_size=1, max_size=6)


def read(sets: list[list[int]]) -> tuple[Tensor, Tensor, int]:
    """Token ids, lengths and maximum length of sets of tags, each preceded by the summary token."""
    rows = [[SUMMARY_ID, *(tag + NUM_SPECIAL for tag in tags)] for tags in sets]
    lengths = [len(ids) for ids in rows]
    return torch.tensor([i for ids in rows for i in ids]), torch.tensor(lengths), max(lengths)


@torch.no_grad()
def pooled(model: SetEncoder, sets: list[list[int]]) -> Tensor:
    output: Tensor = model(*read(sets))
    return output


def embedding(model: SetEncoder, sets: list[list[int]]) -> Tensor:
    with torch.no_grad():
        return F.normalize(model.embed(pooled(model, sets)), dim=-1)


def far(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("trunk", TRUNKS)
@given(sets=SETS, data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_order_of_tags_changes_nothing(trunk: Trunk, sets: list[list[int]], data: st.DataObject) -> None:
    model = MODELS[trunk]
    shuffled = [list(data.draw(st.permutations(tags))) for tags in sets]
    assert far(pooled(model, sets), pooled(model, shuffled)) < 2e-6
    assert far(embedding(model, sets), embedding(model, shuffled)) < 2e-6


@pytest.mark.parametrize("trunk", TRUNKS)
@given(sets=SETS, data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_company_of_other_sets_changes_nothing(trunk: Trunk, sets: list[list[int]], data: st.DataObject) -> None:
    model = MODELS[trunk]
    together = pooled(model, sets)
    alone = torch.cat([pooled(model, [tags]) for tags in sets])
    assert far(together, alone) < 2e-6
    order = data.draw(st.permutations(range(len(sets))))
    assert far(pooled(model, [sets[i] for i in order]), together[list(order)]) < 2e-6


@pytest.mark.parametrize("trunk", TRUNKS)
def test_different_sets_differ(trunk: Trunk) -> None:
    sets = [[], [0], [1], [0, 1], [0, 1, 2], [8], [13]]
    vectors = embedding(MODELS[trunk], sets)
    distances = torch.cdist(vectors, vectors) + torch.eye(len(sets))
    assert distances.min() > 1e-2


@pytest.mark.parametrize("trunk", TRUNKS)
def test_the_empty_set_is_a_set(trunk: Trunk) -> None:
    state = pooled(MODELS[trunk], [[]])
    assert state.shape == (1, 32)
    assert state.isfinite().all()
    assert far(pooled(MODELS[trunk], [[], [3, 4], []])[[0, 2]], state.expand(2, -1)) < 2e-6


def test_the_category_is_part_of_a_tag() -> None:
    model = encoder()
    before = pooled(model, [[0], [9]])
    with torch.no_grad():
        model.categories.weight[CATEGORIES.index("artist")] += 1  # tags 7, 8 and 9
    after = pooled(model, [[0], [9]])
    assert torch.equal(before[0], after[0])
    assert far(before[1], after[1]) > 1e-2


def test_token_states_follow_their_tokens() -> None:
    model = encoder()
    lengths = torch.tensor([3, 6])
    layout = SetLayout.build(lengths, 6, 2, "buckets")
    ids = torch.tensor([SUMMARY_ID, 20, 21, SUMMARY_ID, 22, 23, 24, 25, 26])
    order = torch.tensor([0, 2, 1, 3, 8, 4, 7, 5, 6])
    with torch.no_grad():
        states = model.states(ids, layout, torch.float32)
        permuted = model.states(ids[order], layout, torch.float32)
    assert states.shape == (9, 32)
    assert far(states[order], permuted) < 2e-6
    assert torch.cdist(states, states).add(torch.eye(9) * 9).min() > 1e-2


def test_deepsets_is_a_mean_of_tags_that_do_not_see_each_other() -> None:
    """The control: a token's state depends only on its tag, and the pool on the mean of states."""
    model = encoder(trunk="deepsets")
    with torch.no_grad():
        alone, among = (model.states(*token_layout(tags), torch.float32) for tags in ([1], [1, 2, 3]))
        torch.testing.assert_close(among[:2], alone, rtol=0, atol=2e-6)
        one, two = ([0, 3, 5], [2, 3, 7])
        each = [model.states(*token_layout(tags), torch.float32) for tags in (one, two)]
        for tags, states in zip((one, two), each, strict=True):
            mean = rms_norm(states.mean(0, keepdim=True))
            wanted = rms_norm(mean + model.pool.feed_forward(rms_norm(mean)))
            torch.testing.assert_close(pooled(model, [tags]), wanted, rtol=1e-5, atol=1e-5)


def token_layout(tags: list[int]) -> tuple[Tensor, SetLayout]:
    ids, lengths, longest = read([tags])
    return ids, SetLayout.build(lengths, longest, 2, "buckets")


def test_the_forward_pass_in_bf16_is_near_that_in_float32() -> None:
    model = encoder()
    sets = random_captions(20, NUM_TAGS, seed=3)
    ids, lengths, longest = read(sets)
    with torch.no_grad():
        exact = F.normalize(model.embed(model(ids, lengths, longest)), dim=-1)
        rounded_state = model(ids, lengths, longest, torch.bfloat16)
        rounded = F.normalize(model.embed(rounded_state), dim=-1)
    assert rounded_state.dtype == torch.float32
    assert F.cosine_similarity(exact, rounded).min() > 0.999


@pytest.mark.parametrize("first", [True, False])
def test_a_token_of_4000_sets_gets_its_whole_gradient_in_bf16(first: bool) -> None:
    model = encoder(num_layers=1, feed_forward_first=first)
    ids, lengths, longest = read([[tag % NUM_TAGS, 0] if tag % NUM_TAGS else [0] for tag in range(4000)])
    weights, found = torch.randn(model.config.settings.width, generator=torch.Generator().manual_seed(0)), []
    for dtype in (torch.float32, torch.bfloat16):
        model.zero_grad()
        (model(ids, lengths, longest, dtype) @ weights).sum().backward()
        assert model.tokens.weight.grad is not None
        found.append(model.tokens.weight.grad[[SUMMARY_ID, NUM_SPECIAL]].clone())
    # A sum in bf16 of so many rows stops at the 256th of them.
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.02


@pytest.mark.parametrize("first", [True, False])
def test_a_block_reads_a_table_of_distinct_tokens_as_it_reads_tokens(first: bool) -> None:
    model = encoder(num_layers=1, feed_forward_first=first)
    (block,) = model.blocks
    ids, lengths, longest = read([[0, 1], [1, 2, 3], list(range(NUM_TAGS))])
    layout = SetLayout.build(lengths, longest, 2, "buckets")
    table = model.input_vectors()
    torch.testing.assert_close(block(table, layout, ids), block(table[ids], layout), rtol=0, atol=1e-5)


def test_the_decoder_reads_the_direction_of_an_embedding_alone() -> None:
    model = encoder()
    with torch.no_grad():
        vectors = model.embed(pooled(model, [[0, 1], [5, 9, 11]]))
        scores = model.tag_scores(model.decode(vectors))
        assert scores.shape == (2, NUM_TAGS)
        torch.testing.assert_close(model.tag_scores(model.decode(vectors * 7.5)), scores, rtol=1e-5, atol=1e-5)
        assert far(model.tag_scores(model.complete(pooled(model, [[0, 1], [5, 9, 11]]))), scores) > 1e-2


def test_scores_are_products_with_the_tags_own_vectors_and_a_bias() -> None:
    model = encoder()
    decoded = torch.randn(3, 32)
    with torch.no_grad():
        vectors = model.tag_vectors()
        for tag in range(NUM_TAGS):
            own = model.tokens.weight[NUM_SPECIAL + tag] + model.categories.weight[model.tag_category[tag]]
            torch.testing.assert_close(vectors[tag], own)
            wanted = decoded @ own + model.tag_bias[tag]
            torch.testing.assert_close(model.tag_scores(decoded)[:, tag], wanted, rtol=1e-5, atol=1e-5)


def test_categories_of_tags_are_in_the_order_of_the_vocab() -> None:
    assert encoder().tag_category.tolist() == [0] * 7 + [1] * 3 + [3] * 4 + [4] * 2


def test_an_untrained_network_predicts_the_frequencies_it_starts_from() -> None:
    model = encoder()
    shares = torch.rand(NUM_TAGS)
    shares[3], shares[5] = 0, 7.5  # an unknown token may have more uses than there are posts
    model.start_from_frequencies(shares)
    torch.testing.assert_close(model.tag_bias.detach(), shares.clamp(1e-7, 1).log())


@pytest.mark.parametrize("trunk", TRUNKS)
def test_one_step_reaches_every_parameter(trunk: Trunk) -> None:
    model = encoder(trunk=trunk).train()
    batch = captions([list(range(NUM_TAGS - 1)), *random_captions(15, NUM_TAGS, seed=1)])
    losses = objective(model, batch, training_settings(), torch.Generator().manual_seed(0), torch.float32)
    losses.total.backward()  # type: ignore[no-untyped-call]
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    # Rows that are rightly never read: there is no padding, unknown tags are dropped, one category is empty.
    assert model.tokens.weight.grad is not None
    assert model.categories.weight.grad is not None
    rows = model.tokens.weight.grad.abs().sum(1)
    assert (rows[:3] == 0).nonzero().flatten().tolist() == [0, 1]
    assert rows[NUM_SPECIAL:].min() > 0
    assert (model.categories.weight.grad.abs().sum(1) == 0).nonzero().flatten().tolist() == [2]


def test_dropout_is_off_in_evaluation_and_on_in_training() -> None:
    model = encoder(dropout=0.5)
    sets = [[0, 1, 2], [4, 9]]
    assert torch.equal(pooled(model, sets), pooled(model, sets))
    model.train()
    assert far(pooled(model, sets), pooled(model, sets)) > 1e-2


def test_rms_norm_is_the_formula_and_its_gradient_the_derivative() -> None:
    x = torch.randn(4, 3, 8, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(rms_norm(x), x / x.square().mean(-1, keepdim=True).sqrt(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rms_norm(x), F.rms_norm(x, (8,), eps=0.0), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(rms_norm, (x,))
    assert torch.autograd.gradcheck(rms_norm, (x.transpose(0, 1),))


def test_rms_norm_of_nothing_is_nothing() -> None:
    x = torch.zeros(2, 8, requires_grad=True)
    rms_norm(x).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(rms_norm(x), torch.zeros(2, 8))
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_swiglu_is_the_formula_and_its_gradient_the_derivative() -> None:
    x = torch.randn(5, 2, 12, dtype=torch.float64, requires_grad=True)
    wanted = F.silu(x[..., :6]) * x[..., 6:]
    torch.testing.assert_close(swiglu(x), wanted, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(swiglu, (x,))
    before = x.detach().clone()
    swiglu(x).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(x.detach(), before)


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8), data=st.data())
@settings(deadline=None)
def test_token_order_moves_whole_sets(lengths: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(lengths))))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    wanted = [token for i in order for token in range(starts[i], starts[i] + lengths[i])]
    found = token_order(torch.tensor(lengths), torch.tensor(order))
    assert found.dtype == torch.int64
    assert found.tolist() == wanted

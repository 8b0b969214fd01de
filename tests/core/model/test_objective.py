"""The loss against its formula in slow loops over posts and tags."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from booru_embed_core.model.encoder import SUMMARY_ID
from booru_embed_core.model.objective import (
    FIRST_RATING_ID,
    FIRST_SCORE_ID,
    CaptionBatch,
    CaptionViews,
    contrastive_loss,
    objective,
    random_prefixes,
    read_tokens,
    split_captions,
    tag_losses,
)
from booru_embed_core.schema import NUM_SCORE_BINS, RATINGS
from tests.core.model_helpers import CATEGORY_SIZES, NUM_SPECIAL, captions, encoder, random_captions, training_settings

NUM_TAGS = sum(CATEGORY_SIZES)
ROWS = st.lists(st.lists(st.integers(0, NUM_TAGS - 1), unique=True, max_size=NUM_TAGS), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**31)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def views_of(batch: CaptionBatch, seed: int, **values: object) -> CaptionViews:
    return split_captions(batch, NUM_SPECIAL, training_settings(**values), seeded(seed))


def visible_sets(batch: CaptionBatch, views: CaptionViews) -> list[list[int]]:
    """The visible tags of each of the 2N sets."""
    sets: list[list[int]] = [[] for _ in range(2 * len(batch.lengths))]
    for tag, owner in zip(batch.tags.tolist(), views.tag_sets.tolist(), strict=True):
        sets[owner].append(tag)
    return sets


def slow_losses(scores: Tensor, batch: CaptionBatch, views: CaptionViews) -> tuple[list[float], list[float]]:
    """L and -log(1 - P_visible) of each set, straight from the formulas."""
    num = len(batch.lengths)
    shown = visible_sets(batch, views)
    losses, duplicates = [], []
    for one in range(2 * num):
        visible, hidden = shown[one], shown[(one + num) % (2 * num)]
        weight = [math.exp(score) for score in scores[one].tolist()]
        negatives = sum(weight[tag] for tag in range(NUM_TAGS) if tag not in visible and tag not in hidden)
        terms = [math.log(weight[tag] + negatives) - scores[one, tag].item() for tag in hidden]
        losses.append(sum(terms) / len(terms) if terms else 0.0)
        # 1 - P_visible as a sum, since the difference would lose digits near 0.
        duplicates.append(-math.log(sum(weight[tag] for tag in range(NUM_TAGS) if tag not in visible) / sum(weight)))
    return losses, duplicates


def losses_of(scores: Tensor, batch: CaptionBatch, views: CaptionViews) -> tuple[Tensor, Tensor, Tensor]:
    """`tag_losses` of given `scores`: the states are the scores, and tag vectors the identity."""
    return tag_losses(scores, torch.eye(NUM_TAGS).to(scores), torch.zeros(NUM_TAGS).to(scores), batch, views)


@given(rows=ROWS, seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_tag_losses_are_the_formula(rows: list[list[int]], seed: int) -> None:
    batch = captions([tags[: NUM_TAGS - 1] for tags in rows])
    views = views_of(batch, seed)
    scores = torch.randn(2 * len(rows), NUM_TAGS, generator=seeded(seed), dtype=torch.float64) * 3
    per_set, duplicates, asked = losses_of(scores, batch, views)
    wanted, wanted_duplicates = slow_losses(scores, batch, views)
    assert per_set.tolist() == pytest.approx(wanted, abs=1e-9)
    assert duplicates.tolist() == pytest.approx(wanted_duplicates, abs=1e-9)
    num = len(rows)
    shown = visible_sets(batch, views)
    assert asked.tolist() == [bool(shown[(one + num) % (2 * num)]) for one in range(2 * num)]


@given(rows=ROWS, seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_visible_tags_are_in_neither_part_of_the_loss(rows: list[list[int]], seed: int) -> None:
    batch = captions([tags[: NUM_TAGS - 1] for tags in rows])
    views = views_of(batch, seed)
    scores = torch.randn(2 * len(rows), NUM_TAGS, generator=seeded(seed), requires_grad=True)
    per_set, duplicates, _ = losses_of(scores, batch, views)
    (grad,) = torch.autograd.grad(per_set.sum(), scores, retain_graph=True)
    (duplicate_grad,) = torch.autograd.grad(duplicates.sum(), scores)
    shown = visible_sets(batch, views)
    for one, visible in enumerate(shown):
        hidden = shown[(one + len(rows)) % (2 * len(rows))]
        assert not grad[one, visible].any()
        # Only hidden tags are pushed up; visible tags are pushed down by their own term.
        assert (grad[one, hidden] < 0).all()
        others = [tag for tag in range(NUM_TAGS) if tag not in hidden]
        assert (grad[one, others] >= 0).all()
        assert (duplicate_grad[one, visible] > 0).all()
        assert bool(duplicate_grad[one].any()) == bool(visible)


def test_hidden_tags_do_not_compete_with_each_other() -> None:
    batch = captions([[0, 1, 2]])
    views = CaptionViews(torch.empty(0), torch.empty(0), torch.tensor([0, 1, 1]), torch.empty(0), torch.empty(0))
    scores = torch.zeros(2, NUM_TAGS)
    before = losses_of(scores, batch, views)[0][0]
    scores[0, 2] = 50.0  # as sure as can be of one hidden tag
    after = losses_of(scores, batch, views)[0][0]
    assert before == pytest.approx(math.log(1 + NUM_TAGS - 3))
    assert after == pytest.approx(before.item() / 2)


def test_a_caption_of_every_tag_has_a_loss_and_a_gradient() -> None:
    """There is no true negative, so the loss is finite and has nothing to separate."""
    batch = captions([list(range(NUM_TAGS)), [1, 2], []])
    views = views_of(batch, 3)
    scores = torch.randn(6, NUM_TAGS, generator=seeded(), requires_grad=True)
    per_set, duplicates, _ = losses_of(scores, batch, views)
    assert per_set[0] == per_set[3] == 0
    (grad,) = torch.autograd.grad(per_set.sum() + duplicates.sum(), scores)
    assert grad.isfinite().all()
    assert duplicates.isfinite().all()


def test_extreme_scores_stay_finite() -> None:
    batch = captions(random_captions(8, NUM_TAGS, 2))
    views = views_of(batch, 0)
    scores = (torch.randn(16, NUM_TAGS, generator=seeded()) * 500).requires_grad_()
    per_set, duplicates, _ = losses_of(scores, batch, views)
    (grad,) = torch.autograd.grad(per_set.sum() + duplicates.sum(), scores)
    assert per_set.isfinite().all()
    assert duplicates.isfinite().all()
    assert grad.isfinite().all()


@given(rows=ROWS, seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_every_tag_is_visible_in_exactly_one_half(rows: list[list[int]], seed: int) -> None:
    batch = captions(rows)
    views = views_of(batch, seed, metadata_keep_share=0.5)
    num = len(rows)
    ends = views.lengths.cumsum(0).tolist()
    read = [views.token_ids[end - size : end].tolist() for end, size in zip(ends, views.lengths.tolist(), strict=True)]
    assert len(read) == 2 * num
    for one, ids in enumerate(read):
        rating, score_bin = int(batch.ratings[one % num]), int(batch.score_bins[one % num])
        prefix = [SUMMARY_ID]
        prefix += [FIRST_RATING_ID + rating] * bool(views.rating_given[one])
        prefix += [FIRST_SCORE_ID + score_bin] * bool(views.score_given[one])
        assert ids[: len(prefix)] == prefix
        read[one] = [i - NUM_SPECIAL for i in ids[len(prefix) :]]
    for one, tags in enumerate(rows):
        assert sorted(read[one] + read[one + num]) == sorted(tags)
    assert read == visible_sets(batch, views)


@pytest.mark.parametrize("num_draws", [1, 2, 5])
def test_the_share_of_a_half_is_the_mean_of_uniform_draws(num_draws: int) -> None:
    batch = captions([list(range(NUM_TAGS))] * 4000)
    views = views_of(batch, 1, split_draws=num_draws)
    shares = torch.bincount(views.tag_sets, minlength=8000)[:4000] / NUM_TAGS
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    # The variance of the share, and of NUM_TAGS tags drawn by it.
    of_share = 1 / (12 * num_draws)
    wanted = of_share + (1 / 4 - of_share) / NUM_TAGS
    assert shares.var().item() == pytest.approx(wanted, rel=0.1)


def test_a_split_follows_from_its_generator() -> None:
    batch = captions(random_captions(50, NUM_TAGS, 0))
    one, same, other = (views_of(batch, seed) for seed in (5, 5, 6))
    for name in ("token_ids", "lengths", "tag_sets", "rating_given", "score_given"):
        assert torch.equal(getattr(one, name), getattr(same, name))
    assert not torch.equal(one.tag_sets, other.tag_sets)
    assert not torch.equal(one.rating_given, one.score_given)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_metadata_are_given_to_their_share_of_sets(share: float) -> None:
    views = views_of(captions([[0]] * 4000), 0, metadata_keep_share=share)
    assert views.rating_given.float().mean().item() == pytest.approx(share, abs=0.03)
    assert views.score_given.float().mean().item() == pytest.approx(share, abs=0.03)
    both = (views.rating_given & views.score_given).float().mean().item()
    assert both == pytest.approx(share**2, abs=0.03)


@given(
    sets=st.lists(st.lists(st.integers(0, 9), unique=True, max_size=5), min_size=1, max_size=6),
    data=st.data(),
    with_metadata=st.booleans(),
)
@settings(deadline=None)
def test_read_tokens_begins_each_set_with_its_summary(
    sets: list[list[int]], data: st.DataObject, with_metadata: bool
) -> None:
    pairs = data.draw(st.permutations([(tag, owner) for owner, tags in enumerate(sets) for tag in tags]))
    ratings = data.draw(st.lists(st.integers(-1, 3), min_size=len(sets), max_size=len(sets)))
    bins = data.draw(st.lists(st.integers(-1, 9), min_size=len(sets), max_size=len(sets)))
    ids, lengths = read_tokens(
        torch.tensor([tag for tag, _ in pairs], dtype=torch.int64),
        torch.tensor([owner for _, owner in pairs], dtype=torch.int64),
        len(sets),
        NUM_SPECIAL,
        torch.tensor(ratings) if with_metadata else None,
        torch.tensor(bins) if with_metadata else None,
    )
    wanted = []
    for one in range(len(sets)):
        tokens = [SUMMARY_ID]
        if with_metadata:
            tokens += [FIRST_RATING_ID + ratings[one]] * (ratings[one] >= 0)
            tokens += [FIRST_SCORE_ID + bins[one]] * (bins[one] >= 0)
        # Within a set the tags keep their order.
        wanted.append(tokens + [NUM_SPECIAL + tag for tag, owner in pairs if owner == one])
    assert lengths.tolist() == [len(tokens) for tokens in wanted]
    assert ids.tolist() == [token for tokens in wanted for token in tokens]


def test_contrastive_loss_is_the_loop() -> None:
    vectors = torch.randn(10, 6, generator=seeded(), dtype=torch.float64)
    unit = [vector / vector.norm() for vector in vectors]
    total = 0.0
    for first, second in ((unit[:5], unit[5:]), (unit[5:], unit[:5])):
        for i in range(5):
            weights = [math.exp(float(first[i] @ second[j]) / 0.3) for j in range(5)]
            total -= math.log(weights[i] / sum(weights)) / 5
    assert contrastive_loss(vectors, 0.3).item() == pytest.approx(total / 2, rel=1e-9)
    assert contrastive_loss(vectors * 9, 0.3).item() == pytest.approx(total / 2, rel=1e-9)


def test_contrastive_loss_is_least_where_halves_agree() -> None:
    vectors = torch.eye(4)
    agreeing = contrastive_loss(vectors.repeat(2, 1), 0.1)
    assert agreeing < 1e-3
    assert contrastive_loss(torch.cat([vectors, vectors.flip(0)]), 0.1) > 1


def test_random_prefixes_cut_rows_to_each_length() -> None:
    rows = torch.randn(6000, 16, generator=seeded()) + 10
    cut = random_prefixes(rows, (2, 4, 8), seeded(1))
    kept = (cut != 0).sum(1)
    assert set(kept.tolist()) == {2, 4, 8, 16}
    for row, whole, num in zip(cut, rows, kept.tolist(), strict=True):
        assert torch.equal(row[:num], whole[:num])
    shares = {num: float((kept == num).float().mean()) for num in (2, 4, 8, 16)}
    assert shares[16] == pytest.approx(0.5, abs=0.03)
    assert all(shares[num] == pytest.approx(1 / 6, abs=0.03) for num in (2, 4, 8))
    assert torch.equal(random_prefixes(rows, (2, 4, 8), seeded(1)), cut)
    assert torch.equal(random_prefixes(rows, (), seeded(1)), rows)
    mostly_whole = (random_prefixes(rows, (2, 4, 8), seeded(1), whole_share=0.9) != 0).sum(1)
    assert float((mostly_whole == 16).float().mean()) == pytest.approx(0.9, abs=0.02)
    assert all(float((mostly_whole == num).float().mean()) == pytest.approx(0.1 / 3, abs=0.01) for num in (2, 4, 8))
    assert set((random_prefixes(rows, (4,), seeded(1), whole_share=0.0) != 0).sum(1).tolist()) == {4}


def losses(rows: list[list[int]], **values: object) -> tuple[Tensor, dict[str, Tensor]]:
    """The objective of an untrained network; the split does not depend on the weights of the terms."""
    found = objective(encoder(), captions(rows), training_settings(**values), seeded(3), torch.float32)
    return found.total, found.terms


WEIGHTS = {"duplicates": "duplicate_weight", "contrastive": "contrastive_weight", "metadata": "metadata_weight"}


@pytest.mark.parametrize("term", WEIGHTS)
def test_each_term_weighs_what_the_settings_say(term: str) -> None:
    rows = random_captions(12, NUM_TAGS, 4)
    nothing = dict.fromkeys(WEIGHTS.values(), 0.0)
    without, terms = losses(rows, **nothing)
    assert without.item() == pytest.approx(terms["bottleneck"].item() + terms["head"].item(), rel=1e-6)
    for weight in (0.25, 2.0):
        total, again = losses(rows, **{**nothing, WEIGHTS[term]: weight})
        assert again[term].item() == terms[term].item() > 0
        assert total.item() - without.item() == pytest.approx(weight * terms[term].item(), rel=1e-4)


def test_the_objective_is_made_of_the_tested_terms() -> None:
    model, batch, settings_ = (
        encoder(matryoshka_dims=()),
        captions(random_captions(9, NUM_TAGS, 5)),
        training_settings(),
    )
    terms = objective(model, batch, settings_, seeded(3), torch.float32).terms
    views = split_captions(batch, NUM_SPECIAL, settings_, seeded(3))
    with torch.no_grad():
        pooled = model(views.token_ids, views.lengths, int(views.lengths.max()))
        embedding = model.embed(pooled)
        duplicates = []
        for name, decoded in (("bottleneck", model.decode(embedding)), ("head", model.complete(pooled))):
            per_set, punished = slow_losses(model.tag_scores(decoded), batch, views)
            asked = losses_of(model.tag_scores(decoded), batch, views)[2].tolist()
            wanted = sum(loss for loss, is_asked in zip(per_set, asked, strict=True) if is_asked) / sum(asked)
            assert terms[name].item() == pytest.approx(wanted, rel=1e-4)
            duplicates += punished
        assert terms["duplicates"].item() == pytest.approx(sum(duplicates) / len(duplicates), rel=1e-4)
        wanted_contrast = contrastive_loss(embedding, settings_.contrastive_temperature)
        assert terms["contrastive"].item() == pytest.approx(wanted_contrast.item(), rel=1e-5)


def test_metadata_are_asked_for_only_where_they_were_not_given() -> None:
    model, batch = encoder(), captions(random_captions(20, NUM_TAGS, 6))
    settings_ = training_settings(metadata_keep_share=0.4)
    found = objective(model, batch, settings_, seeded(3), torch.float32).terms["metadata"].item()
    views = split_captions(batch, NUM_SPECIAL, settings_, seeded(3))
    with torch.no_grad():
        embedding = model.embed(model(views.token_ids, views.lengths, int(views.lengths.max())))
        unit = F.normalize(embedding, dim=-1) * 4  # sqrt(16), so that its numbers are of size 1
        ratings, scores = model.rating_head(unit), model.score_head(unit)[:, 0]
    deciles = np.arange(NUM_SCORE_BINS)
    rating_losses, score_losses = [], []
    for one in range(40):
        rating, score_bin = int(batch.ratings[one % 20]), int(batch.score_bins[one % 20])
        if not views.rating_given[one]:
            rating_losses.append(-math.log(float(ratings[one].softmax(0)[rating])))
        if not views.score_given[one]:
            score_losses.append((float(scores[one]) - (score_bin - deciles.mean()) / deciles.std()) ** 2)
    wanted = sum(rating_losses) / len(rating_losses) + 2 * sum(score_losses) / len(score_losses)
    assert found == pytest.approx(wanted, rel=1e-4)
    assert ratings.shape == (40, len(RATINGS))


@pytest.mark.parametrize("rows", [[[]], [[], []], [[3]], [[1], []], [[0, 1, 2]]])
def test_batches_that_ask_for_little_or_nothing_have_a_loss(rows: list[list[int]]) -> None:
    model = encoder()
    found = objective(model, captions(rows), training_settings(), seeded(), torch.float32)
    found.total.backward()  # type: ignore[no-untyped-call]
    assert found.total.isfinite()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_another_encoder_may_stand_in_for_the_models() -> None:
    model, batch = encoder(), captions(random_captions(6, NUM_TAGS, 7))
    called = []

    def wrapped(*arguments: object) -> Tensor:
        called.append(arguments)
        output: Tensor = model(*arguments)
        return output

    settings_ = training_settings(metadata_keep_share=0.99)
    plain = objective(model, batch, settings_, seeded(), torch.float32)
    other = objective(model, batch, settings_, seeded(), torch.float32, wrapped)
    ((_, lengths, longest, _),) = called
    assert int(lengths.max()) <= longest  # type: ignore[attr-defined, operator]
    assert other.total.item() == plain.total.item()


def test_bf16_gives_nearly_the_same_terms() -> None:
    model, batch = encoder(), captions(random_captions(40, NUM_TAGS, 8))
    exact = objective(model, batch, training_settings(), seeded(), torch.float32)
    rounded = objective(model, batch, training_settings(), seeded(), torch.bfloat16)
    assert rounded.total.dtype == torch.float32
    for name, term in exact.terms.items():
        assert rounded.terms[name].item() == pytest.approx(term.item(), rel=0.05)

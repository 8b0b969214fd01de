"""Our model as a scorer: its scores are those of the embedder on the visible tags."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.evaluation import scorers
from booru_embed_core.evaluation.baselines import EmbeddingScorer
from booru_embed_core.evaluation.metrics import evaluate_scorer
from booru_embed_core.evaluation.scorers import BottleneckScorer, CompletionHeadScorer, PooledStates, model_scorers
from booru_embed_core.evaluation.tasks import hold_out
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import captions_from_packed
from tests.core.evaluation.evaluation_helpers import captions_of
from tests.core.model_helpers import Trained

ROWS = [[0, 5, 9], [], [35], [1, 2, 3, 4, 6, 7, 8, 30], [9, 5, 0]]


@pytest.fixture(scope="module")
def embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")


def typed(embedder: BooruEmbedder) -> list[str]:
    return [" ".join(embedder.vocab.tags[tag] for tag in tags) for tags in ROWS]


def test_a_model_is_shown_whole_by_its_head_and_by_its_prefixes(embedder: BooruEmbedder) -> None:
    found = model_scorers(embedder.network.model)
    names = [scorer.name for scorer in found]
    assert names == ["booru-embed", "booru-embed-head", "booru-embed-8d", "booru-embed-4d"]
    assert [isinstance(scorer, EmbeddingScorer) for scorer in found] == [True, False, True, True]


def test_scores_and_embeddings_are_the_embedders(embedder: BooruEmbedder) -> None:
    visible = captions_of(ROWS, embedder.vocab.num_tags)
    states = PooledStates(embedder.network.model)
    for dim in (4, 8, None):
        scorer = BottleneckScorer(states, dim)
        vectors = embedder.embed(typed(embedder), dim=dim)
        embedded = scorer.embed(visible)
        assert embedded.shape == (5, dim or 16)
        unit = embedded / np.linalg.norm(embedded, axis=1, keepdims=True)
        assert unit == pytest.approx(vectors, abs=2e-6)
        padded = F.pad(torch.from_numpy(vectors), (0, 16 - vectors.shape[1]))
        with torch.no_grad():
            wanted = embedder.network.model.tag_scores(embedder.network.model.decode(padded)).numpy()
        assert scorer.scores(visible) == pytest.approx(wanted, abs=1e-4)
        assert scorer.scores(visible).dtype == np.float32


def test_the_completion_head_ranks_as_complete_does(embedder: BooruEmbedder) -> None:
    scorer = CompletionHeadScorer(PooledStates(embedder.network.model))
    scores = scorer.scores(captions_of(ROWS, embedder.vocab.num_tags))
    for row, tags, caption in zip(scores, ROWS, typed(embedder), strict=True):
        row[tags] = -np.inf
        best = [embedder.vocab.tags[i] for i in np.argsort(-row)[:5]]
        assert [one.tag for one in embedder.complete(caption, k=5)] == best


def test_states_are_shared_and_those_of_their_own_captions(
    embedder: BooruEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_encoded: list[int] = []
    real = scorers.encode_sets

    def counted(model: object, indices: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        num_encoded.append(len(lengths))
        return real(model, indices, lengths)  # type: ignore[arg-type]

    monkeypatch.setattr(scorers, "encode_sets", counted)
    num_tags = embedder.vocab.num_tags
    first, second = captions_of(ROWS, num_tags), captions_of([[0, 5], [9], [], [35], []], num_tags)
    every = model_scorers(embedder.network.model)
    before = [[scorer.scores(visible).copy() for visible in (first, second)] for scorer in every]
    assert num_encoded == [5, 5]
    # Whatever a scorer does with its scores, the next one sees the states as they were.
    again = [[scorer.scores(visible) for visible in (first, second)] for scorer in reversed(every)][::-1]
    for one, other in zip(before, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    every[0].scores(captions_of([[2]], num_tags))
    every[0].scores(captions_of([[2]], num_tags))
    assert num_encoded == [5, 5, 1]


def test_the_model_finds_hidden_tags_of_posts_that_it_never_saw(trained: Trained, embedder: BooruEmbedder) -> None:
    packed = trained.corpus.packed
    rows = rows_of_split(packed, "test")
    captions = captions_from_packed(packed, embedder.vocab, rows)
    held_out = hold_out(captions, packed.post_id[rows], "half", 7)
    chance = 10 / embedder.vocab.num_tags
    for scorer in model_scorers(embedder.network.model)[:2]:
        assert evaluate_scorer(scorer, held_out)["recall@10"] > 2 * chance


def test_a_model_without_implied_tags_is_asked_without_them(embedder: BooruEmbedder) -> None:
    num_tags = embedder.vocab.num_tags
    implications = Implications.of_pairs(np.array([5, 7]), np.array([2, 3]), num_tags)
    visible, without = (captions_of(rows, num_tags) for rows in ([[2, 5, 9], [5], []], [[5, 9], [5], []]))
    wrapped, plain = (model_scorers(embedder.network.model, one)[1] for one in (implications, None))
    raw = plain.scores(without)
    assert np.array_equal(wrapped.raw_scores(visible), raw)  # type: ignore[attr-defined]
    scores = wrapped.scores(visible)
    assert np.isfinite(scores[:, 10:]).all()
    # Nothing visible implies a tag of the first post that is not visible; of the second, tag 2 is implied.
    assert scores[1].argmax() == 2
    shares = np.exp(raw[2] - raw[2].max())
    expected = shares.copy()
    expected[[2, 3]] += shares[[5, 7]]
    assert np.exp(scores[2]) == pytest.approx(expected, rel=1e-5)


def test_the_oldest_states_make_room(embedder: BooruEmbedder) -> None:
    states = PooledStates(embedder.network.model, max_posts=2)
    asked = [captions_of([[tag]], embedder.vocab.num_tags) for tag in range(3)]
    kept = [states.of(visible) for visible in asked]
    assert states.of(asked[2]) is kept[2]
    assert states.of(asked[1]) is kept[1]
    assert states.of(asked[0]) is not kept[0]
    assert torch.equal(states.of(asked[0]), kept[0])

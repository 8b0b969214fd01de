"""The loss of quantization is measured on the test posts, with the tags that the evaluation hides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.evaluation.metrics import HEADLINE, evaluate_scorer, split_half_recall
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.evaluation.tasks import HIDES, hold_out, split_halves
from booru_embed_core.export import quantization_loss as quantization
from booru_embed_core.export.formats import CheckpointSource
from booru_embed_core.export.quantization_loss import NetworkScorer, quantization_loss
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import captions_from_packed
from tests.core.evaluation.evaluation_helpers import captions_of
from tests.core.model_helpers import Trained


@pytest.fixture(scope="module")
def source(trained: Trained) -> CheckpointSource:
    return CheckpointSource.open(trained.checkpoint, tokens=trained.corpus.packed_path)


class Noise(TorchNetwork):
    """A network that knows nothing."""

    generator = np.random.default_rng(1)

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        return self.generator.random((len(sets.lengths), self.model.config.num_tags), np.float32)

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        return self.generator.normal(size=(len(sets.lengths), 16)).astype(np.float32)


def test_recall_is_that_of_the_evaluation_on_the_test_posts(source: CheckpointSource, trained: Trained) -> None:
    network = TorchNetwork(source.model)
    found = quantization_loss(lambda: network, lambda: Noise(source.model), trained.corpus.packed_path, source.vocab)
    packed, seed = trained.corpus.packed, EvaluationSettings().seed
    rows = rows_of_split(packed, "test")
    assert found.num_posts == len(rows)
    captions = captions_from_packed(packed, source.vocab, rows)
    (scorer,) = [one for one in model_scorers(source.model) if one.name == "booru-embed-head"]
    for hide, (title, recall) in zip(HIDES, found.recall.items(), strict=False):
        held_out = hold_out(captions, packed.post_id[rows], hide, seed, source.vocab.is_unknown)
        assert title.startswith(HEADLINE)
        assert recall.exact == pytest.approx(evaluate_scorer(scorer, held_out)[HEADLINE])
    halves = split_halves(captions, packed.post_id[rows], seed, source.vocab.is_unknown)
    title, recall = list(found.recall.items())[2]
    assert title == "split-half retrieval (R@1)"
    own = NetworkScorer("own", network)
    assert recall.exact == pytest.approx(split_half_recall(*(own.embed(half) for half in halves)))
    assert all(recall.difference == recall.rounded - recall.exact < 0 for recall in found.recall.values())


def test_the_difference_is_paired_and_its_error_falls_with_posts(source: CheckpointSource, trained: Trained) -> None:
    network, tokens = TorchNetwork(source.model), trained.corpus.packed_path
    same = quantization_loss(lambda: network, lambda: network, tokens, source.vocab, 20)
    assert same.num_posts == 20
    assert {(one.difference, one.standard_error) for one in same.recall.values()} == {(0.0, 0.0)}
    few, more = (
        quantization_loss(lambda: network, lambda: Noise(source.model), tokens, source.vocab, num) for num in (12, 48)
    )
    one, other = (list(found.recall.values())[1].standard_error for found in (few, more))
    assert 0 < other < one


def test_posts_with_less_than_two_tags_are_no_test(source: CheckpointSource, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = captions_of([[], [3]], source.vocab.num_tags)
    monkeypatch.setattr(quantization, "sample_rows", lambda *_: np.arange(2))
    monkeypatch.setattr(quantization, "captions_from_packed", lambda *_: empty)
    network, tokens = TorchNetwork(source.model), source.tokens
    assert tokens is not None
    with pytest.raises(ValueError, match=f"{tokens}: no test post has two tags of the vocabulary; leave --tokens out"):
        quantization_loss(lambda: network, lambda: network, tokens, source.vocab)


def test_a_scorer_reads_the_visible_tags_without_rating_and_score(source: CheckpointSource) -> None:
    network = TorchNetwork(source.model)
    scorer = NetworkScorer("network", network)
    visible = captions_of([[0, 5], [], [7]], source.vocab.num_tags)
    embedder = source.embedder
    _, sets = embedder.read_caption(" ".join(embedder.tokenizer.spellings[tag_index] for tag_index in (0, 5)))
    assert scorer.scores(visible)[:1] == pytest.approx(network.tag_scores(sets), abs=1e-5)
    assert scorer.embed(visible)[:1] == pytest.approx(network.embeddings(sets), abs=1e-5)
    assert scorer.embed(visible).shape == (3, 16)
    assert scorer.name == "network"

"""The loss of quantization is measured on the test posts, with the tags that the evaluation hides."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.evaluation.metrics import HEADLINE, evaluate_scorer
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.evaluation.tasks import HIDES, hold_out
from booru_embed_core.export.formats import CheckpointSource
from booru_embed_core.export.quantization_loss import NetworkScorer, recall_by_network
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
    networks = {"trained": TorchNetwork(source.model), "noise": Noise(source.model)}
    found = recall_by_network(networks, trained.corpus.packed_path, source.vocab)
    packed, seed = trained.corpus.packed, EvaluationSettings().seed
    rows = rows_of_split(packed, "test")
    captions = captions_from_packed(packed, source.vocab, rows)
    (scorer,) = [one for one in model_scorers(source.model) if one.name == "booru-embed-head"]
    for hide, (title, recall) in zip(HIDES, found.items(), strict=False):
        held_out = hold_out(captions, packed.post_id[rows], hide, seed, source.vocab.is_unknown)
        assert title.startswith(HEADLINE)
        assert recall["trained"] == pytest.approx(evaluate_scorer(scorer, held_out)[HEADLINE])
    assert list(found)[2] == "split-half retrieval (R@1)"
    assert all(recall["trained"] > recall["noise"] for recall in found.values())


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

"""Initial tag vectors from co-occurrence counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.tokens.cooccurrence import PackedCaptions, count_cooccurrence
from booru_embed_core.training.initial_vectors import correlation_factors, start_from_correlation, start_from_ppmi
from tests.core.in_memory_helpers import packed_of
from tests.core.model_helpers import NUM_SPECIAL, encoder, model_settings, training_settings
from tests.core.training.training_helpers import Bench

# Tags 0 to 2 stand together and 3 to 5 do; 6 stands beside all of them; 7 is always alone; 8 is in no post.
ROWS = [[0, 1, 6], [0, 2, 6], [1, 2], [0, 1, 2], [3, 4, 6], [3, 5], [4, 5, 6], [3, 4, 5], [7], [7]] * 3


def test_tags_that_stand_together_start_together() -> None:
    packed, vocab = packed_of(ROWS, 9)
    model = encoder(tuple(vocab.sizes.values()))
    before = model.tokens.weight.detach().clone()
    start_from_ppmi(model, packed, vocab, np.arange(len(ROWS)))
    after = model.tokens.weight.detach()
    assert torch.equal(before[:NUM_SPECIAL], after[:NUM_SPECIAL])
    assert torch.equal(before[NUM_SPECIAL + 7 :], after[NUM_SPECIAL + 7 :])
    vectors = after[NUM_SPECIAL : NUM_SPECIAL + 6, :6]  # no more factors than fitted tags have
    alike = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T
    assert alike[:3, :3].min() > alike[:3, 3:].max()
    assert alike[3:, 3:].min() > alike[:3, 3:].max()
    scaled = after[NUM_SPECIAL : NUM_SPECIAL + 7, :9].square().sum(1)
    assert torch.isclose(scaled.mean(), torch.tensor(1.0), rtol=1e-4)
    again = encoder(tuple(vocab.sizes.values()))
    start_from_ppmi(again, packed, vocab, np.arange(len(ROWS)))
    assert torch.equal(again.tokens.weight, after)


def test_without_pairs_all_stays_random() -> None:
    packed, vocab = packed_of([[0], [1]], 2)
    model = encoder(tuple(vocab.sizes.values()))
    before = model.tokens.weight.detach().clone()
    for rows in ([0, 1], []):
        start_from_ppmi(model, packed, vocab, np.array(rows, dtype=np.int64))
        assert torch.equal(model.tokens.weight, before)


def test_products_of_factors_are_correlations() -> None:
    packed, vocab = packed_of([[*row, 8] for row in ROWS] + [[8]], 10)  # 8 is in every post, 9 in none
    rows = np.arange(len(ROWS) + 1)
    factors = correlation_factors(count_cooccurrence(PackedCaptions(packed, vocab, rows), 10), 10)
    uses = np.array([[tag in row for row in [*ROWS, []]] for tag in range(8)], dtype=np.float64)
    assert np.allclose((factors @ factors.T)[:8, :8], np.corrcoef(uses))
    assert not factors[8:].round(6).any()
    lengths = np.square(factors).sum(0)
    assert (lengths[:-1] >= lengths[1:] - 1e-9).all()


def started_from_correlation(trunk: str = "attention") -> SetEncoder:
    """An untrained network as wide as its embedding that starts from the correlation of the tags in `ROWS`."""
    packed, vocab = packed_of(ROWS, 9)
    model = encoder(tuple(vocab.sizes.values()), seed=0, trunk=trunk, num_layers=1, width=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("tag_bias", "categories", "down.", "blocks.0.attention.output")):
                parameter.zero_()  # what is random and adds to the tags' vectors
    start_from_correlation(model, packed, vocab, np.arange(len(ROWS)))
    return model


@pytest.mark.parametrize("trunk", ["attention", "deepsets"])
@torch.inference_mode()
def test_an_untrained_network_expects_tags_that_correlate_with_those_of_a_set(trunk: str) -> None:
    model = started_from_correlation(trunk)
    sets = torch.tensor([0, NUM_SPECIAL + 0, NUM_SPECIAL + 1, 0, NUM_SPECIAL + 3, NUM_SPECIAL + 5])
    pooled = model(sets, torch.tensor([3, 3]), 3)
    embedding = model.embed(pooled)
    prefix = F.pad(embedding[:, :4], (0, 12))
    for decoded in (model.complete(pooled), model.decode(embedding), model.decode(prefix)):
        scores = model.tag_scores(decoded)
        assert scores[0, 2] > scores[0, 3:6].max()
        assert scores[1, 4] > scores[1, :3].max()


def test_correlation_is_an_exact_function_of_the_posts() -> None:
    once, again = started_from_correlation(), started_from_correlation()
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))


def test_training_learns_sooner_from_them(bench: Bench) -> None:
    first = {}
    for start in ("random", "ppmi_svd", "correlation"):
        settings = training_settings(initial_vectors=start, num_epochs=1)
        bench.train(start, settings, model_settings(width=32, num_layers=1))
        first[start] = bench.log(start)[0]["loss"]
    assert first["correlation"] < first["ppmi_svd"] < first["random"]  # type: ignore[operator]

"""Initial tag vectors from co-occurrence counts."""

from __future__ import annotations

import numpy as np
import torch

from booru_embed_core.training.initial_vectors import start_from_ppmi
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


def test_training_learns_sooner_from_them(bench: Bench) -> None:
    first = {}
    for start in ("random", "ppmi_svd"):
        settings = training_settings(initial_vectors=start, num_epochs=1)
        bench.train(start, settings, model_settings(width=32, num_layers=1))
        first[start] = bench.log(start)[0]["loss"]
    assert first["ppmi_svd"] < first["random"]  # type: ignore[operator]

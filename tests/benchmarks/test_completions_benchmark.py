"""The completions benchmark on the tiny corpus: its pairs that posts avoid, its baseline, and both parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from benchmarks import completions
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import captions_from_packed
from tests.core.completion_helpers import TAGS, site_embedder
from tests.core.model_helpers import Trained


def test_pairs_that_posts_avoid() -> None:
    posts = np.zeros((400, 4), dtype=np.float32)
    posts[:200, 0] = posts[200:, 1] = posts[::2, 2] = 1  # 0 and 1 never together, 2 independent, 3 nowhere
    posts[:2, 1] = 1
    avoided = completions._avoided(sparse.csr_matrix(posts))
    assert np.argwhere(avoided).tolist() == [[0, 1], [1, 0]]


def test_plain_draws_contradict_and_fills_do_not(search_embedder: BooruEmbedder) -> None:
    site = site_embedder(search_embedder.config)
    starts = [np.array([TAGS.index("1girl"), TAGS.index("solo")])] * 20
    plain = completions._plain(site, starts, 1.0)
    assert {len(one) for one in plain} == {2 + completions.ADDED}
    assert all(len(set(one.tolist())) == len(one) for one in plain)
    figures = completions._odd(site.vocab, np.zeros((len(TAGS), len(TAGS)), np.bool_), plain)
    assert figures["contradict_per_1000"] > 900
    assert figures["implied_tags_a_caption"] > 1
    assert figures["tags_a_caption"] == 2 + completions.ADDED
    assert completions._odd(site.vocab, np.zeros((len(TAGS), len(TAGS)), np.bool_), starts)["contradict_per_1000"] == 0


def test_suggestions_without_implications_are_the_same_either_way(
    trained: Trained, search_embedder: BooruEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "VISIBLE", 2)
    packed = trained.corpus.packed
    test = captions_from_packed(packed, search_embedder.vocab, rows_of_split(packed, "test"))
    figures = completions.suggestions(search_embedder, test)
    assert figures["num_posts"] > 5
    assert figures["implied_share_at_half"] == 0
    assert figures["keep"] == figures["drop"]
    assert figures["keep"]["first_is_implied"] == 0

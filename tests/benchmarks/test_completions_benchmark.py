"""The completions benchmark on the tiny corpus: its pairs that posts avoid, its baseline, and both parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from benchmarks import completions
from tests.core.completion_helpers import TAGS, site_embedder


def test_pairs_that_posts_avoid() -> None:
    posts = np.zeros((400, 4), dtype=np.float32)
    posts[:200, 0] = posts[200:, 1] = posts[::2, 2] = 1  # 0 and 1 never together, 2 independent, 3 nowhere
    posts[:2, 1] = 1
    avoided = completions._avoided(sparse.csr_matrix(posts))
    assert np.argwhere(avoided).tolist() == [[0, 1], [1, 0]]


def test_plain_draws_contradict_and_fills_do_not() -> None:
    site = site_embedder()
    starts = [np.array([TAGS.index("1girl"), TAGS.index("solo")])] * 20
    plain = completions._plain(site, starts, 1.0)
    assert {len(one) for one in plain} == {2 + completions.ADDED}
    assert all(len(set(one.tolist())) == len(one) for one in plain)
    none = np.zeros((len(TAGS), len(TAGS)), np.bool_)
    figures = completions._odd(site.vocab, none, plain)
    assert figures["contradict_per_1000"] > 900
    assert figures["implied_tags_a_caption"] > 1
    assert figures["tags_a_caption"] == 2 + completions.ADDED
    assert completions._odd(site.vocab, none, starts)["contradict_per_1000"] == 0


def test_implied_suggestions_are_counted_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "VISIBLE", 4)
    site = site_embedder(scores={"hat": 9.0, "cat": 9.0, "long_hair": 9.0})
    numbers = np.random.default_rng(3)
    posts = [site.vocab.implications.restored(numbers.choice(len(TAGS), 10, replace=False)) for _ in range(40)]
    lengths = np.array([len(post) for post in posts])
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    test = sparse.csr_matrix((np.ones(indptr[-1], np.float32), np.concatenate(posts), indptr), shape=(40, len(TAGS)))
    figures = completions.suggestions(site, test)
    assert figures["num_posts"] == 40
    assert figures["implied_share_at_half"] > 0.01
    assert figures["keep"]["first_is_implied"] > 0
    assert figures["drop"]["first_is_implied"] == 0
    assert figures["drop"]["not_implied_among_ten"] == 10

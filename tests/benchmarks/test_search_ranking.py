"""The benchmarks of ranking and of hubs at a small size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks._post_vectors import NUM_TAGS, generate
from benchmarks._results import RESULTS
from benchmarks.search_ranking import compared, posts_table
from benchmarks.similar import association, cosines, quality, remedies
from booru_embed_core.search.filters import RatingIs
from booru_embed_core.search.vector_index import VectorIndex


def test_both_rankings_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.search_ranking.K", 5)
    made = generate(2000, 24)
    table = posts_table(tmp_path, made)
    assert len(table.rows) == NUM_TAGS
    starts = np.cumsum(made.lengths) - made.lengths
    for row in (0, 7, 1999):
        drawn = made.tags[starts[row] : starts[row] + made.lengths[row]]
        assert table.tags[row].tolist() == sorted(set(drawn.tolist()))
    index = VectorIndex.build(made.vectors)
    few = replace(made, typed=made.typed[:8], typed_tags=made.typed_tags[:8])
    for filters_of in (lambda _: [], lambda _: [RatingIs(frozenset([1]))]):
        found = compared(table, index, few, filters_of)
        assert found["tags"]["share_with_all_tags"] >= found["embedding"]["share_with_all_tags"]
        assert found["tags"]["milliseconds"] > 0


def test_the_guide_has_the_figures_of_the_results() -> None:
    guide = (RESULTS.parents[1] / "docs/guides/search.md").read_text(encoding="utf-8")

    def figures(name: str) -> dict[str, Any]:
        return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["figures"]

    def share(value: float) -> str:
        return f"{value:.3f}".lstrip("0")

    for one in figures("search_precision").values():
        assert f"| {share(one['embedding'])} | {share(one['tags'])} | {share(one['possible'])} |" in guide
    for name, ways in figures("search_ranking").items():
        cells = (f"{ways[by]['milliseconds']:.1f} ({ways[by]['p95_milliseconds']:.1f})" for by in ("embedding", "tags"))
        assert f"| {name} | {' | '.join(cells)} |" in guide
    for one in figures("similar").values():
        test = one["test"]
        assert f"| {share(test['overlap'])} | {test['largest_hub']} | {test['skewness']:.2f} |" in guide


def test_associated_tags_are_told_and_a_hub_is_counted() -> None:
    together = np.full((6, 6), 4.0)
    together[0, 1] = together[1, 0] = 30
    np.fill_diagonal(together, 40)
    values, is_compared = association(together, 100)
    assert is_compared.all()
    assert values[0].argsort()[-2] == 1
    vectors = np.random.default_rng(0).normal(size=(30, 8)) + 3
    ways = remedies(vectors, np.ones(30, np.int64))
    found = {name: quality(similarity(), cosines(vectors), np.ones(30, bool)) for name, similarity in ways.items()}
    assert found["cosine"]["overlap"] == 1
    assert all(one["largest_hub"] <= 29 for one in found.values())
    by_mean = ways["minus the mean"]()
    assert by_mean == pytest.approx(ways["minus the mean by use: booru-embed"](), abs=1e-12)

"""Budgets that follow the vocabulary: what a baseline costs, which are left out, and how many posts are tested."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from booru_embed_core.evaluation.budget import baseline_seconds
from booru_embed_core.evaluation.markdown import render_markdown
from booru_embed_core.evaluation.report import run_evaluation
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.settings.sections import BaselineName
from booru_embed_core.tokens.cooccurrence import Cooccurrence
from tests.core.evaluation.evaluation_helpers import topic_rows
from tests.core.in_memory_helpers import packed_of

DEFAULTS = EvaluationSettings()


def pairs_of(num_posts: int, num_fitted: int) -> Cooccurrence:
    """Counts without pairs: costs depend on their size alone."""
    counts = np.full(num_fitted, num_posts / 100)
    return Cooccurrence(
        counts, num_posts, np.arange(num_fitted), np.broadcast_to(np.int32(0), (num_fitted, num_fitted))
    )


def left_out(num_posts: int, num_fitted: int, num_validation: int) -> set[str]:
    pairs = pairs_of(num_posts, num_fitted)
    names = get_args(BaselineName)
    seconds = {name: baseline_seconds(name, pairs, num_validation, DEFAULTS) for name in names}
    return {name for name in names if seconds[name] > DEFAULTS.max_baseline_seconds}


def test_small_corpora_have_all_baselines_and_large_ones_those_that_take_minutes() -> None:
    assert left_out(46_510, 494, 2_746) == set()
    assert left_out(48_000, 5_043, 2_800) == set()
    assert left_out(4_903_710, 8_192, 20_000) == {"tag_table", "item2vec"}


@pytest.mark.parametrize("name", get_args(BaselineName))
def test_a_cost_grows_with_tags_and_posts(name: str) -> None:
    costs = [baseline_seconds(name, pairs_of(*size), size[0] // 20, DEFAULTS) for size in ((1000, 100), (9000, 400))]
    assert 0 < costs[0] < costs[1]


def test_the_report_names_what_a_budget_left_out_and_the_setting_that_brings_it_back() -> None:
    packed, vocab = packed_of(topic_rows(400, 24, seed=2), 24)
    settings = EvaluationSettings(
        baselines=("popularity", "ease", "tag_table"), max_baseline_seconds=1, max_scores=24 * 20, ease_lambdas=(1.0,)
    )
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("booru_embed_core.evaluation.budget._TRAIN", 1.0)
        evaluation = run_evaluation([], packed, vocab, settings, said.append)
    assert list(evaluation.tasks["one"].models) == ["popularity", "ease"]
    assert evaluation.tasks["one"].num_posts <= 20
    assert "tag_table" not in evaluation.chosen["one"]
    report = render_markdown(evaluation)
    assert "tag_table is left out: it would take about" in report
    assert "more than [evaluation] max_baseline_seconds = 1; raise that to have it" in report
    assert "Tested on 20 posts, not on" in report
    assert any("tag_table is left out" in line for line in said)

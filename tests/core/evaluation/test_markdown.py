"""The report follows from the figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from booru_embed_core.evaluation.markdown import render_markdown
from booru_embed_core.evaluation.probes import ProbeResult
from booru_embed_core.evaluation.report import Evaluation, SplitHalfResult
from booru_embed_core.evaluation.task_figures import Margin, TaskResult

MODELS = {
    "booru-embed": {"recall@1": 0.95, "recall@10": 0.58, "recall@50": 0.7, "mrr": 0.9},
    "ease": {"recall@1": 0.87, "recall@10": 0.54, "recall@50": 0.7001, "mrr": 0.95},
}
RARE = {name: {metric: value / 2 for metric, value in values.items()} for name, values in MODELS.items()}
MARGINS = {
    "booru-embed": {
        "recall@1": Margin("ease", 0.08, 0.01),
        "recall@10": Margin("ease", 0.04, 0.03),
        "mrr": Margin("ease", -0.05, 0.01),
    }
}
RESULT = TaskResult(num_posts=5575, num_hidden=94925, models=MODELS, margins=MARGINS)
EVALUATION = Evaluation(
    seed=7,
    split_sizes={"train": 46510, "validation": 2678, "test": 5575},
    num_tags=520,
    num_fitted_tags=520,
    tasks={"half": RESULT},
    without_implied={"half": TaskResult(0, 0, {}, {})},
    num_implied_pairs=129,
    implied_threshold=0.98,
    split_half_retrieval=SplitHalfResult(5575, {"booru-embed": {"recall@1": 0.4}, "ppmi_svd": {"recall@1": 0.02}}),
    chosen={"half": {"popularity": {}, "ease": {"lambda": 3000.0}, "ppmi_svd": {"dim": 64, "rule": "cosine"}}},
    caveats=("Every post is rated 's'.",),
    notes=("The model was trained for 1 of 9 epochs.",),
    by_group={"half": {"general": RESULT, "tail": replace(RESULT, num_posts=40, num_hidden=41, models=RARE)}},
    by_group_without_implied={"half": {"tail": replace(RESULT, num_posts=30, num_hidden=31, models=RARE)}},
    visible_share={"half": {"booru-embed": 0.0123}},
)


@pytest.fixture(scope="module")
def text() -> str:
    return render_markdown(EVALUATION)


def test_the_best_is_bold_and_equal_figures_are_both_best(text: str) -> None:
    assert "| booru-embed | **0.950** | **0.580** | **0.700** | 0.900 |" in text
    assert "| ease | 0.870 | 0.540 | **0.700** | **0.950** |" in text
    assert "| booru-embed | **0.400** |\n| ppmi_svd | 0.020 |" in text


def test_margins_are_reported_with_their_error(text: str) -> None:
    assert (
        "- `booru-embed` is ahead of ease at recall@1 (+0.080 ± 0.010), level with ease at recall@10 (+0.040 ± 0.030), "
        "behind ease at MRR (-0.050 ± 0.010)." in text
    )


def test_the_report_begins_with_what_one_must_know_of_the_models(text: str) -> None:
    assert text.startswith("# Evaluation\n\n**The model was trained for 1 of 9 epochs.**\n\nA post's hidden")


def test_sizes_choices_and_caveats_are_reported(text: str) -> None:
    assert "Posts: 46,510 train, 2,678 validation, 5,575 test. Tags: 520. Seed 7." in text
    assert "5,575 posts, 94,925 hidden tags." in text
    assert "| half | ease | lambda 3000 |\n| half | ppmi_svd | dim 64, rule cosine |" in text
    assert "| half | popularity" not in text
    assert "129 pairs of tags" in text
    assert "- Every post is rated 's'." in text
    assert "by chance: 0.0002" in text


def test_tags_that_baselines_do_not_know_are_a_caveat(text: str) -> None:
    assert "most used tags" not in text
    limited = render_markdown(replace(EVALUATION, num_fitted_tags=500))
    assert "are fitted on the 500 most used tags; they rank the other 20 below these" in limited


def test_probes_are_reported_with_their_posts(text: str) -> None:
    assert "None: rating and score are constant within a split." in text
    models = {"booru-embed": {"accuracy": 0.8, "macro_f1": 0.7}, "ppmi_svd": {"accuracy": 0.75, "macro_f1": 0.71}}
    rated = replace(EVALUATION, probes={"rating": ProbeResult(46_510, 5_575, models, {"booru-embed": {"penalty": 1}})})
    told = render_markdown(rated)
    assert "Rating, 5,575 posts:\n\n| | accuracy | macro F1 |" in told
    assert "| booru-embed | **0.800** | 0.700 |\n| ppmi_svd | 0.750 | **0.710** |" in told
    assert "None: rating" not in told


def test_groups_are_columns_of_a_table_for_each_metric(text: str) -> None:
    sizes = "general 94,925 in 5,575 posts, tail 41 in 40 posts (fewer than 100 posts, so noisy: tail)."
    assert f"Hidden tags: {sizes}" in text
    assert "| recall@10 | general | tail |\n|---|---:|---:|\n| booru-embed | **0.580** | **0.290** |" in text
    assert "| MRR | general | tail |\n|---|---:|---:|\n| booru-embed | 0.900 | 0.450 |\n| ease | **0.950** |" in text


def test_groups_without_implied_tags_have_the_headline_metric(text: str) -> None:
    assert "Implied tags left out: tail 31 in 30 posts (fewer than 100 posts, so noisy: tail)." in text
    assert (
        "| recall@10, implied left out | tail |\n|---|---:|\n| booru-embed | **0.290** |\n| ease | 0.270 |\n\n" in text
    )
    assert text.count("implied left out") == 1
    assert "mplied tags left out:" not in render_markdown(replace(EVALUATION, by_group_without_implied={"half": {}}))


def test_where_all_found_nothing_none_is_best() -> None:
    nothing = {name: dict.fromkeys(values, 0.0) for name, values in MODELS.items()}
    groups = {"half": {"meta": replace(RESULT, models=nothing)}}
    told = render_markdown(replace(EVALUATION, by_group=groups, by_group_without_implied={}))
    assert "| recall@10 | meta |\n|---|---:|\n| booru-embed | 0.000 |\n| ease | 0.000 |" in told
    assert "so noisy" not in told


def test_the_probability_of_visible_tags_is_reported(text: str) -> None:
    assert "| | half of the tags hidden |\n|---|---:|\n| booru-embed | 0.0123 |" in text
    assert "No model was given." in render_markdown(replace(EVALUATION, visible_share={}))


def test_what_is_missing_is_said(text: str) -> None:
    assert "## Half of the tags hidden, implied tags left out\n\nNo post has a hidden tag left." in text
    bare = render_markdown(replace(EVALUATION, split_half_retrieval=SplitHalfResult(5575, {}), chosen={}))
    assert "No scorer that embeds was given." in bare
    assert "No baseline has hyper-parameters." in bare


def test_every_section_is_a_heading_once(text: str) -> None:
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Evaluation",
        "## Half of the tags hidden",
        "## Half of the tags hidden, implied tags left out",
        "## Half of the tags hidden, by category and in the tail",
        "## Split-half retrieval (R@1)",
        "## Linear probes of rating and score",
        "## Probability of visible tags",
        "## Hyper-parameters chosen on validation",
        "## Caveats",
    ]
    assert text.endswith("\n")
    assert "\n\n\n" not in text

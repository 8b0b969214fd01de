"""How an `Evaluation` reads: a short report in Markdown whose every sentence follows from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from booru_embed_core.evaluation.groups import TAIL_BELOW
from booru_embed_core.evaluation.metrics import HEADLINE

if TYPE_CHECKING:
    from booru_embed_core.evaluation.metrics import Metrics
    from booru_embed_core.evaluation.report import Evaluation, Margin, SplitHalfResult, TaskResult
    from booru_embed_core.evaluation.tasks import Hide

TITLES: Final[Mapping[Hide, str]] = {"one": "One tag hidden", "half": "Half of the tags hidden"}
_METRIC_NAMES: Final = {"mrr": "MRR", "macro_f1": "macro F1", "r2": "R²", "spearman": "Spearman"}
_FEW_POSTS: Final = 100


def render_markdown(evaluation: Evaluation) -> str:
    """The report of `evaluation`: a table for each task, who is ahead, what was chosen, and caveats."""
    sections = [_head(evaluation)]
    for hide, result in evaluation.tasks.items():
        sections.append(_task(TITLES[hide], result))
    for hide, result in evaluation.without_implied.items():
        sections.append(_task(f"{TITLES[hide]}, implied tags left out", result))
    for hide, groups in evaluation.by_group.items():
        if groups:
            sections.append(_groups(TITLES[hide], groups, evaluation.by_group_without_implied.get(hide, {})))
    sections += [_split_half(evaluation.split_half_retrieval), _probes(evaluation), _visible_share(evaluation)]
    sections += [_chosen(evaluation), _caveats(evaluation)]
    return "\n\n".join(sections) + "\n"


def _head(evaluation: Evaluation) -> str:
    sizes = ", ".join(f"{size:,} {split}" for split, size in evaluation.split_sizes.items())
    return (
        "# Evaluation\n\n"
        "A post's hidden tags are looked for among all tags but the visible ones. "
        "recall@k = hits / min(k, hidden tags), MRR = 1 / rank of the best-ranked hidden tag; means over posts, the "
        "best in bold. Baselines are fitted on the training posts and tuned on the validation posts. "
        f"Posts: {sizes}. Tags: {evaluation.num_tags:,}. Seed {evaluation.seed}."
    )


def _task(title: str, result: TaskResult) -> str:
    if not result.num_posts:
        return f"## {title}\n\nNo post is left."
    lines = [f"{result.num_posts:,} posts, {result.num_hidden:,} hidden tags.", "", *metrics_table(result.models)]
    lines += ["", *(verdict(model, margins) for model, margins in result.margins.items())]
    return f"## {title}\n\n" + "\n".join(lines).rstrip()


def _groups(title: str, groups: Mapping[str, TaskResult], left: Mapping[str, TaskResult]) -> str:
    """A table for each metric: a row for each scorer, a column for each group of tags; of `left` the headline alone."""
    text = (
        f"Hidden tags: {_sizes(groups)}. Ranked among all tags, the post's other hidden tags left out; means over the "
        f"posts that hide a tag of the group. Tail: tags with fewer than {TAIL_BELOW} training posts, of any category."
    )
    lines = [f"## {title}, by category and for the tail", "", text]
    for metric in next(iter(next(iter(groups.values())).models.values()), ()):
        lines += ["", *_group_table(_shown(metric), metric, groups)]
    if left:
        lines += ["", f"Implied tags left out: {_sizes(left)}. `evaluation.json` holds the other metrics."]
        lines += ["", *_group_table(f"{HEADLINE}, implied left out", HEADLINE, left)]
    return "\n".join(lines)


def _sizes(groups: Mapping[str, TaskResult]) -> str:
    sizes = ", ".join(f"{name} {group.num_hidden:,} in {group.num_posts:,} posts" for name, group in groups.items())
    few = ", ".join(name for name, group in groups.items() if group.num_posts < _FEW_POSTS)
    return f"{sizes} (fewer than {_FEW_POSTS} posts say little: {few})" if few else sizes


def _group_table(title: str, metric: str, groups: Mapping[str, TaskResult]) -> list[str]:
    best = [max((round(m[metric], 3) for m in group.models.values()), default=0) for group in groups.values()]
    rows = [f"| {title} | {' | '.join(groups)} |", "|---|" + "---:|" * len(groups)]
    for name in next(iter(groups.values())).models:
        values = [group.models[name][metric] for group in groups.values()]
        rows.append(f"| {name} | {' | '.join(map(_bold, values, best))} |")
    return rows


def _visible_share(evaluation: Evaluation) -> str:
    tasks = {hide: shares for hide, shares in evaluation.visible_share.items() if shares}
    if not tasks:
        return "## Probability on visible tags\n\nNo model was given."
    text = (
        "Share of a model's probability that lies on visible tags before these are masked, mean over posts. Nothing in "
        "the tables above depends on it: visible tags are never offered."
    )
    rows = [f"| | {' | '.join(TITLES[hide].lower() for hide in tasks)} |", "|---|" + "---:|" * len(tasks)]
    names = next(iter(tasks.values()))
    rows += [f"| {name} | {' | '.join(f'{shares[name]:.4f}' for shares in tasks.values())} |" for name in names]
    return "\n".join(["## Probability on visible tags", "", text, "", *rows])


def metrics_table(models: Mapping[str, Metrics]) -> list[str]:
    """Lines of a table: a row for each of `models`, a column for each metric, the best in bold."""
    metrics = list(next(iter(models.values())))
    best = {metric: max(round(values[metric], 3) for values in models.values()) for metric in metrics}
    rows = [f"| | {' | '.join(_shown(metric) for metric in metrics)} |", "|---|" + "---:|" * len(metrics)]
    for name, values in models.items():
        cells = (_bold(values[metric], best[metric]) for metric in metrics)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def verdict(model: str, margins: Mapping[str, Margin]) -> str:
    """One line: against the best baseline at each metric, ahead, behind, or too close to tell."""
    words = {True: "ahead of", False: "behind", None: "level with"}
    parts = [
        f"{words[margin.is_ahead]} {margin.against} at {_shown(metric)} "
        f"({margin.difference:+.3f} ± {margin.standard_error:.3f})"
        for metric, margin in margins.items()
    ]
    return f"- `{model}` is {', '.join(parts)}."


def _split_half(result: SplitHalfResult) -> str:
    title = "## Split-half retrieval (R@1)"
    if not result.models:
        return f"{title}\n\nNo scorer that embeds was given."
    text = (
        "Each post's tags are split into two halves without a common tag. The figure is the share of "
        f"{result.num_posts:,} posts whose other half is the nearest by cosine among those of all posts "
        f"(by chance: {1 / result.num_posts:.4f})."
    )
    return "\n".join([title, "", text, "", *metrics_table(result.models)])


def _probes(evaluation: Evaluation) -> str:
    title = "## What a linear probe tells of rating and score"
    if not evaluation.probes:
        return f"{title}\n\nNothing: rating and score are the same for all posts of a split."
    text = (
        "From the vector of all tags of a post, rating and score withheld. Rating by logistic regression; a score's "
        "decile among training posts of its rating by ridge regression. `constant` looks at no tag."
    )
    lines = [title, "", text]
    for target, result in evaluation.probes.items():
        lines += ["", f"{target.capitalize()}, {result.num_test:,} posts:", "", *metrics_table(result.models)]
    return "\n".join(lines)


def _chosen(evaluation: Evaluation) -> str:
    rows = []
    for task, of_task in evaluation.chosen.items():
        for name, params in of_task.items():
            if params:
                values = ", ".join(f"{key} {_value(value)}" for key, value in params.items())
                rows.append(f"| {task} | {name} | {values} |")
    if not rows:
        return "## Chosen on validation\n\nNothing was to be chosen."
    return "\n".join(["## Chosen on validation", "", "| task | baseline | values |", "|---|---|---|", *rows])


def _caveats(evaluation: Evaluation) -> str:
    caveats: Sequence[str] = [
        "± is the standard error of the mean difference over the same posts; within two of them is called level. "
        "It does not cover the chance of another training run.",
        f"Implied: {evaluation.num_implied_pairs:,} pairs of tags a → b with P(b given a) above "
        f"{evaluation.implied_threshold:g} among training posts.",
        *evaluation.caveats,
    ]
    left_out = evaluation.num_tags - evaluation.num_fitted_tags
    if left_out:
        caveats = [
            *caveats,
            f"Baselines other than popularity know the {evaluation.num_fitted_tags:,} most used tags; "
            f"they rank the other {left_out:,} below these, by popularity.",
        ]
    return "## Caveats\n\n" + "\n".join(f"- {caveat}" for caveat in caveats)


def _shown(metric: str) -> str:
    return _METRIC_NAMES.get(metric, metric)


def _bold(value: float, best: float) -> str:
    return f"**{value:.3f}**" if round(value, 3) >= best > 0 else f"{value:.3f}"


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"

"""Renders an `Evaluation` as a short Markdown report; every sentence follows from the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from booru_embed_core.evaluation.groups import TAIL_BELOW
from booru_embed_core.evaluation.metrics import HEADLINE
from booru_embed_core.evaluation.suggestions import Suggestions, suggestions_table

if TYPE_CHECKING:
    from booru_embed_core.evaluation.metrics import Metrics
    from booru_embed_core.evaluation.report import Evaluation, SplitHalfResult
    from booru_embed_core.evaluation.task_figures import Margin, TaskResult
    from booru_embed_core.evaluation.tasks import Hide

TITLES: Final[Mapping[Hide, str]] = {"one": "One tag hidden", "half": "Half of the tags hidden"}
_METRIC_NAMES: Final = {"mrr": "MRR", "macro_f1": "macro F1", "r2": "R²", "spearman": "Spearman"}
_FEW_POSTS: Final = 100


def render_markdown(evaluation: Evaluation) -> str:
    """The report of `evaluation`: tables, comparisons with the best baselines, chosen hyper-parameters, and caveats."""
    sections = [_introduction(evaluation)]
    for hide, result in evaluation.tasks.items():
        sections.append(_task(TITLES[hide], result))
    for hide, result in evaluation.without_implied.items():
        sections.append(_task(f"{TITLES[hide]}, implied tags left out", result))
    for hide, groups in evaluation.by_group.items():
        if groups:
            sections.append(_groups(TITLES[hide], groups, evaluation.by_group_without_implied.get(hide, {})))
    sections += [_split_half(evaluation.split_half_retrieval), _probes(evaluation), _visible_share(evaluation)]
    if evaluation.suggestions:
        sections.append(_suggestions(evaluation.suggestions))
    sections += [_chosen(evaluation), _caveats(evaluation)]
    return "\n\n".join(sections) + "\n"


def _suggestions(found: Mapping[str, Suggestions]) -> str:
    text = (
        "Completions of the visible tags. Implied: by a visible tag, through the vocabulary's implications. Without "
        "these, which completions leave out, the probabilities of the others have the sum 1 (alone)."
    )
    return "\n".join(["## First suggestions", "", text, "", *suggestions_table(found)])


def _introduction(evaluation: Evaluation) -> str:
    sizes = ", ".join(f"{size:,} {split}" for split, size in evaluation.split_sizes.items())
    return (
        "# Evaluation\n\n"
        + "".join(f"**{note}**\n\n" for note in evaluation.notes)
        + "A post's hidden tags are ranked among all tags but the visible ones. "
        "recall@k = hits / min(k, hidden tags); MRR = 1 / rank of the best-ranked hidden tag. Figures are means over "
        "posts, the best in bold. Baselines are fitted on the training posts and tuned on the validation posts. "
        f"Posts: {sizes}. Tags: {evaluation.num_tags:,}. Seed {evaluation.seed}."
    )


def _task(title: str, result: TaskResult) -> str:
    if not result.num_posts:
        return f"## {title}\n\nNo post has a hidden tag left."
    lines = [f"{result.num_posts:,} posts, {result.num_hidden:,} hidden tags.", "", *metrics_table(result.models)]
    lines += ["", *(verdict(model, margins) for model, margins in result.margins.items())]
    return f"## {title}\n\n" + "\n".join(lines).rstrip()


def _groups(title: str, groups: Mapping[str, TaskResult], left: Mapping[str, TaskResult]) -> str:
    """A table per metric with a row per scorer and a column per group of tags; for `left` only the headline metric."""
    text = (
        f"Hidden tags: {_sizes(groups)}. They are ranked among all tags without the post's other hidden tags. Figures "
        "are means over the posts that hide a tag of the group. Tail: tags of any category with fewer than "
        f"{TAIL_BELOW} training posts."
    )
    lines = [f"## {title}, by category and in the tail", "", text]
    for metric in next(iter(next(iter(groups.values())).models.values()), ()):
        lines += ["", *_group_table(_shown(metric), metric, groups)]
    if left:
        lines += ["", f"Implied tags left out: {_sizes(left)}. `evaluation.json` has the other metrics."]
        lines += ["", *_group_table(f"{HEADLINE}, implied left out", HEADLINE, left)]
    return "\n".join(lines)


def _sizes(groups: Mapping[str, TaskResult]) -> str:
    sizes = ", ".join(f"{name} {group.num_hidden:,} in {group.num_posts:,} posts" for name, group in groups.items())
    few = ", ".join(name for name, group in groups.items() if group.num_posts < _FEW_POSTS)
    return f"{sizes} (fewer than {_FEW_POSTS} posts, so noisy: {few})" if few else sizes


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
        return "## Probability of visible tags\n\nNo model was given."
    text = (
        "The share of a model's probability on visible tags before these are masked, mean over posts. The tables above "
        "do not depend on it, because visible tags are not ranked."
    )
    rows = [f"| | {' | '.join(TITLES[hide].lower() for hide in tasks)} |", "|---|" + "---:|" * len(tasks)]
    names = next(iter(tasks.values()))
    rows += [f"| {name} | {' | '.join(f'{shares[name]:.4f}' for shares in tasks.values())} |" for name in names]
    return "\n".join(["## Probability of visible tags", "", text, "", *rows])


def metrics_table(models: Mapping[str, Metrics]) -> list[str]:
    """The lines of a table with a row for each of `models` and a column for each metric, the best in bold."""
    metrics = list(next(iter(models.values())))
    best = {metric: max(round(values[metric], 3) for values in models.values()) for metric in metrics}
    rows = [f"| | {' | '.join(_shown(metric) for metric in metrics)} |", "|---|" + "---:|" * len(metrics)]
    for name, values in models.items():
        cells = (_bold(values[metric], best[metric]) for metric in metrics)
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def verdict(model: str, margins: Mapping[str, Margin]) -> str:
    """One line that compares `model` with the best baseline at each metric: ahead, behind, or level."""
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
    title = "## Linear probes of rating and score"
    if not evaluation.probes:
        return f"{title}\n\nNone: rating and score are constant within a split."
    text = (
        "Predictions from the vector of all tags of a post, with rating and score withheld. The rating comes from "
        "logistic regression, the score's decile among training posts of its rating from ridge regression. `constant` "
        "ignores the tags."
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
        return "## Hyper-parameters chosen on validation\n\nNo baseline has hyper-parameters."
    return "\n".join(
        ["## Hyper-parameters chosen on validation", "", "| task | baseline | values |", "|---|---|---|", *rows]
    )


def _caveats(evaluation: Evaluation) -> str:
    caveats: Sequence[str] = [
        "± is the standard error of the mean difference over the same posts; a difference within two of them is level. "
        "It does not cover the variation between training runs.",
        f"Implied: {evaluation.num_implied_pairs:,} pairs of tags a → b with P(b given a) above "
        f"{evaluation.implied_threshold:g} among training posts.",
        *evaluation.caveats,
    ]
    left_out = evaluation.num_tags - evaluation.num_fitted_tags
    if left_out:
        caveats = [
            *caveats,
            f"Baselines other than popularity are fitted on the {evaluation.num_fitted_tags:,} most used tags; "
            f"they rank the other {left_out:,} below these, by popularity.",
        ]
    return "## Caveats\n\n" + "\n".join(f"- {caveat}" for caveat in caveats)


def _shown(metric: str) -> str:
    return _METRIC_NAMES.get(metric, metric)


def _bold(value: float, best: float) -> str:
    return f"**{value:.3f}**" if round(value, 3) >= best > 0 else f"{value:.3f}"


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"

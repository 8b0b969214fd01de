"""Plots as PNG bytes, drawn with matplotlib's objects: no pyplot, so no global state and no display.

matplotlib is imported at the first plot: every process of Dagster loads this module, and few of them draw.

Each function draws data of a product and computes no figure that a reader of the product would need. In every plot a
category has Danbooru's colour for it.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from booru_embed_core.schema import CATEGORIES, MAX_U16_TAGS, Category

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CATEGORY_COLOURS: Final = {
    Category.GENERAL: "#0075f8",
    Category.ARTIST: "#c00004",
    Category.COPYRIGHT: "#a800aa",
    Category.CHARACTER: "#00ab2c",
    Category.META: "#fd9200",
}
OURS: Final = "#0075f8"
_INK: Final = "#24292f"
_MUTED: Final = "#6e7781"
_PALE: Final = "#d0d7de"
_DOTS_PER_INCH: Final = 110


class Cut(NamedTuple):
    """The cut of a category: `min_count` may keep fewer tags than the percentile alone."""

    percentile: float
    vocab_size: int
    coverage: float


def vocab_cost(curve: pa.Table, cuts: Mapping[Category, Cut] | None = None) -> bytes:
    """PNG of the vocabulary's size and coverage over the kept percentile, one line per category.

    `curve` has the columns category, percentile, vocab_size and coverage; `cuts` are the current ones, drawn as dots.
    """
    figure, (size, coverage) = _figure("What a percentile costs", columns=2)
    for category in CATEGORIES:
        rows = curve.filter(pc.field("category") == category.value)
        if not pc.max(rows["vocab_size"]).as_py():  # a category without tags
            continue
        percentile = rows["percentile"].to_numpy()
        colour = CATEGORY_COLOURS[category]
        cut = cuts.get(category) if cuts else None
        # In the legend and not beside its dot: dots of large categories lie so close that their names would overlap.
        name = f"{category.value}: {cut.vocab_size:,}" if cut else category.value
        size.plot(percentile, rows["vocab_size"].to_numpy(), color=colour, lw=1.8, label=name)
        coverage.plot(rows["vocab_size"].to_numpy(), rows["coverage"].to_numpy(), color=colour, lw=1.8)
        if cut and cut.vocab_size:
            reach = float(np.interp(cut.percentile, percentile, rows["vocab_size"].to_numpy()))
            size.plot([cut.percentile] * 2, [reach, cut.vocab_size], color=colour, lw=1, ls=":")
            dot: dict[str, Any] = {
                "color": colour,
                "marker": "o",
                "ms": 7,
                "mec": "white",
                "mew": 1.2,
                "clip_on": False,
            }
            size.plot(cut.percentile, cut.vocab_size, **dot)
            coverage.plot(cut.vocab_size, cut.coverage, **dot)
    if (pc.max(curve["vocab_size"]).as_py() or 0) > MAX_U16_TAGS:
        size.axhline(MAX_U16_TAGS, color=_MUTED, lw=1, ls=":")
        _name(size, (50, MAX_U16_TAGS), f"{MAX_U16_TAGS:,}: 16 bits", _MUTED, size=9, offset=(0, 3), align="left")
    _label(
        size, "tags kept, by the percentile of uses", "percentile of a category's tag uses, wider towards 100", "tags"
    )
    _label(coverage, "share of uses covered, by the tags kept", "tags", "share of uses")
    size.set_yscale("log")
    size.set_xscale("function", functions=(_stretch, _shrink))
    size.set_xticks([50, 80, 90, 95, 99, 99.5, 99.9, 100])
    size.xaxis.set_major_formatter("{x:g}")
    coverage.set_xscale("log")
    size.yaxis.set_major_formatter(_thousands)
    coverage.xaxis.set_major_formatter(_thousands)
    coverage.yaxis.set_major_formatter(_percent)
    handles, names = size.get_legend_handles_labels()
    title = (
        "a dot is the current cut and the tags it keeps; it lies below its line if min_count keeps fewer"
        if cuts
        else ""
    )
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, title=title, labelcolor=_INK)
    return _png(figure)


def tag_frequencies(frequencies: Mapping[Category, pa.Table]) -> bytes:
    """PNG of posts per tag over the tag's rank, both axes logarithmic, one line per category."""
    figure, (axes,) = _figure("How often tags are used", columns=1)
    for category in CATEGORIES:
        counts = frequencies[category]["count"].to_numpy() if category in frequencies else np.zeros(0)
        if counts.size:
            ranks = np.arange(1, counts.size + 1)
            shown = np.unique(np.geomspace(1, counts.size, 400).astype(int)) - 1
            label = f"{category.value}: {counts.sum():,} uses of {counts.size:,} tag{'s' if counts.size > 1 else ''}"
            marker = "o" if counts.size == 1 else None  # a line needs two points to be seen
            axes.plot(ranks[shown], counts[shown], color=CATEGORY_COLOURS[category], lw=1.8, label=label, marker=marker)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(_thousands)
    axes.yaxis.set_major_formatter(_thousands)
    _label(axes, "", "rank within the category", "posts that have the tag")
    _legend(axes)
    return _png(figure)


def caption_lengths(lengths: pa.Table) -> bytes:
    """PNG of posts by number of tags, with the share of posts that fit into each context length.

    `lengths` has the columns length, num_posts and share_covered.
    """
    figure, (axes,) = _figure("How long captions are", columns=1)
    length, share = lengths["length"].to_numpy(), lengths["share_covered"].to_numpy()
    axes.bar(length, lengths["num_posts"].to_numpy(), width=0.9, color=OURS, alpha=0.35, lw=0)
    axes.yaxis.set_major_formatter(_thousands)
    _label(axes, "", "tags of a post that are in the vocabulary", "posts")
    right = axes.twinx()
    right.plot(length, share, color=_INK, lw=1.6)
    for wanted, marker in ((0.5, "o"), (0.95, "^"), (0.99, "s"), (0.999, "D")):
        if share.size and share[-1] >= wanted:
            index = int(np.argmax(share >= wanted))
            note = f"{length[index]} tags hold {math.floor(share[index] * 1000) / 10:.1f}% of the posts"
            right.plot(length[index], share[index], marker, color=_INK, ms=6, label=note)
    _legend(right, place="center right")
    right.set_ylim(0, 1.04)
    right.set_ylabel("share of posts that fit", color=_MUTED)
    right.yaxis.set_major_formatter(_percent)
    right.tick_params(colors=_MUTED, length=0)
    right.spines[:].set_visible(False)
    return _png(figure)


def loss_curves(records: Sequence[Mapping[str, Any]]) -> bytes:
    """PNG of training and validation loss over the epochs: the sum of the shared terms, bottleneck and head.

    `records` are those of the training log: epoch, loss, terms (name to value), and at the end of an epoch validation
    (the same names, and their loss). The training curve is drawn raw and smoothed.
    """
    figure, (axes,) = _figure("Loss on training and validation posts", columns=1)
    loss = np.array([(record["epoch"], _comparable(record)) for record in records]).reshape(-1, 2)
    if len(loss):
        axes.plot(loss[:, 0], loss[:, 1], color=OURS, lw=0.8, alpha=0.3)
        smooth = _running_mean(loss[:, 1], len(loss) // 60)
        axes.plot(loss[:, 0], smooth, color=OURS, lw=1.8, label="training posts")
    taken = [(record["epoch"], record["validation"]["loss"]) for record in records if record.get("validation")]
    if taken:
        validation = np.array(taken)
        axes.plot(validation[:, 0], validation[:, 1], "o-", color=_INK, lw=1.2, ms=4, label="validation posts")
        epoch, best = validation[int(np.argmin(validation[:, 1]))]
        label = f"the best, {best:.3f} after epoch {round(epoch, 3):g}: the checkpoint"
        axes.plot(epoch, best, "*", color=_INK, ms=13, mec="white", label=label)
    _label(axes, "", "epoch", "loss of bottleneck and head")
    _legend(axes)
    return _png(figure)


def recall(tasks: Mapping[str, Mapping[str, Mapping[str, float]]], embedder: str = "booru-embed") -> bytes:
    """PNG of recall@1, @10 and @50 of each model, one panel per task; models named `embedder`… are blue.

    `tasks` maps a task's title to its models, and a model to its metrics (``recall@10`` and so on).
    """
    most_models = max(map(len, tasks.values()), default=1)
    title = "Finding hidden tags: recall on posts that no model has seen"
    figure, panels = _figure(title, columns=max(1, len(tasks)), height=max(4.6, 1.2 + 0.56 * most_models))
    for axes, (title, models) in zip(panels, tasks.items(), strict=False):  # one empty panel without tasks
        ranked = sorted(models, key=lambda name: models[name].get("recall@10", 0.0))
        for offset, (metric, shade) in enumerate((("recall@50", 0.35), ("recall@10", 1.0), ("recall@1", 0.6))):
            heights = np.arange(len(ranked)) + 0.26 * (offset - 1)
            values = [models[name].get(metric, math.nan) for name in ranked]
            colours = [OURS if name.startswith(embedder) else _MUTED for name in ranked]
            axes.barh(heights, values, height=0.25, color=colours, alpha=shade, lw=0)
            for y, value in zip(heights, values, strict=True):
                axes.text(value + 0.008, y, f"{value:.3f}", va="center", fontsize=7.5, color=_INK)
        axes.set_yticks(np.arange(len(ranked)), ranked)
        axes.set_ylim(-0.7, max(1, len(ranked)) - 0.3)
        axes.set_xlim(0, 1.1)
        axes.grid(visible=False, axis="y")
        _label(axes, title, "from the top: recall@1, recall@10, recall@50", "")
    return _png(figure)


def percentile_sweep(table: pa.Table, chosen: float) -> bytes:
    """PNG of recall@10 and of cost over the tried percentiles, evenly spaced, with `chosen` marked.

    `table` is a sweep's (``evaluation.sweep.SWEEP_SCHEMA``). Costs are relative to the most expensive percentile.
    """
    figure, (found, cost) = _figure("Which percentile to choose", columns=2)
    percentiles = table["percentile"].to_pylist()
    x = np.arange(len(percentiles))
    for hide, shade in (("half", OURS), ("one", CATEGORY_COLOURS[Category.META])):
        title = "half hidden" if hide == "half" else "one tag hidden"
        found.plot(x, table[f"recall_{hide}"].to_numpy(), "o-", color=shade, lw=1.8, ms=5, label=title)
        within = table[f"recall_{hide}_within"].to_numpy()
        found.plot(x, within, ":", color=shade, lw=1.4, label=f"{title}, only tags with a token")
    costs = {
        "tags": ("vocab_size", _INK),
        "parameters": ("num_parameters", CATEGORY_COLOURS[Category.COPYRIGHT]),
        "operations of an epoch": ("flops_per_epoch", OURS),
        "seconds of an epoch": ("seconds_per_epoch", CATEGORY_COLOURS[Category.META]),
        "packed file": ("packed_bytes", CATEGORY_COLOURS[Category.CHARACTER]),
    }
    for name, (column, shade) in costs.items():
        values = table[column].to_numpy().astype(float)
        cost.plot(x, values / (values.max(initial=0) or 1), "o-", color=shade, lw=1.6, ms=4, label=name)
    for axes in (found, cost):
        axes.set_xticks(x, [f"{p:g}\n{n:,} tags" for p, n in zip(percentiles, table["vocab_size"].to_pylist())])  # noqa: B905
        axes.axvline(percentiles.index(chosen), color=_MUTED, lw=1, ls="--")
        _legend(axes)
    cost.yaxis.set_major_formatter(_percent)
    cost.set_ylim(0, 1.05)
    _label(found, "recall@10 on validation posts", "percentile kept", "recall@10")
    _label(cost, "cost, as a share of the largest", "percentile kept", "")
    return _png(figure)


def tag_map(
    x: npt.NDArray[np.floating],
    y: npt.NDArray[np.floating],
    categories: Sequence[Category],
    counts: npt.NDArray[np.integer],
    tags: Sequence[str],
    num_labels: int = 60,
) -> bytes:
    """PNG of the tags at (`x`, `y`), coloured by category and sized by use, with the most used labelled.

    All arguments have one item per tag. Labels come from every category first; a label that would overlap is left out.
    """
    figure, (axes,) = _figure("Tags with similar use lie close together", columns=1, height=9.5)
    sizes = 8 + 90 * np.sqrt(counts / max(1, int(counts.max(initial=1))))
    colours = np.array([CATEGORY_COLOURS[category] for category in categories])
    drawn = np.argsort(-counts, kind="stable")
    axes.scatter(x[drawn], y[drawn], s=sizes[drawn], c=colours[drawn], alpha=0.55, lw=0)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.margins(0.04)
    for category in CATEGORIES:
        if category in categories:
            axes.scatter([], [], s=40, color=CATEGORY_COLOURS[category], label=category.value)
    _legend(axes)
    taken: list[tuple[float, float]] = []
    span_x, span_y = float(np.ptp(x)) or 1.0, float(np.ptp(y)) or 1.0
    for index in _named_first(drawn.tolist(), categories):
        point = (float(x[index]) / span_x, float(y[index]) / span_y)
        if len(taken) == num_labels or any(abs(point[0] - a) < 0.1 and abs(point[1] - b) < 0.018 for a, b in taken):
            continue
        taken.append(point)
        _name(axes, (x[index], y[index]), tags[index], CATEGORY_COLOURS[categories[index]])
    return _png(figure)


_NEAREST_TO_ALL: Final = 0.05
"""The axis is logarithmic in the lost share, so the percentile 100 is drawn at this distance from it."""


def _stretch(percentile: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # The lost share in powers of ten: most of a vocabulary lies in the last per cent of the uses.
    return -np.log10(np.maximum(100 - percentile, 0) + _NEAREST_TO_ALL)


def _shrink(stretched: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shrunk: npt.NDArray[np.float64] = 100 + _NEAREST_TO_ALL - 10 ** (-stretched)
    return shrunk


def _thousands(value: float, _: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float, _: float) -> str:
    return f"{value:.0%}"


def _figure(title: str, columns: int, height: float = 4.6) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Two panels are 1,078 pixels wide: the picture dialog of Dagster's UI cuts off anything beyond 1,080.
    figure = Figure(figsize=(9.5 if columns == 1 else 4.9 * columns, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=_INK)
    panels = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    for axes in panels:
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_PALE)
        axes.tick_params(colors=_MUTED, length=0, which="both")
        axes.grid(color=_PALE, lw=0.6, alpha=0.7)
        axes.set_axisbelow(True)
    return figure, panels


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(x, color=_MUTED)
    axes.set_ylabel(y, color=_MUTED)


def _legend(axes: Axes, place: Literal["best", "center right"] = "best") -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc=place, frameon=True, framealpha=0.85, edgecolor="none", labelcolor=_INK)


def _name(
    axes: Axes,
    place: tuple[float, float],
    name: str,
    colour: str,
    size: float = 7.5,
    offset: tuple[float, float] = (0, 4),
    align: Literal["left", "center"] = "center",
) -> None:
    from matplotlib.patheffects import withStroke

    text = axes.annotate(name, place, offset, textcoords="offset points", ha=align, fontsize=size, color=colour)
    text.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    # A tag is not a formula: matplotlib would parse text between two dollar signs as one.
    text.set_parse_math(False)


def _named_first(order: Sequence[int], categories: Sequence[Category], num_each: int = 4) -> list[int]:
    """`order` with the first `num_each` of every category moved to the front."""
    first = [index for category in CATEGORIES for index in [i for i in order if categories[i] == category][:num_each]]
    return list(dict.fromkeys([*first, *order]))


def _comparable(record: Mapping[str, Any]) -> float:
    terms = record.get("terms", {})
    return (
        float(terms["bottleneck"] + terms["head"]) if {"bottleneck", "head"} <= terms.keys() else float(record["loss"])
    )


def _running_mean(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    total = np.cumsum(np.concatenate([np.zeros(1), values]))
    middle = np.arange(values.size)
    start, end = np.maximum(0, middle - width // 2), np.minimum(values.size, middle + width // 2 + 1)
    smoothed: npt.NDArray[np.float64] = (total[end] - total[start]) / (end - start)
    return smoothed


def _png(figure: Figure) -> bytes:
    _drop_minor_ticks(figure)
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # the font lacks letters of some tags: a box is good enough
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH)
    return buffer.getvalue()


def _drop_minor_ticks(figure: Figure) -> None:
    """Drops the ticks between powers of ten where none has a label: they are invisible, and a third of the drawing."""
    from matplotlib.ticker import NullLocator

    for axis in itertools.chain.from_iterable((axes.xaxis, axes.yaxis) for axes in figure.axes):
        low, high = sorted(axis.get_view_interval())
        if axis.get_scale() == "log" and high > 10 * low:
            axis.set_minor_locator(NullLocator())

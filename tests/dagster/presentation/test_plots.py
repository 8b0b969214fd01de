"""Every plot is a PNG, whatever there is to draw."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.cut import COST_SCHEMA
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA
from booru_embed_dagster.presentation import plots


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def curve(num_rows: int = 3) -> pa.Table:
    rows = [
        {"category": category.value, "percentile": 50.0 + 25 * row, "min_count": 9 - row, "vocab_size": 10**row}
        | {"coverage": 0.5 + row / 4, "embedding_bytes": 768}
        for category in (Category.GENERAL, Category.ARTIST)
        for row in range(num_rows)
    ]
    return pa.Table.from_pylist(rows, schema=COST_SCHEMA)


def frequency(counts: list[int]) -> pa.Table:
    names = [f"tag_{place}" for place in range(len(counts))]
    return pa.table([names, counts, [1.0] * len(counts)], schema=FREQUENCY_SCHEMA)


def lengths(num_posts: list[int]) -> pa.Table:
    share = np.cumsum(num_posts) / max(1, sum(num_posts))
    return pa.table({"length": np.arange(len(num_posts)), "num_posts": num_posts, "share_covered": share})


def record(step: int, **more: object) -> dict[str, object]:
    return {"step": step, "epoch": step / 10, "loss": 2.0, "terms": {"bottleneck": 1.0, "head": 0.5}, **more}


SWEEP_COLUMNS = (
    *("num_parameters", "flops_per_epoch", "seconds_per_epoch", "packed_bytes"),
    *("recall_one", "recall_half", "recall_one_within", "recall_half_within"),
)
METRICS = {"recall@1": 0.1, "recall@10": 0.4, "recall@50": 0.8, "mrr": 0.2}
HOSTILE = ["$x^$", "a_b", "\\frac", "tag_with_<&>", "犬", "^_^", "$", "{", "x" * 200]


def hostile_map() -> bytes:
    places = np.linspace(0, 1, len(HOSTILE))
    categories = [CATEGORIES[place % 5] for place in range(len(HOSTILE))]
    return plots.tag_map(places, places[::-1], categories, np.arange(len(HOSTILE)), HOSTILE)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.vocab_cost(curve()),
        lambda: plots.vocab_cost(
            curve(), {Category.GENERAL: plots.Cut(40.0, 5, 0.3), Category.META: plots.Cut(99, 0, 0)}
        ),
        lambda: plots.vocab_cost(curve(1)),
        lambda: plots.vocab_cost(COST_SCHEMA.empty_table()),
        lambda: plots.tag_frequencies({category: frequency([9, 3, 1]) for category in CATEGORIES}),
        lambda: plots.tag_frequencies({Category.META: frequency([1]), Category.ARTIST: frequency([])}),
        lambda: plots.tag_frequencies({}),
        lambda: plots.caption_lengths(lengths([1, 5, 3])),
        lambda: plots.caption_lengths(lengths([0])),
        lambda: plots.loss_curves([record(step) for step in range(200)]),
        lambda: plots.loss_curves([record(1), record(2, validation={"loss": 1.2})]),
        lambda: plots.loss_curves([{"step": 1, "epoch": 0.1, "loss": 3.0}]),
        lambda: plots.loss_curves([]),
        lambda: plots.recall({"one hidden": {"booru-embed": METRICS, "ease": METRICS}, "half hidden": {}}),
        lambda: plots.recall({"one hidden": {"booru-embed": {}}}),
        lambda: plots.recall({}),
        hostile_map,
        lambda: plots.tag_map(np.zeros(1), np.zeros(1), [Category.META], np.ones(1, np.int64), ["only"]),
    ],
)
def test_a_plot_is_a_png_of_a_size_to_read(draw: Callable[[], bytes]) -> None:
    width, height = size_of(draw())
    assert 600 <= width <= 1600
    assert 400 <= height <= 1200


def test_the_same_content_is_drawn_the_same() -> None:
    assert plots.vocab_cost(curve()) == plots.vocab_cost(curve())
    assert plots.vocab_cost(curve()) != plots.vocab_cost(curve(2))


def test_the_cut_in_force_is_drawn() -> None:
    assert plots.vocab_cost(curve(), {Category.GENERAL: plots.Cut(75.0, 10, 0.75)}) != plots.vocab_cost(curve())


def test_what_16_bits_hold_is_drawn_where_a_category_has_more(monkeypatch: pytest.MonkeyPatch) -> None:
    before, of_few = plots.vocab_cost(curve()), plots.vocab_cost(curve(2))
    monkeypatch.setattr(plots, "MAX_U16_TAGS", 99)
    assert size_of(plots.vocab_cost(curve())) == size_of(before)
    assert plots.vocab_cost(curve()) != before
    assert plots.vocab_cost(curve(2)) == of_few


def test_every_category_has_danboorus_colour() -> None:
    assert plots.CATEGORY_COLOURS == {
        Category.GENERAL: "#0075f8",
        Category.ARTIST: "#c00004",
        Category.COPYRIGHT: "#a800aa",
        Category.CHARACTER: "#00ab2c",
        Category.META: "#fd9200",
    }


def test_training_and_validation_are_drawn_of_the_terms_that_both_have() -> None:
    with_penalties = [record(step, loss=100.0) for step in range(5)]
    assert plots.loss_curves(with_penalties) == plots.loss_curves([record(step) for step in range(5)])


def test_no_global_state_is_touched() -> None:
    code = (
        "import sys; from booru_embed_dagster.presentation import plots; plots.loss_curves([]); "
        "assert 'matplotlib' in sys.modules; assert 'matplotlib.pyplot' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("percentiles", [[80.0, 99.5], [95.0]])
def test_a_sweep_is_a_picture_of_recall_and_cost(percentiles: list[float]) -> None:
    tried = [dict.fromkeys(SWEEP_COLUMNS, 0.5) | {"percentile": p, "vocab_size": 10} for p in percentiles]
    width, height = size_of(plots.percentile_sweep(pa.Table.from_pylist(tried), chosen=percentiles[0]))
    assert width > height


@pytest.mark.parametrize("highest", [9, 10**5])
def test_ticks_that_are_dropped_are_invisible(monkeypatch: pytest.MonkeyPatch, highest: int) -> None:
    tables = {category: frequency([highest, 3, 2, 2]) for category in CATEGORIES}
    dropped = plots.tag_frequencies(tables)
    monkeypatch.setattr(plots, "_drop_minor_ticks", lambda _: None)
    assert plots.tag_frequencies(tables) == dropped

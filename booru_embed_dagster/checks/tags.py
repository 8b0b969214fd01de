"""Checks of the frequencies and the vocabulary: in order within themselves, and beside the versions before."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow.parquet as pq

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.build import VOCAB_SCHEMA, vocab_table
from booru_embed_core.tags.drift import share_drift
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA, frequency_file, read_frequencies
from booru_embed_core.tags.vocab import VOCAB_TABLE_FILE, Vocab
from booru_embed_dagster.checks.base import Findings, blocking, column_problems, warning
from booru_embed_dagster.presentation.metadata import preview
from booru_embed_dagster.resources import Pipeline

MAX_DRIFT: Final = 0.1
"""Of a category's uses, beyond what chance explains: a night's growth moves less than .01, another filter more."""
MAX_GROWTH: Final = 1.5
_FEW_TAGS: Final = 10
"""Added to both sizes that are compared: a few tags more of a handful are no jump."""


@blocking("tag_frequencies")
def tag_frequencies_have_their_columns(pipeline: Pipeline) -> Findings:
    """The table of each category has the columns tag, count and cumulative_share, of the types that are read."""
    (frequencies,) = pipeline.current("tag_frequencies")
    files = [frequency_file(frequencies.path, category) for category in CATEGORIES]
    return Findings(column_problems(files, FREQUENCY_SCHEMA, "tag_frequencies"), {"num_files": len(files)})


@warning("tag_frequencies")
def tag_shares_have_not_drifted(pipeline: Pipeline) -> Findings:
    """Tags are used as in the export before: in no category has a tenth of the uses moved to other tags.

    The distance is the total variation of the tags' shares; what two samples of the same site would differ by is taken
    off it.
    """
    (frequencies,) = pipeline.current("tag_frequencies")
    earlier = pipeline.warehouse.earlier("tag_frequencies")
    if not earlier:
        return Findings([], note="no earlier version to compare with")
    before, after = read_frequencies(earlier[0].path), read_frequencies(frequencies.path)
    problems, rows = [], []
    figures: dict[str, float] = {}
    for category in CATEGORIES:
        drift = share_drift(before[category], after[category])
        figures[f"{category}_drift"] = drift.distance
        rows += [
            {"category": category.value, "tag": tag, "share before": old, "share now": new}
            for tag, old, new in drift.moved
        ]
        if drift.distance - drift.by_chance > MAX_DRIFT:
            named = ", ".join(f"{tag} {old:.2%} → {new:.2%}" for tag, old, new in drift.moved)
            problems.append(
                f"{category.value}: {drift.distance:.1%} of the uses have moved to other tags, chance moves up to "
                f"{drift.by_chance:.1%} ({named or 'one of the two has no tags'}); look at the export and [posts]"
            )
    return Findings(problems, {**figures, "compared_with": earlier[0].version, "most_moved": preview(rows)})


@blocking("vocab")
def vocab_has_its_columns(pipeline: Pipeline) -> Findings:
    """The table has the columns token_id, category, tag, count and local_id, of the types that are read."""
    (product,) = pipeline.current("vocab")
    return Findings(column_problems([product.path / VOCAB_TABLE_FILE], VOCAB_SCHEMA, "vocab"))


@blocking("vocab")
def vocab_is_sane(pipeline: Pipeline) -> Findings:
    """The vocabulary has tags, each once, with dense ids, the most used first, and is what hash and table say."""
    (product,) = pipeline.current("vocab")
    vocab = Vocab.load(product.path)
    problems = []
    if not pq.read_table(product.path / VOCAB_TABLE_FILE).equals(vocab_table(vocab)):
        problems.append(f"{product.path / VOCAB_TABLE_FILE}: not the tags of vocab.json; materialize vocab again")
    if vocab.num_tags == 0:
        problems.append(f"{product.path}: no tags; lower [vocab] min_count and materialize vocab")
    if len(set(zip(vocab.categories.tolist(), vocab.tags, strict=True))) != vocab.num_tags:
        problems.append(f"{product.path}: a tag stands there twice; materialize vocab again")
    if np.any((np.diff(vocab.counts) > 0) & (np.diff(vocab.categories) == 0) & ~vocab.is_unknown[1:]):
        problems.append(f"{product.path}: not in the order of use; materialize vocab again")
    return Findings(problems, {"num_tags": vocab.num_tags, "num_tokens": vocab.num_tokens, "sha256": vocab.hash})


@warning("vocab")
def vocab_size_has_not_jumped(pipeline: Pipeline) -> Findings:
    """No category has half as many tags again as in the vocabulary before, or fewer than two thirds of them."""
    (product,) = pipeline.current("vocab")
    earlier = pipeline.warehouse.earlier("vocab")
    if not earlier:
        return Findings([], note="no earlier version to compare with")
    before, after = Vocab.load(earlier[0].path).sizes, Vocab.load(product.path).sizes
    problems = []
    for category in CATEGORIES:
        growth = (after[category] + _FEW_TAGS) / (before[category] + _FEW_TAGS)
        if not 1 / MAX_GROWTH <= growth <= MAX_GROWTH:
            problems.append(
                f"{category.value}: {before[category]:,} → {after[category]:,} tags; if that is not meant, look at "
                "[vocab] and at the plot of tag_frequencies"
            )
    changes = {f"{category}_change": after[category] - before[category] for category in CATEGORIES}
    return Findings(problems, {**changes, "compared_with": earlier[0].version})

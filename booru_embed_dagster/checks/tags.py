"""Checks of the frequencies and the vocabulary: each is consistent, and close to its previous version."""

from __future__ import annotations

from typing import Final

import numpy as np

from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.build import VOCAB_SCHEMA, vocab_table
from booru_embed_core.tags.drift import share_drift
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA, frequency_file, read_frequencies
from booru_embed_core.tags.vocab import VOCAB_TABLE_FILE, Vocab
from booru_embed_dagster.checks.base import Findings, blocking, column_problems, warning
from booru_embed_dagster.presentation.metadata import preview
from booru_embed_dagster.resources import Pipeline

MAX_DRIFT: Final = 0.1
"""Share of a category's uses, beyond chance: a night's growth moves less than .01, another filter more."""
MAX_GROWTH: Final = 1.5
_FEW_TAGS: Final = 10
"""Added to both compared sizes, so that a few more tags in a tiny category are not a jump."""


@blocking("tag_frequencies")
def tag_frequencies_have_their_columns(pipeline: Pipeline) -> Findings:
    """The table of each category has the columns tag, count and cumulative_share with their types."""
    (frequencies,) = pipeline.current("tag_frequencies")
    files = [frequency_file(frequencies.path, category) for category in CATEGORIES]
    return Findings(column_problems(files, FREQUENCY_SCHEMA, "tag_frequencies"), {"num_files": len(files)})


@warning("tag_frequencies")
def tag_shares_have_not_drifted(pipeline: Pipeline) -> Findings:
    """Tags are used as in the previous export: in no category has a tenth of the uses moved to other tags.

    The distance is the total variation of the tags' shares, less the distance of two samples of the same site.
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
    """The table has the columns token_id, category, tag, count and local_id with their types."""
    (product,) = pipeline.current("vocab")
    return Findings(column_problems([product.path / VOCAB_TABLE_FILE], VOCAB_SCHEMA, "vocab"))


@blocking("vocab")
def vocab_is_sane(pipeline: Pipeline) -> Findings:
    """The vocabulary has tags, each once, with dense ids, most used first, and agrees with its hash and table."""
    (product,) = pipeline.current("vocab")
    vocab = pipeline.vocab(product)
    problems = []
    if not read_parquet(product.path / VOCAB_TABLE_FILE).equals(vocab_table(vocab)):
        problems.append(f"{product.path / VOCAB_TABLE_FILE}: not the tags of vocab.json; materialize vocab again")
    if vocab.num_tags == 0:
        problems.append(f"{product.path}: no tags; lower [vocab] min_count and materialize vocab")
    if any(len(set(vocab.tags_of(category))) != vocab.sizes[category] for category in CATEGORIES):
        problems.append(f"{product.path}: a tag occurs twice; materialize vocab again")
    if np.any((np.diff(vocab.counts) > 0) & (np.diff(vocab.categories) == 0) & ~vocab.is_unknown[1:]):
        problems.append(f"{product.path}: not in the order of use; materialize vocab again")
    return Findings(problems, {"num_tags": vocab.num_tags, "num_tokens": vocab.num_tokens, "sha256": vocab.hash})


@warning("vocab")
def vocab_size_has_not_jumped(pipeline: Pipeline) -> Findings:
    """No category has grown by more than half since the previous vocabulary, or shrunk by more than a third."""
    (product,) = pipeline.current("vocab")
    earlier = pipeline.warehouse.earlier("vocab")
    if not earlier:
        return Findings([], note="no earlier version to compare with")
    before, after = Vocab.load(earlier[0].path).sizes, pipeline.vocab(product).sizes
    problems = []
    for category in CATEGORIES:
        growth = (after[category] + _FEW_TAGS) / (before[category] + _FEW_TAGS)
        if not 1 / MAX_GROWTH <= growth <= MAX_GROWTH:
            problems.append(
                f"{category.value}: {before[category]:,} → {after[category]:,} tags; if that is not intended, look at "
                "[vocab] and at the plot of tag_frequencies"
            )
    changes = {f"{category}_change": after[category] - before[category] for category in CATEGORIES}
    return Findings(problems, {**changes, "compared_with": earlier[0].version})

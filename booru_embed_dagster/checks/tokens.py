"""Checks of the packed tokens: they decode to the posts, every use is accounted for, and no split leaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.parquet_parts import count_posts, part_files, read_groups
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.schema import CATEGORIES, RATINGS, SPLITS, UNKNOWN_TAGS, Category
from booru_embed_core.settings import section_version
from booru_embed_core.tags.frequency import read_frequencies
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.duplicates import shared_captions
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.restored import whole_packed
from booru_embed_dagster.checks.base import Findings, blocking, warning
from booru_embed_dagster.presentation.metadata import preview
from booru_embed_dagster.resources import Pipeline
from booru_embed_dagster.warehouse.manifests import read_manifest

SAMPLED_ROW_GROUPS: Final = 4
SAMPLED_POSTS: Final = 256
"""From all of these row groups together."""
MAX_SHARED_CAPTIONS: Final = 0.01
"""Share of the test posts: a larger one could lift recall by more than its standard error on the sample."""
_MAX_DEVIATIONS: Final = 6
"""Standard deviations of a split's size: a larger deviation happens once in 500 million draws."""
_NUM_NAMED: Final = 5


@blocking("packed_tokens")
def packed_tokens_decode_to_posts(pipeline: Pipeline) -> Findings:
    """A sample of packed records decodes to the rows of the posts table, without tags outside the vocabulary."""
    packed, vocab, posts_dir = _packed_tokens(pipeline)
    num_posts = count_posts(posts_dir)
    if packed.num_posts != num_posts:
        return Findings([f"{packed.path}: {packed.num_posts} posts of {num_posts}; materialize packed_tokens again"])
    known = {category: frozenset(vocab.tags_of(category)) for category in CATEGORIES}
    num_compared = 0
    for post_index, row in sample_rows(posts_dir):
        num_compared += 1
        expected = _expected_record(row, known)
        found = _decoded_record(packed, post_index, vocab)
        if packed.split_settings.drop_implied:
            found, expected = _in_any_order(found), _in_any_order(expected)
        if found != expected:
            problem = (
                f"{packed.path}: record {post_index} is {found}, the post {expected}; materialize packed_tokens again"
            )
            return Findings([problem], {"num_compared": num_compared})
    return Findings([], {"num_compared": num_compared})


@blocking("packed_tokens")
def packed_tokens_reconcile(pipeline: Pipeline) -> Findings:
    """Every use of a tag in the posts is a token, was dropped, or is replaced by its post's unknown token.

    `tag_frequencies` counts the uses. The posts are read again where it counts other posts, or where posts with
    unpopular tags have to be counted.
    """
    packed, vocab, posts_dir = _packed_tokens(pipeline)
    frequencies = _frequencies_of(pipeline, posts_dir)
    # A column at a time: numpy's sum over rows of five takes ten times as long.
    num_tokens = [int(packed.field_lengths[:, category_id].sum()) for category_id in range(len(CATEGORIES))]
    problems, rows = [], []
    for category, found in zip(CATEGORIES, num_tokens, strict=True):
        if frequencies and vocab.unknown_local_id(category) is None:
            uses, kept, unknown = *_counted_uses(frequencies[category], category, vocab), 0
        else:
            uses, kept, unknown = _count_uses(posts_dir, category, vocab)
        lost = "replaced" if unknown else "dropped"
        rows.append({"category": category.value, "uses": uses, "kept": kept, "dropped": 0, "replaced": 0})
        rows[-1][lost] = uses - kept
        if found != kept + unknown:
            problems.append(
                f"{packed.path}: {found:,} tokens for {uses:,} uses of {category.value} tags, not "
                f"{kept + unknown:,} with {uses - kept:,} {lost}; materialize packed_tokens again"
            )
    totals = {f"num_{name}": sum(int(row[name]) for row in rows) for name in ("uses", "kept", "dropped", "replaced")}
    return Findings(problems, {**totals, "by_category": preview(rows)})


@blocking("packed_tokens")
def splits_do_not_leak(pipeline: Pipeline) -> Findings:
    """No post occurs twice, and the splits are those of `[tokens]`, with the expected sizes.

    A post's split is not stored: readers compute it from the post's id and the settings in the file. So each post has
    one split as long as its id occurs once and these settings are the intended ones.
    """
    packed, _, _ = _packed_tokens(pipeline)
    problems = []
    twice = ", ".join(map(str, _repeated(packed.post_id)[:_NUM_NAMED].tolist()))
    if twice:
        problems.append(f"{packed.path}: posts that occur twice: {twice}; materialize posts again")
    settings = packed.split_settings
    recorded = read_manifest(packed.path.parent).inputs.get("settings/tokens")
    if section_version(settings) != recorded:
        problems.append(
            f"{packed.path}: has the splits of other settings ({settings}) than the [tokens] {recorded} that it was "
            "made from; materialize packed_tokens again"
        )
    sizes = np.bincount(packed.split_ids(), minlength=len(SPLITS)).tolist()
    for split, share in (("validation", settings.validation_share), ("test", settings.test_share)):
        wanted, found = share * packed.num_posts, sizes[SPLITS.index(split)]
        if abs(found - wanted) > _MAX_DEVIATIONS * math.sqrt(wanted * (1 - share)):
            problems.append(
                f"{packed.path}: {found:,} {split} posts, {wanted:,.0f} expected; set another [tokens] split_key"
            )
    return Findings(problems, {f"num_{split}": size for split, size in zip(SPLITS, sizes, strict=True)})


@warning("packed_tokens")
def few_captions_are_in_train_and_test(pipeline: Pipeline) -> Findings:
    """Few test posts have exactly the tags of a training post.

    They are different posts, and new posts do repeat the tags of old ones, so they stay. But a model can answer them
    from memory: each may add up to 1 / num_asked to recall.
    """
    packed, _, _ = _packed_tokens(pipeline)
    shared = shared_captions(packed)
    named = ", ".join(map(str, shared.post_ids[:_NUM_NAMED].tolist()))
    problems = []
    if shared.share > MAX_SHARED_CAPTIONS:
        problems.append(
            f"{shared.share:.1%} of the test posts have the tags of a training post (posts {named}…), which lifts "
            "recall; raise [vocab] keep_percentile, or take variants of the same picture out of the export"
        )
    figures = {"num_asked": shared.num_asked, "num_shared": len(shared.post_ids), "share": shared.share}
    return Findings(problems, {**figures, "first_posts": named})


def sample_rows(posts_dir: Path, seed: int = 7) -> Iterator[tuple[int, dict[str, object]]]:
    """Sampled rows of the posts table with their post_index, from a few row groups; the same for the same seed."""
    generator = np.random.default_rng(seed)
    groups = []
    start = 0
    for file in part_files(posts_dir):
        metadata = pq.read_metadata(file)
        for number in range(metadata.num_row_groups):
            groups.append((file, number, start))
            start += int(metadata.row_group(number).num_rows)
    coded = [f"{category}.list.element" for category in CATEGORIES]  # as strings, tags take five times as long to read
    chosen = generator.permutation(len(groups))[:SAMPLED_ROW_GROUPS].tolist()
    for group in chosen:
        file, number, start = groups[group]
        with pq.ParquetFile(file, read_dictionary=coded, pre_buffer=False) as parquet:
            table = parquet.read_row_group(number)
        rows = generator.permutation(table.num_rows)[: SAMPLED_POSTS // len(chosen)]
        yield from zip((start + rows).tolist(), table.take(rows).to_pylist(), strict=True)


def _repeated(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of `ids` that occur more than once, ascending."""
    if np.all(ids[1:] > ids[:-1]):  # as in most exports, and then there is nothing to sort
        return ids[:0]
    ordered = np.sort(ids)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def _packed_tokens(pipeline: Pipeline) -> tuple[PackedFile, Vocab, Path]:
    """The packed file with whole posts, its vocabulary, and the folder of the posts that it was made from."""
    (tokens,) = pipeline.current("packed_tokens")
    vocab = pipeline.vocab(pipeline.made_from(tokens, "vocab"))
    return whole_packed(pipeline.packed(tokens, vocab), vocab), vocab, pipeline.made_from(tokens, "posts").path


def _frequencies_of(pipeline: Pipeline, posts_dir: Path) -> dict[Category, pa.Table] | None:
    """The tables that count the tags of the posts in `posts_dir`, or None if the vocabulary was cut from others."""
    (tokens,) = pipeline.current("packed_tokens")
    counted = pipeline.made_from(pipeline.made_from(tokens, "vocab"), "tag_frequencies")
    is_of_posts = read_manifest(counted.path).inputs.get("posts") == posts_dir.name
    return read_frequencies(counted.path) if is_of_posts else None


def _counted_uses(frequencies: pa.Table, category: Category, vocab: Vocab) -> tuple[int, int]:
    """Uses of tags of `category`, and those with a token in `vocab`, as its table of `frequencies` counts them."""
    counts = frequencies["count"].to_numpy()
    is_known = pc.is_in(frequencies["tag"].combine_chunks(), value_set=_known_tags(category, vocab))
    return int(counts.sum()), int(counts[is_known.to_numpy(zero_copy_only=False)].sum())


def _count_uses(posts_dir: Path, category: Category, vocab: Vocab) -> tuple[int, int, int]:
    """Uses of tags of `category` in the posts, those with a token in `vocab`, and unknown tokens for the others."""
    known = _known_tags(category, vocab)
    num_uses = num_kept = num_posts = 0
    for batch in read_groups(posts_dir, [category]):
        lists = TagLists.from_arrow(batch.column(0))
        is_lost = ~pc.is_in(lists.tags, value_set=known).to_numpy(zero_copy_only=False)[lists.codes]
        lost = np.flatnonzero(is_lost)
        num_uses += lists.num_uses
        num_kept += lists.num_uses - len(lost)
        num_posts += len(np.unique(np.searchsorted(lists.offsets, lost, side="right")))
    return num_uses, num_kept, num_posts if vocab.unknown_local_id(category) is not None else 0


def _known_tags(category: Category, vocab: Vocab) -> pa.Array[Any]:
    return pa.array([tag for tag in vocab.tags_of(category) if tag != UNKNOWN_TAGS[category]], pa.string())


_Record = tuple[object, object, object, dict[Category, list[str]]]


def _expected_record(row: Mapping[str, object], known: Mapping[Category, frozenset[str]]) -> _Record:
    tags = {}
    for category in CATEGORIES:
        field = cast("list[str]", row[category])
        unknown = UNKNOWN_TAGS[category]
        tags[category] = [tag for tag in field if tag in known[category]]
        if unknown in known[category] and not known[category].issuperset(field):
            tags[category].append(unknown)
    return row["id"], row["rating"], row["score"], tags


def _in_any_order(record: _Record) -> _Record:
    return (*record[:3], {category: sorted(tags) for category, tags in record[3].items()})


def _decoded_record(packed: PackedFile, post_index: int, vocab: Vocab) -> _Record:
    tags: dict[Category, list[str]] = {category: [] for category in CATEGORIES}
    for token_id in packed.record_token_ids(post_index, vocab).tolist():
        tag_index = token_id - vocab.num_special
        tags[CATEGORIES[vocab.categories[tag_index]]].append(vocab.tags[tag_index])
    rating = RATINGS[packed.rating[post_index]]
    return int(packed.post_id[post_index]), rating, int(packed.score[post_index]), tags

"""Implications in the posts: a → b if nearly every post with tag a also has tag b, such as ``witch_hat`` → ``hat``.

They are counted with the frequencies, before any cut, so that another cut needs no further pass over the posts. Of a
frequent tag only some posts are looked at, spread evenly: the share with b is known to a percentage point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.arrow import read_parquet, schema_of, strings
from booru_embed_core.posts.implications import read_implications
from booru_embed_core.posts.parquet_parts import read_groups
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.vocab import IMPLICATIONS_FILE

MIN_COUNT: Final = 20
"""Posts that a tag needs to imply another: of fewer, the share is too noisy."""
MIN_SHARE: Final = 0.9
"""Pairs below are not written. A vocabulary asks for more."""
IMPLIED_SCHEMA: Final = schema_of(
    {
        "tag": pa.string(),
        "category": pa.string(),
        "implied_tag": pa.string(),
        "implied_category": pa.string(),
        "num_posts": pa.int64(),
        "num_both": pa.int64(),
    }
)
"""``num_posts`` were looked at. A row from a table of implications has empty categories, and 0 for both numbers."""
_SAMPLED_POSTS: Final = 256
_FIRST_POSTS: Final = 16
_FIRST_SHARE: Final = 0.7
"""A tag that 98% of the posts have is in fewer of 16 once in 70,000 times."""
_COUNTED_USES: Final = 1 << 20
"""Uses of tags that are counted at once, beside each sampled one."""


def write_implied_tags(
    posts_dir: Path, frequencies: Mapping[Category, pa.Table], out_dir: Path, temp_dir: Path | None = None
) -> None:
    """Writes ``implications.parquet``, as `IMPLIED_SCHEMA`: by ascending category, then count of the tag.

    First come the pairs of tags of which more than 90% of the posts with the first also have the second, then those of
    tables. The posts' tags wait in a file below `temp_dir` (None: `out_dir`), 4 bytes each. Memory: about 16 bytes a
    post, and 16 for each use that is looked at, about 256 a tag at most.
    """
    tags = _Tags(frequencies)
    with scratch_folder(temp_dir or out_dir) as scratch, _PostTags(scratch / "uses") as post_tags:
        sampled = [np.empty(0, np.int64)]
        for group in read_groups(posts_dir, CATEGORIES):
            uses, lengths = tags.uses_of(group)
            sampled.append(_sample(uses, lengths, tags.counts, post_tags.num_posts))
            post_tags.append(uses, lengths)
        found = [np.empty((0, 4), np.int64), *_counted(np.sort(np.concatenate(sampled)), post_tags, tags)]
    named = read_implications(posts_dir)
    table = tags.table(np.concatenate(found))
    rows = [(antecedent, "", consequent, "", 0, 0) for antecedent, consequent in named]
    rows_of_tables = [dict(zip(IMPLIED_SCHEMA.names, row, strict=True)) for row in rows]
    table = pa.concat_tables([table, pa.Table.from_pylist(rows_of_tables, schema=IMPLIED_SCHEMA)])
    pq.write_table(table, out_dir / IMPLICATIONS_FILE, compression="zstd")


def read_implied_tags(freq_dir: Path) -> pa.Table:
    """The table of `write_implied_tags`; without rows where frequencies were counted before there were implications."""
    file = freq_dir / IMPLICATIONS_FILE
    return read_parquet(file) if file.exists() else IMPLIED_SCHEMA.empty_table()


class _Tags:
    """The tags that are frequent enough to imply or to be implied, with ids across the categories."""

    def __init__(self, frequencies: Mapping[Category, pa.Table]) -> None:
        self._tags: dict[Category, pa.Array[Any]] = {}
        counts = []
        for category in CATEGORIES:
            every = frequencies[category].column("count").to_numpy()
            size = int(np.count_nonzero(every >= MIN_COUNT * MIN_SHARE))
            self._tags[category] = pa.array(strings(frequencies[category].column("tag").slice(0, size)), pa.string())
            counts.append(every[:size])
        self.counts = np.concatenate(counts)
        """int64 ``[num_tags]``"""

    def uses_of(self, group: pa.RecordBatch) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The ids of each post's tags, post after post, and their numbers ``[posts]``."""
        ids, posts, start = [], [], 0
        for category in CATEGORIES:
            lists = TagLists.from_arrow(group.column(category))
            found: Any = pc.index_in(lists.tags, self._tags[category])
            id_of = found.fill_null(-1 - start).to_numpy(zero_copy_only=False).astype(np.int32) + start
            of_uses = id_of[lists.codes]
            is_known = of_uses >= 0
            ids.append(of_uses[is_known])
            posts.append(np.repeat(np.arange(len(group), dtype=np.int32), np.diff(lists.offsets))[is_known])
            start += len(self._tags[category])
        every = np.concatenate(posts)
        # Stable sorts merge ascending runs, of which there are five.
        return np.concatenate(ids)[np.argsort(every, kind="stable")], np.bincount(every, minlength=len(group))

    def table(self, pairs: NDArray[np.int64]) -> pa.Table:
        """`pairs` ``[n, 4]`` of two ids and two numbers as `IMPLIED_SCHEMA`."""
        tags = pa.concat_arrays(list(self._tags.values()))
        names = pa.array([category.value for category in CATEGORIES])
        sizes = [len(of_category) for of_category in self._tags.values()]
        categories = names.take(pa.array(np.repeat(np.arange(len(sizes)), sizes), pa.int64()))
        causes, effects, num_posts, num_both = (pa.array(column, pa.int64()) for column in pairs.T)
        columns: list[Any] = [of.take(ids) for ids in (causes, effects) for of in (tags, categories)]
        return pa.table([*columns, num_posts, num_both], schema=IMPLIED_SCHEMA)


class _PostTags:
    """The tags of all posts, in a file; a context manager."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lengths = [np.empty(0, np.int64)]
        self.num_posts = 0

    def __enter__(self) -> _PostTags:
        self._stream = self._file.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def append(self, uses: NDArray[np.int32], lengths: NDArray[np.int64]) -> None:
        self._stream.write(uses.data)
        self._lengths.append(lengths)
        self.num_posts += len(lengths)

    def open(self) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """All tags, mapped, and where those of each post start, int64 ``[num_posts + 1]``."""
        self._stream.flush()
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))])
        uses = np.memmap(self._file, np.int32, "r") if offsets[-1] else np.empty(0, np.int32)
        return np.asarray(uses), offsets


def _sample(
    uses: NDArray[np.int32], lengths: NDArray[np.int64], counts: NDArray[np.int64], first_post: int
) -> NDArray[np.int64]:
    """Which uses are looked at, as ``tag << 32 | post``: all of a rare tag, about 256 of a frequent one."""
    posts = np.repeat(np.arange(first_post, first_post + len(lengths)), lengths)
    # A multiplicative hash: posts in a row are spread evenly (Knuth, volume 3, section 6.4).
    chance = (posts.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(11)) * 2.0**-53
    chosen = (counts[uses] >= MIN_COUNT) & (chance * counts[uses] < _SAMPLED_POSTS)
    return uses[chosen].astype(np.int64) << 32 | posts[chosen]


def _counted(sampled: NDArray[np.int64], post_tags: _PostTags, tags: _Tags) -> Iterator[NDArray[np.int64]]:
    """Pairs of tags that share posts, with the numbers of posts with the first one and with both: ``[n, 4]`` each.

    A few posts of each tag come first. Most tags have no other tag in more than half of them and need no further look.
    """
    uses, offsets = post_tags.open()
    causes, posts = sampled >> 32, sampled & 0xFFFFFFFF
    starts = np.flatnonzero(np.diff(causes, prepend=-1))
    sizes = np.diff(np.append(starts, len(sampled)))
    costs = np.append(0, np.cumsum(offsets[posts + 1] - offsets[posts]))
    every = np.ones(len(tags.counts), np.bool_)
    first = 0
    while first < len(starts):
        enough = int(np.searchsorted(costs[starts], costs[starts[first]] + _COUNTED_USES))
        block = slice(first, max(first + 1, enough))
        num_first = np.minimum(_FIRST_POSTS, sizes[block])
        step = np.repeat(sizes[block] / num_first, num_first)
        number = np.arange(num_first.sum()) - np.repeat(np.cumsum(num_first) - num_first, num_first)
        few = posts[np.repeat(starts[block], num_first) + (number * step).astype(np.int64)]
        row, other, shared = _shared(few, num_first, uses, offsets, every)
        is_likely = (shared > _FIRST_SHARE * num_first[row]) & (other != causes[starts[block]][row])
        likely = np.unique(row[is_likely])
        of_likely, num_likely = starts[block][likely], sizes[block][likely]
        ends = np.cumsum(num_likely)
        places = np.repeat(of_likely - (ends - num_likely), num_likely) + np.arange(num_likely.sum())
        is_asked = np.zeros_like(every)
        is_asked[other[is_likely]] = True
        row, other, shared = _shared(posts[places], num_likely, uses, offsets, is_asked)
        cause, num_posts = causes[of_likely][row], num_likely[row]
        keep = (shared > MIN_SHARE * num_posts) & (cause != other)
        pairs = np.stack([cause[keep], other[keep], num_posts[keep], shared[keep]], axis=1)
        yield pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        first = block.stop


def _shared(
    posts: NDArray[np.int64],
    num_posts: NDArray[np.int64],
    uses: NDArray[np.int32],
    offsets: NDArray[np.int64],
    is_asked: NDArray[np.bool_],
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """How many posts of each group have each tag: group, tag and number, one each where the number is above 0.

    Args:
        posts: the posts of all groups, group after group.
        num_posts: posts of each group.
        uses: the tags of all posts.
        offsets: where those of each post start.
        is_asked: the tags that count, bool ``[num_tags]``.
    """
    from scipy import sparse  # only here: Dagster's processes load this module with the definitions

    lengths = offsets[posts + 1] - offsets[posts]
    ends = _ends(lengths)
    places = np.repeat(offsets[posts] - ends[:-1], lengths) + np.arange(ends[-1])
    found = uses[places]
    if not is_asked.all():
        counts = is_asked[found]
        ends, found = np.append(0, np.cumsum(counts))[ends], found[counts]
    shape = (len(posts), len(is_asked))
    captions = sparse.csr_matrix((np.ones(len(found), np.int32), found, ends), shape)
    ones, every = np.ones(len(posts), np.int32), np.arange(len(posts))
    groups = sparse.csr_matrix((ones, every, _ends(num_posts)), (len(num_posts), len(posts)))
    shared = (groups @ captions).tocoo()
    return shared.row, shared.col, shared.data


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.append(0, np.cumsum(lengths))

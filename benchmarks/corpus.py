"""Writes a Danbooru-shaped export of any size: ``python -m benchmarks.corpus --rows 5770089 --out DIR``.

It tests speed, memory and hostile names (commas, quotes, ``\\N``, ``null``, zero-width characters, names of 255
characters), never quality: tags follow only roughly from a post's copyright, artist and rating. It resembles the real
site in tags per category, their heavy-tailed frequencies, tags per post (log-normal), ratings, scores that grow with
the rating, ids with gaps, byte order of tags within a field, and quotes only where a field needs them.

Unlike Danbooru's, some tags hold commas. Read it with ``[posts] tag_separator = " "`` and ``null_words = []``.

The bytes of a file depend only on the seed and the number of rows. Memory does not grow with the number of rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks._corpus_names import NumNames, make_names
from booru_embed_core.schema import CATEGORIES, RATINGS, Category, tag_column

CHUNK_ROWS: Final = 50_000
COLUMNS: Final = (Category.META, Category.GENERAL, Category.ARTIST, Category.COPYRIGHT, Category.CHARACTER)
"""Tag columns in the order of the BigQuery export."""
HEADER: Final = ",".join(["id", "rating", "score", *(tag_column(category) for category in COLUMNS)]) + "\n"

RATING_SHARES: Final = (0.23, 0.55, 0.12, 0.10)
EXPONENTS: Final = {
    Category.GENERAL: (1.1, 6.0),
    Category.ARTIST: (1.1, 100.0),
    Category.COPYRIGHT: (1.15, 3.0),
    Category.CHARACTER: (1.1, 20.0),
    Category.META: (1.6, 2.0),
}
"""Zipf-Mandelbrot s and q per category: a tag of rank r has a frequency proportional to (r + q)^-s."""
MAX_GENERAL: Final = 220
NUM_TOPICS: Final = 1_024
TOPIC_TAGS: Final = 64
TOPIC_SHARE: Final = 0.38
"""Share of general tags that come from the topic of the post's copyright, artist or rating."""

Ints = NDArray[np.int64]
Uses = tuple[Ints, Ints]
"""For each use, the row within the chunk and the rank of the tag."""


@dataclass(frozen=True)
class _Names:
    """A category's names in byte order, and the distribution of frequency ranks."""

    by_bytes: pa.Array[Any]
    index_of_rank: Ints
    shares: NDArray[np.float64]
    """Cumulative shares of uses by rank."""

    def draw(self, num: int, generator: np.random.Generator) -> Ints:
        """`num` ranks, frequent ones more often."""
        return np.searchsorted(self.shares, generator.random(num)).clip(max=len(self.shares) - 1)


class Corpus:
    """An export in chunks of rows, each generated independently.

    Args:
        num_rows: rows of the export.
        seed: seeds all random draws.
        num_names: number of tags per category.
    """

    def __init__(self, num_rows: int, seed: int = 1, num_names: NumNames | None = None) -> None:
        self.num_rows = num_rows
        self.seed = seed
        names = make_names(num_names or NumNames(), seed)
        self._names = {category: _names(names[category], category) for category in CATEGORIES}
        generator = np.random.default_rng(seed)
        # Log-uniform ranks: a topic has frequent tags and rare ones.
        spread = generator.random((NUM_TOPICS, TOPIC_TAGS))
        self._topics = (len(names[Category.GENERAL]) ** spread).astype(np.int64) - 1

    @property
    def num_chunks(self) -> int:
        """Number of chunks of `CHUNK_ROWS` rows; the last may be shorter."""
        return -(-self.num_rows // CHUNK_ROWS)

    def chunk(self, number: int) -> memoryview:
        """The lines of chunk `number` as UTF-8, without a header."""
        generator = np.random.default_rng([self.seed, number])
        first = number * CHUNK_ROWS
        rows = np.arange(first, min(first + CHUNK_ROWS, self.num_rows))
        ratings = np.searchsorted(np.cumsum(RATING_SHARES), generator.random(len(rows))).clip(max=len(RATINGS) - 1)
        scores = np.exp(1.2 + 0.3 * ratings + 0.9 * generator.standard_normal(len(rows))).astype(np.int64) - 3
        uses = self._uses(ratings, generator)
        fields = [self._fields(uses[category], category, len(rows)) for category in COLUMNS]
        ids = pa.array(rows + 1 + rows * 3 // 10).cast(pa.string())
        rating_column = pa.array(RATINGS).take(pa.array(ratings))
        line_ends = pa.array(["\n"]).take(pa.array(np.zeros(len(rows), np.int64)))
        last = pc.binary_join_element_wise(fields[-1], line_ends, "")
        columns = [ids, rating_column, pa.array(scores).cast(pa.string()), *fields[:-1], last]
        return _content(pc.binary_join_element_wise(*columns, ","))

    def _uses(self, ratings: Ints, generator: np.random.Generator) -> dict[Category, Uses]:
        """Uses of tags by row; a tag may occur twice in a row."""
        num = len(ratings)
        wanted = {
            Category.ARTIST: generator.choice(4, num, p=(0.03, 0.92, 0.04, 0.01)),
            Category.COPYRIGHT: generator.choice(3, num, p=(0.02, 0.84, 0.14)),
            Category.CHARACTER: generator.choice(4, num, p=(0.30, 0.52, 0.13, 0.05)),
            Category.META: generator.choice(5, num, p=(0.02, 0.24, 0.30, 0.28, 0.16)),
        }
        uses = {}
        for category, counts in wanted.items():
            uses[category] = (
                np.repeat(np.arange(num), counts),
                self._names[category].draw(int(counts.sum()), generator),
            )
        counts = np.exp(3.33 + 0.47 * generator.standard_normal(num)).clip(1, MAX_GENERAL).astype(np.int64)
        owners = np.repeat(np.arange(num), counts)
        ranks = self._names[Category.GENERAL].draw(len(owners), generator)
        # Each post has three topics: its first copyright's, its first artist's and its rating's.
        topics = np.stack([_first(uses[Category.COPYRIGHT], num), _first(uses[Category.ARTIST], num) * 7 + 1, ratings])
        of_topic = np.flatnonzero(generator.random(len(owners)) < TOPIC_SHARE)
        topic = topics[generator.integers(0, len(topics), len(of_topic)), owners[of_topic]] % NUM_TOPICS
        ranks[of_topic] = self._topics[topic, generator.integers(0, TOPIC_TAGS, len(of_topic))]
        uses[Category.GENERAL] = (owners, ranks)
        return uses

    def _fields(self, uses: Uses, category: Category, num_rows: int) -> pa.Array[Any]:
        """The field of each row: its distinct tags in byte order, quoted if CSV requires it."""
        names, (rows, ranks) = self._names[category], uses
        num_names = len(names.by_bytes)
        keys = np.unique(rows * num_names + names.index_of_rank[ranks])
        starts = np.searchsorted(keys, np.arange(num_rows + 1) * num_names)
        tags = names.by_bytes.take(pa.array(keys % num_names))
        fields = pc.binary_join(pa.ListArray.from_arrays(pa.array(starts.astype(np.int32)), tags), " ")
        needs_quotes = pc.or_(pc.equal(fields, ""), pc.match_substring_regex(fields, '[",\r\n]'))
        doubled = pc.replace_substring(fields, '"', '""')
        return pc.if_else(needs_quotes, pc.binary_join_element_wise('"', doubled, '"', ""), fields)


def write_corpus(corpus: Corpus, out_dir: Path, rows_per_file: int = 50 * CHUNK_ROWS) -> list[Path]:
    """Writes ``posts_00.csv``, … to `out_dir` and returns their paths.

    Raises:
        ValueError: `rows_per_file` is not a multiple of `CHUNK_ROWS`.
    """
    if rows_per_file < 1 or rows_per_file % CHUNK_ROWS:
        raise ValueError(f"{rows_per_file} rows per file: give a multiple of {CHUNK_ROWS}")
    out_dir.mkdir(parents=True, exist_ok=True)
    chunks = iter(range(corpus.num_chunks))
    paths = []
    for number, first in enumerate(range(0, corpus.num_rows, rows_per_file)):
        path = out_dir / f"posts_{number:02}.csv"
        with path.open("wb") as stream:
            stream.write(HEADER.encode())
            for chunk in _up_to(chunks, -(-min(rows_per_file, corpus.num_rows - first) // CHUNK_ROWS)):
                stream.write(corpus.chunk(chunk))
        paths.append(path)
    return paths


def _names(names: list[str], category: Category) -> _Names:
    encoded = [name.encode() for name in names]
    order = sorted(range(len(names)), key=encoded.__getitem__)
    index_of_rank = np.empty(len(names), np.int64)
    index_of_rank[order] = np.arange(len(names))
    exponent, offset = EXPONENTS[category]
    weights = (np.arange(1, len(names) + 1) + offset) ** -exponent
    by_bytes = pa.array([names[rank] for rank in order], pa.string())
    return _Names(by_bytes, index_of_rank, np.cumsum(weights) / weights.sum())


def _first(uses: Uses, num_rows: int) -> Ints:
    """The rank of each row's first tag, 0 for a row without tags."""
    rows, ranks = uses
    first = np.zeros(num_rows, np.int64)
    first[rows[::-1]] = ranks[::-1]
    return first


def _content(strings: pa.Array[Any]) -> memoryview:
    """The concatenated bytes of all strings."""
    _, _, content = strings.buffers()
    return memoryview(content or b"")


def _up_to(items: Iterator[int], num: int) -> Iterator[int]:
    """The next `num` items."""
    for _ in range(num):
        yield next(items)


def main(arguments: list[str] | None = None) -> None:
    """Writes the files for the command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=5_770_089, help="posts (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random draws (default: %(default)s)")
    options = parser.parse_args(arguments)
    paths = write_corpus(Corpus(options.rows, options.seed), options.out)
    num_bytes = sum(path.stat().st_size for path in paths)
    print(f"{options.rows:,} posts, {num_bytes:,} bytes in {len(paths)} files: {options.out}")


if __name__ == "__main__":
    main()

"""The words that labels consist of, counted to compare words with labels; no tokenizer uses them.

    cat_ears (5 uses), cat (3), :d (1)  →  cat 8, ears 5, d 1

A label without a letter or a digit, such as ``>_<``, is a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.schema import TAG_SEPARATOR, Category
from booru_embed_core.tags.frequency import read_frequencies

WORDS_SCHEMA: Final = schema_of(
    {
        "word": pa.string(),
        "uses": pa.int64(),
        "num_labels": pa.int64(),
        "share_written": pa.float64(),
    }
)
COMPARED_SCHEMA: Final = schema_of({"num_labels": pa.int64(), "share_of_uses": pa.float64(), "num_words": pa.int64()})
FEWEST_COMPARED: Final = 100

# Words consist of letters, digits and their combining marks; anything else, such as _ - ( ) and :, separates.
_BETWEEN_WORDS: Final = r"[^\p{L}\p{M}\p{N}]+"


@dataclass(frozen=True, kw_only=True)
class Words:
    """Words and labels of one category or of all.

    Attributes:
        num_labels: distinct labels.
        num_uses: uses of labels.
        table: the words as `WORDS_SCHEMA`, the most used first, then by bytes. A word's ``uses`` are those of the
            ``num_labels`` labels that contain it. ``share_written`` is the share of all uses whose labels consist only
            of this word and those before it.
        compared: for 100 of the most used labels, 1,000 and so on, and for all: their share of the uses, and the number
            of words that write as large a share, as `COMPARED_SCHEMA`.
    """

    num_labels: int
    num_uses: int
    table: pa.Table
    compared: pa.Table


def count_words(freq_dir: Path, category: Category | None = None) -> Words:
    """The words of the labels that `freq_dir` counts, of `category` or of all categories together."""
    tables = read_frequencies(freq_dir)
    chosen = pa.concat_tables(tables.values() if category is None else [tables[category]])
    counts = chosen.column("count").to_numpy()
    words, labels, word_ids = _label_words(chosen.column("tag").combine_chunks())

    uses = np.zeros(len(words), dtype=np.int64)
    np.add.at(uses, word_ids, counts[labels])
    order = pc.sort_indices(
        pa.table({"uses": uses, "word": words}), [("uses", "descending"), ("word", "ascending")]
    ).to_numpy()
    rank = np.empty(len(words), dtype=np.int64)
    rank[order] = np.arange(len(words))

    last_word = np.zeros(len(counts), dtype=np.int64)
    np.maximum.at(last_word, labels, rank[word_ids])
    written = np.zeros(len(words), dtype=np.int64)
    np.add.at(written, last_word, counts)
    written = np.cumsum(written)

    num_uses = int(counts.sum())
    columns = [
        words.take(pa.array(order)),
        uses[order],
        np.bincount(word_ids, minlength=len(words))[order],
        written / max(1, num_uses),
    ]
    return Words(
        num_labels=len(counts),
        num_uses=num_uses,
        table=pa.table(columns, schema=WORDS_SCHEMA),
        compared=_compared(np.cumsum(np.sort(counts)[::-1]), written),
    )


def _label_words(labels: pa.Array[Any]) -> tuple[pa.Array[Any], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct words, and each pair of a label and one of its words, as label and word numbers, both `[pairs]`."""
    text = pc.utf8_trim(pc.replace_substring_regex(labels, _BETWEEN_WORDS, TAG_SEPARATOR), TAG_SEPARATOR)
    text = pc.if_else(pc.equal(text, pa.scalar("")), labels, text)
    lists = pc.split_pattern(text, TAG_SEPARATOR)
    codes = lists.flatten().dictionary_encode()
    num_words = max(1, len(codes.dictionary))
    pairs = np.unique(pc.list_parent_indices(lists).to_numpy() * num_words + codes.indices.to_numpy())
    return codes.dictionary, pairs // num_words, pairs % num_words


def _compared(cumulative: NDArray[np.int64], written: NDArray[np.int64]) -> pa.Table:
    """`Words.compared` from the cumulative uses of labels and the cumulative uses that words write."""
    num_labels = len(cumulative)
    sizes = []
    size = FEWEST_COMPARED
    while size < num_labels:
        sizes.append(size)
        size *= 10
    rows = [
        {
            "num_labels": size,
            "share_of_uses": int(cumulative[size - 1]) / int(cumulative[-1]),
            "num_words": int(np.searchsorted(written, cumulative[size - 1])) + 1,
        }
        for size in (*sizes, *([num_labels] if num_labels else []))
    ]
    return pa.Table.from_pylist(rows, schema=COMPARED_SCHEMA)

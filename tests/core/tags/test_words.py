"""Words of labels against Python's own splitting."""

from __future__ import annotations

import re
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.words import COMPARED_SCHEMA, WORDS_SCHEMA, count_words
from tests.core.export_helpers import ANY_TAG, write_frequencies

COUNTED = {
    Category.GENERAL: [("cat_ears", 5), ("cat", 3), ("ears", 2), (">_<", 2), ("cat_cat", 1)],
    Category.CHARACTER: [("cat_(ears-tail)", 4)],
}


def test_words_are_split_and_weighted_by_use(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    words = count_words(tmp_path)
    assert (words.num_labels, words.num_uses) == (6, 17)
    assert words.table.schema.equals(WORDS_SCHEMA)
    assert words.table.to_pylist() == [
        {"word": "cat", "uses": 13, "num_labels": 4, "share_written": 4 / 17},
        {"word": "ears", "uses": 11, "num_labels": 3, "share_written": 11 / 17},
        {"word": "tail", "uses": 4, "num_labels": 1, "share_written": 15 / 17},
        {"word": ">_<", "uses": 2, "num_labels": 1, "share_written": 1.0},
    ]


def test_one_category_is_counted_alone(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    assert count_words(tmp_path, Category.CHARACTER).table["uses"].to_pylist() == [4, 4, 4]
    assert count_words(tmp_path, Category.META).table.num_rows == 0
    assert count_words(tmp_path, Category.META).compared.num_rows == 0


def test_it_says_how_many_words_write_what_so_many_labels_make(tmp_path: Path) -> None:
    """120 labels of 2 uses and a word of their own; the first word alone writes a label of 1,000 uses."""
    labels = [("a", 1000), *((f"b{number:03}", 2) for number in range(119)), ("a_b000", 1)]
    write_frequencies(tmp_path, {Category.GENERAL: labels})
    words = count_words(tmp_path)
    assert words.compared.schema.equals(COMPARED_SCHEMA)
    assert words.compared.to_pylist() == [
        {"num_labels": 100, "share_of_uses": 1198 / 1239, "num_words": 100},
        {"num_labels": 121, "share_of_uses": 1.0, "num_words": 120},
    ]


def naive_words(label: str) -> set[str]:
    """For labels of ASCII, where Python's letters and digits are those of the tables."""
    return set(re.findall(r"[0-9A-Za-z]+", label)) or {label}


@given(
    labels=st.lists(
        st.tuples(ANY_TAG.filter(str.isascii), st.integers(1, 9)), unique_by=lambda pair: pair[0], max_size=12
    )
)
def test_any_labels_are_counted_as_python_counts_them(
    tmp_path_factory: pytest.TempPathFactory, labels: list[tuple[str, int]]
) -> None:
    labels.sort(key=lambda pair: (-pair[1], pair[0].encode()))
    folder = tmp_path_factory.mktemp("frequencies")
    write_frequencies(folder, {CATEGORIES[0]: labels})
    words = count_words(folder)
    counter = Counter[str]()
    for label, count in labels:
        counter.update(dict.fromkeys(naive_words(label), count))
    ranked = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0].encode()))
    assert list(zip(words.table["word"].to_pylist(), words.table["uses"].to_pylist(), strict=True)) == ranked
    known = accumulate(({word} for word, _ in ranked), set.union)
    written = [sum(count for label, count in labels if naive_words(label) <= some) for some in known]
    assert words.table["share_written"].to_pylist() == [uses / words.num_uses for uses in written]


def test_marks_and_letters_of_any_script_stay_in_their_word(tmp_path: Path) -> None:
    write_frequencies(tmp_path, {Category.GENERAL: [("cafe\u0301_\u9577\u3000x", 1), ("\ufeff", 1)]})
    assert sorted(count_words(tmp_path).table["word"].to_pylist()) == ["cafe\u0301", "x", "\u9577", "\ufeff"]

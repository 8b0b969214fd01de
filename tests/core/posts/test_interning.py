"""Slices of fields and their codes, against loops over bytes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts import interning
from booru_embed_core.posts.interning import Interner, slices_of

FIELDS = st.lists(st.text("ab\u00e9\t ", max_size=9), max_size=9)


def wanted_slices(field: str) -> list[str]:
    slices = [tag + " " for tag in field.split(" ")]
    slices[-1] = slices[-1][:-1]
    return slices if slices[-1] else slices[:-1]


def array_of(fields: list[str]) -> pa.Array[Any]:
    return pa.array(["a b", *fields, "c d"], pa.string()).slice(1, len(fields))


@pytest.mark.parametrize("window_bytes", [8, 9, 64, 1 << 18])
@given(fields=FIELDS)
def test_slices_are_tags_with_the_separator_behind_them(fields: list[str], window_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interning, "_WINDOW_BYTES", window_bytes)
        slices, num_before = slices_of(array_of(fields))
    slices.validate(full=True)
    wanted = [wanted_slices(field) for field in fields]
    assert slices.to_pylist() == list(itertools.chain.from_iterable(wanted))
    assert num_before.tolist() == np.cumsum([0, *map(len, wanted)]).tolist()


@pytest.mark.parametrize("text", ["", " ", "a", "a" * 600_000, "a " * 300_000, " " * 600_000, "b" * 262_143 + " c"])
def test_any_share_of_separators_is_read_whole(text: str) -> None:
    slices, num_before = slices_of(pa.array([text, text]))
    assert "".join(slices.to_pylist()) == text * 2
    assert num_before.tolist() == [0, len(wanted_slices(text)), 2 * len(wanted_slices(text))]


@pytest.mark.parametrize("fields", [[], [""], ["", ""]])
def test_no_tag_has_no_slice(fields: list[str]) -> None:
    slices, num_before = slices_of(pa.array(fields, pa.string()))
    assert len(slices) == 0
    assert num_before.tolist() == [0] * (len(fields) + 1)


GROUPS = st.lists(
    st.lists(st.lists(st.sampled_from(["a", "a ", "b ", "ab", " ", "", "c ", "d"]), max_size=9), max_size=3), max_size=4
)


def chunked(group: list[list[str]]) -> pa.ChunkedArray[Any]:
    return pa.chunked_array([pa.array(chunk, pa.string()) for chunk in group], pa.string())


@pytest.mark.parametrize("min_slices", [0, 3, interning._MIN_SLICES])
@given(groups=GROUPS)
def test_a_tag_has_one_code_with_and_without_its_separator(groups: list[list[list[str]]], min_slices: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_NUM_FREQUENT": 2, "_MIN_SLICES": min_slices, "_MIN_USES": 1, "_SAMPLE_USES": 5}.items():
            patch.setattr(interning, name, value)
        interner, of_whole = Interner(), Interner()
        for group in groups:
            codes, tags = interner.codes_of(chunked(group))
            wanted = [text.rstrip(" ") for chunk in group for text in chunk]
            assert codes.dtype == np.int32
            assert tags.take(pa.array(codes)).to_pylist() == wanted
            assert len(set(tags.to_pylist())) == len(tags)
            whole_codes, whole_tags = of_whole.codes_of(chunked([list(itertools.chain.from_iterable(group))]))
            assert whole_codes.tolist() == codes.tolist(), "codes do not depend on the chunks"
            assert whole_tags.equals(tags)


def test_tags_are_in_the_order_of_first_uses() -> None:
    codes, tags = Interner().codes_of(chunked([["b ", "a", "b"], ["c ", "a "]]))
    assert (codes.tolist(), tags.to_pylist()) == ([0, 1, 0, 2, 1], ["b", "a", "c"])


def test_frequent_slices_of_a_group_are_first_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_NUM_FREQUENT": 2, "_MIN_SLICES": 2, "_MIN_USES": 1, "_SAMPLE_USES": 4}.items():
        monkeypatch.setattr(interning, name, value)
    interner = Interner()
    interner.codes_of(chunked([["a ", "a ", "a ", "b ", "c ", "c ", "b "]]))
    codes, tags = interner.codes_of(chunked([["d ", "a ", "c"], ["c "]]))
    assert tags.to_pylist() == ["b", "c", "d", "a"], "each has two of the last four uses, and b came first"
    assert codes.tolist() == [2, 3, 1, 1]

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
from booru_embed_core.posts.interning import interned, slices_of

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


@given(slices=st.lists(st.lists(st.sampled_from(["a", "a ", "b ", "ab", " ", ""]), max_size=9), max_size=3))
def test_a_tag_has_one_code_with_and_without_its_separator(slices: list[list[str]]) -> None:
    codes, tags = interned(pa.chunked_array([pa.array(chunk, pa.string()) for chunk in slices], pa.string()))
    wanted = [text.rstrip(" ") for chunk in slices for text in chunk]
    assert codes.dtype == np.int32
    assert tags.take(pa.array(codes)).to_pylist() == wanted
    assert tags.to_pylist() == list(dict.fromkeys(wanted)), "each tag is once, in the order of first uses"

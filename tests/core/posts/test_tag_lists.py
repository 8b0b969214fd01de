"""Lists of tags against loops over Python's own split."""

from __future__ import annotations

import itertools

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.tag_lists import TagLists
from tests.core.export_helpers import ANY_TAG

FEW_TAGS = st.sampled_from(["a", "b", "c", "old_a", "old_b", "a\u3000b", ",", ""])
FIELDS = st.lists(st.lists(FEW_TAGS | ANY_TAG, max_size=7).map(" ".join), max_size=6)


def listed(lists: TagLists) -> list[list[str]]:
    column = lists.to_arrow()
    column.validate(full=True)
    assert TagLists.from_arrow(column).to_arrow().equals(column)
    return column.to_pylist()


@given(fields=FIELDS)
def test_a_space_alone_separates(fields: list[str]) -> None:
    lists = TagLists.split(pa.array(fields, pa.string()))
    assert listed(lists) == [(field.removesuffix(" ")).split(" ") if field else [] for field in fields]
    assert len(set(lists.tags.to_pylist())) == len(lists.tags)


@given(fields=FIELDS, cuts=st.sets(st.integers(0, 6)))
def test_chunks_of_fields_are_one_list_of_fields(fields: list[str], cuts: set[int]) -> None:
    whole = pa.array(["not one", *fields], pa.string()).slice(1)
    bounds = [0, *sorted(cut for cut in cuts if cut < len(fields)), len(fields)]
    chunks = pa.chunked_array([whole.slice(a, b - a) for a, b in itertools.pairwise(bounds)], pa.string())
    ours, of_chunks = TagLists.split(whole), TagLists.split(chunks)
    assert listed(of_chunks) == listed(ours)
    for name in ("offsets", "codes", "possible_repeats"):
        assert getattr(of_chunks, name).tolist() == getattr(ours, name).tolist(), name
    assert of_chunks.tags.equals(ours.tags), "the dictionary is in the order of first uses"


@pytest.mark.parametrize(
    "fields",
    [["a a"], ["b a b"], ["a b a"], ["a a "], ["x a", "a a"], ["a\tb a\tb"], ["a\tb a a\tb"], ["a a\t a"], ["a ab a"]],
)
def test_a_repeat_is_among_the_possible_ones(fields: list[str]) -> None:
    lists = TagLists.split(pa.array(fields))
    assert len(lists.possible_repeats)
    assert lists.without_repeats()[1] == 1


def test_fields_in_byte_order_have_no_possible_repeats() -> None:
    fields = ["", "a", "", "a b", "1girl a! ab abc b", "z", "a", "caf\u00e9 \u9577"]
    assert not len(TagLists.split(pa.array(fields)).possible_repeats)


@given(fields=FIELDS)
def test_repeats_and_empty_tags_go_and_are_counted(fields: list[str]) -> None:
    lists, num_repeats = TagLists.split(pa.array(fields, pa.string())).without_repeats()
    tags = [[tag for tag in field.split(" ") if tag] for field in fields]
    assert listed(lists) == [list(dict.fromkeys(post)) for post in tags]
    assert num_repeats == sum(len(post) - len(set(post)) for post in tags)


@given(fields=FIELDS)
def test_old_names_are_replaced_before_repeats_are_found(fields: list[str]) -> None:
    tag_of = {"old_a": "a", "old_b": "b", ",": "old_a"}
    lists, num_replaced = TagLists.split(pa.array(fields, pa.string())).renamed(tag_of, pa.array(list(tag_of)))
    tags = [[tag for tag in field.split(" ") if tag] for field in fields]
    assert num_replaced == sum(tag in tag_of for post in tags for tag in post)
    renamed = [list(dict.fromkeys(tag_of.get(tag, tag) for tag in post)) for post in tags]
    assert listed(lists.without_repeats()[0]) == renamed


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["a old_a"], ["a"]),
        (["old_a old_b"], ["a b"]),
        (["a b old_a z"], ["a b z"]),
        (["old_a other_a"], ["a"]),
        (["", "b b", "a old_a", "a z", "old_a"], ["", "b", "a", "a z", "a"]),
    ],
)
def test_a_repeat_by_an_old_name_is_found_also_where_the_field_is_in_byte_order(
    fields: list[str], expected: list[str]
) -> None:
    tag_of = {"old_a": "a", "old_b": "b", "other_a": "a"}
    lists, num_replaced = TagLists.split(pa.array(fields)).renamed(tag_of, pa.array(list(tag_of)))
    kept, num_repeats = lists.without_repeats()
    assert [" ".join(tag for tag in tags) for tags in listed(kept)] == expected
    assert num_replaced == sum(tag in tag_of for field in fields for tag in field.split(" "))
    assert num_repeats == sum(len(field.split()) for field in fields) - sum(len(tags.split()) for tags in expected)


def test_a_slice_of_a_column_is_what_it_shows() -> None:
    column = pa.array(["x y", "b a", "a a", "z"]).slice(1, 2)
    assert listed(TagLists.split(column)) == [["b", "a"], ["a", "a"]]
    assert listed(TagLists.from_arrow(TagLists.split(column).to_arrow().slice(1, 1))) == [["a", "a"]]

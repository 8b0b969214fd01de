"""Text to values: what Arrow takes is what Python's reasons leave."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN
from booru_embed_core.posts.readers.values import fit_values
from booru_embed_core.posts.validation import values_problem
from booru_embed_core.schema import FLAG_COLUMNS, POST_COLUMNS
from tests.core.export_helpers import row

NUMBER = st.sampled_from(
    [
        "0",
        "-0",
        "+1",
        "1.5",
        "1e3",
        " 1",
        "",
        "-",
        "\u0661",
        "9" * 19,
        "9" * 20,
        "0x1",
        "7.0",
        "-3.00",
        "7.",
        "NaN",
        "\\N",
        None,
    ]
)
DEFAULTS = Conventions()
VALUES = st.fixed_dictionaries(
    {
        "id": NUMBER,
        "rating": st.sampled_from(["g", "G", "safe", "Explicit", "", "nan", None]),
        "score": NUMBER | st.sampled_from([str(2**31 - 1), str(2**31)]),
        **{name: st.sampled_from(["true", "f", "0", "no", "", "None", None]) for name in FLAG_COLUMNS},
    }
)


@settings(max_examples=100, deadline=None)
@given(posts=st.lists(VALUES, min_size=1, max_size=4))
def test_a_value_is_null_where_python_finds_a_problem(posts: list[dict[str, str | None]]) -> None:
    posts = [{name: str(value) for name, value in row(1).items()} | values for values in posts]
    batch = fit_values(pa.table({name: pa.array([post[name] for post in posts], pa.string()) for name in posts[0]}))
    assert batch.schema.names == [*POST_COLUMNS, HIDDEN_COLUMN]
    for found, post in zip(batch.to_pylist(), posts, strict=True):
        assert (None in found.values()) == (values_problem(post) is not None)
        if None not in found.values():
            assert found[HIDDEN_COLUMN] is ("true" in [post[name] for name in FLAG_COLUMNS])
            assert (found["id"], found["score"]) == (int(float(str(post["id"]))), int(float(str(post["score"]))))


def column(name: str, values: list[Any], conventions: Conventions = DEFAULTS, type_: Any = None) -> list[Any]:
    records = pa.table({name: pa.array(values, type_)})
    found: list[Any] = fit_values(records, conventions).column(name).to_pylist()
    return found


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("9223372036854775807.0", 2**63 - 1),
        ("007", 7),
        ("0" * 20, None),
        ("1-2", None),
        ("--1", None),
        ("1\n", None),
        ("\u0661", None),
    ],
)
@pytest.mark.parametrize("others", [["1"], ["1.0", "x", None]])
def test_ids_at_the_edges_are_taken_or_null_whatever_stands_beside_them(
    text: str, number: int | None, others: list[str | None]
) -> None:
    assert column("id", [text, *others])[:2] == [number, 1]


def test_ids_of_a_site_leave_the_bits_above_free() -> None:
    assert column("id", ["-1", "0", "1023", "1024"], Conventions(max_id=1023)) == [None, 0, 1023, None]


def test_scores_have_32_bits() -> None:
    assert column("score", [str(number) for number in (-(2**31) - 1, -(2**31), 2**31 - 1, 2**31)]) == [
        None, -(2**31), 2**31 - 1, None
    ]  # fmt: skip


def test_defaults_stand_for_nothing_alone() -> None:
    conventions = Conventions(missing_rating="e", missing_score=-7)
    assert column("rating", ["g", "", None, "NaN", "x"], conventions) == ["g", "e", "e", "e", None]
    assert column("score", ["3", "", None, "null", "x"], conventions) == [3, -7, -7, -7, None]
    batch = fit_values(pa.table({"id": ["1", "2"]}), conventions)
    assert (batch.column("rating").to_pylist(), batch.column("score").to_pylist()) == (["e", "e"], [-7, -7])


@pytest.mark.parametrize("type_", [pa.int8(), pa.int64(), pa.uint64()])
def test_numbers_may_be_numbers_already(type_: Any) -> None:
    assert column("id", [0, 7, None, 127], type_=type_) == [0, 7, None, 127]


def test_a_flag_that_is_neither_hides_no_post() -> None:
    records = pa.table({"is_deleted": ["t", "f", "t", None], "is_banned": ["f", "0", "what", ""]})
    assert fit_values(records).column(HIDDEN_COLUMN).to_pylist() == [True, False, None, False]

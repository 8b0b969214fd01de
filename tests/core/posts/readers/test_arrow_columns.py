"""Values of a post in any type of Arrow that holds them."""

from __future__ import annotations

import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import TAG_COLUMNS
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, read_rejects, read_rows, write_parquet

ROWS = 4


def base(**columns: Any) -> dict[str, Any]:
    values = {"id": list(range(ROWS)), "rating": ["g"] * ROWS, "score": [5] * ROWS}
    return {**values, **{name: ["a b"] * ROWS for name in TAG_COLUMNS}, **columns}


def read(folder: Path, table: pa.Table, **settings: Any) -> tuple[PostsReport, Path]:
    out = folder / f"out-{len(list(folder.iterdir()))}"
    out.mkdir()
    write_parquet(table, folder / "p.parquet")
    values = PostsSettings.model_validate({"export": ["p.parquet"], "max_rejected_share": 0.9, **settings})
    return read_export(values, folder, out, ONE_THREAD), out


@pytest.mark.parametrize("column", ["id", "score"])
@pytest.mark.parametrize(
    "numbers",
    [
        pa.array(np.arange(ROWS, dtype=np.float16)),
        pa.array(np.arange(ROWS, dtype=np.float32)),
        pa.array([0.0, 1.0, 2.0, 3.0]),
        pa.array([decimal.Decimal(number) for number in range(ROWS)], pa.decimal128(20, 2)),
        pa.array([decimal.Decimal(number) for number in range(ROWS)], pa.decimal256(50, 0)),
        pa.array(range(ROWS), pa.uint64()),
        pa.array(range(ROWS), pa.int8()),
        pa.array(["0", "1.0", "2", "3.00"], pa.large_string()),
        pa.array(["0", "1", "2", "3"]).dictionary_encode(),
        pa.array(["0", "1", "2", "3"], pa.string_view()),
    ],
    ids=lambda numbers: str(numbers.type),
)
def test_whole_numbers_are_read_from_any_type(tmp_path: Path, column: str, numbers: pa.Array[Any]) -> None:
    report, out = read(tmp_path, pa.table(base(**{column: numbers})))
    assert report.num_kept == ROWS
    assert [post[column] for post in read_rows(out)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("numbers", "reasons"),
    [
        (
            pa.array([1.5, float("inf"), 2.0**53, float("nan")]),
            ["score '1.5'", "score 'inf'", "score '9007", "score is"],
        ),
        (pa.array([0.5, 1, 2, 3], pa.float32()), ["score '0.5'"]),
        (pa.array([decimal.Decimal("1.50")] * 4, pa.decimal128(9, 2)), ["score '1.50'"] * 4),
        (pa.array([2**63, 0, 0, 2**31], pa.uint64()), ["score '9223372036854775808'", "score '2147483648'"]),
    ],
)
def test_what_is_no_whole_number_is_refused_by_its_value(
    tmp_path: Path, numbers: pa.Array[Any], reasons: list[str]
) -> None:
    good = pa.array([decimal.Decimal(0) if pa.types.is_decimal(numbers.type) else 0], numbers.type)
    spare = pa.table({name: values[:1] for name, values in base(id=[10]).items()})
    spare = spare.set_column(2, "score", good)
    report, out = read(tmp_path, pa.concat_tables([pa.table(base(score=numbers)), spare]))
    found = [str(reject["reason"]) for reject in read_rejects(out)]
    assert [reason[: len(start)] for reason, start in zip(found, reasons, strict=True)] == reasons
    assert report.reconciles


def test_a_float_above_its_exact_range_is_no_id(tmp_path: Path) -> None:
    ids = pa.array(np.array([2**24 - 1, 2**24, 5, 6], dtype=np.float32))
    report, out = read(tmp_path, pa.table(base(id=ids)))
    assert [post["id"] for post in read_rows(out)] == [2**24 - 1, 5, 6]
    assert str(read_rejects(out)[0]["reason"]).startswith("id '16777216.0 in a float of 32 bits'")
    assert report.reconciles


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_tags_and_ratings_are_read_from_any_type_of_text(tmp_path: Path, type_: pa.DataType) -> None:
    table = pa.table(base())
    for index, name in enumerate(table.schema.names):
        if name not in ("id", "score"):
            table = table.set_column(index, name, pa.array(table[name].to_pylist()).cast(type_))
    report, out = read(tmp_path, table)
    assert report.num_kept == ROWS
    assert read_rows(out)[0]["tag_string_meta"] == "a b"


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.string_view()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
        pa.list_(pa.string(), 2),
    ],
    ids=str,
)
def test_lists_of_any_type_of_text(tmp_path: Path, type_: pa.DataType) -> None:
    lists = [["long hair", "b"], ["c", "d"], [None, "e"], ["", "f"]]
    try:
        column = pa.array(lists, type_)
    except pa.ArrowNotImplementedError:
        column = pa.array(lists, pa.list_(pa.string())).cast(type_)
    report, out = read(tmp_path, pa.table(base(tag_string_general=column)))
    assert [post["tag_string_general"] for post in read_rows(out)] == ["long_hair b", "c d", "e", "f"]
    assert report.num_kept == ROWS


def test_structs_are_entered_as_objects_of_json_are(tmp_path: Path) -> None:
    values = base()
    tags = [{name.removeprefix("tag_string_"): [values[name][0], "x"] for name in TAG_COLUMNS}] * ROWS
    flags = [{"deleted": number == 1} for number in range(ROWS)]
    table = pa.table(
        {
            **{name: values[name] for name in ("id", "rating")},
            "score": [{"up": 1, "total": 9}] * ROWS,
            "tags": tags,
            "flags": flags,
        }
    )
    report, out = read(tmp_path, table)
    assert (report.num_kept, report.num_filtered) == (3, 1)
    assert read_rows(out)[0] == {"id": 0, "rating": "g", "score": 9, **dict.fromkeys(TAG_COLUMNS, "a_b x")}


def test_lists_of_structs_with_a_category(tmp_path: Path) -> None:
    known = [{"name": "a b", "category": 0}, {"name": "miku", "category": 4}]
    table = pa.table(
        {
            **{name: base()[name] for name in ("id", "rating", "score")},
            "tags": [known, [], None, [{"name": "x", "category": 9}]],
        }
    )
    report, out = read(tmp_path, table)
    rows = read_rows(out)
    assert (rows[0]["tag_string_general"], rows[0]["tag_string_character"]) == ("a_b", "miku")
    assert [post["tag_string_general"] for post in rows[1:]] == ["", ""]
    assert "set [posts] category_numbers" in str(read_rejects(out)[0]["reason"])
    assert report.reconciles


@pytest.mark.parametrize("element", ["element", "item"])
def test_lists_as_bigquery_wraps_them(tmp_path: Path, element: str) -> None:
    def wrapped(*tags: str | None) -> dict[str, Any]:
        return {"list": [{element: tag} for tag in tags]}

    values = {"id": [1, 2], "rating": ["g", "s"], "score": [0, 1]}
    none = {name: [wrapped("x"), None] for name in ("artist", "copyright", "character", "meta")}
    _, out = read(tmp_path, pa.table({**values, "general": [wrapped("a", None, "b c"), wrapped()], **none}))
    posts = read_rows(out)
    assert [post["tag_string_general"] for post in posts] == ["a b_c", ""]
    assert [post["tag_string_meta"] for post in posts] == ["x", ""]


def test_labels_are_read_by_their_names(tmp_path: Path) -> None:
    features = {
        "rating": {"names": ["general", "sensitive", "questionable", "explicit"], "_type": "ClassLabel"},
        "tag_string_general": {"feature": {"names": ["book", "long hair"], "_type": "ClassLabel"}, "_type": "Sequence"},
    }
    table = pa.table(base(rating=[3, 0, 1, 2], tag_string_general=[[1, 0], [0], [], None]))
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    _, out = read(tmp_path, table)
    assert [(post["rating"], post["tag_string_general"]) for post in read_rows(out)] == [
        ("e", "long_hair book"),
        ("g", "book"),
        ("s", ""),
        ("q", ""),
    ]


def test_ratings_as_numbers_need_their_names(tmp_path: Path) -> None:
    table = pa.table(base(rating=[0, 1, 2, 3]))
    with pytest.raises(
        ExportError, match=r"rating '0' is not one of g, s, q, e; say which one it is in \[posts.rating_"
    ):
        read(tmp_path, table)
    _, out = read(tmp_path, table, rating_names={"0": "g", "1": "s", "2": "q", "3": "e"})
    assert [post["rating"] for post in read_rows(out)] == ["g", "s", "q", "e"]

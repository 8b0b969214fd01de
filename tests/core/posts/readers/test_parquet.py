"""Parquet: columns by name and of several types, rows that are invalid, files that are broken."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.read_file import DUPLICATE_REASON
from booru_embed_core.posts.readers import parquet as parquet_module
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, POST_COLUMNS, Category, tag_column
from tests.core.export_helpers import hostile_rows, kept, read_rejects, read_rows, row

ReadExport = Callable[..., tuple[PostsReport, Path]]


def parquet_bytes(table: pa.Table, row_group_size: int = 3) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=row_group_size)
    return sink.getvalue()


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows(), columns=st.permutations([*POST_COLUMNS, "md5"]))
def test_any_posts_come_back(read_export: ReadExport, rows: list[dict[str, object]], columns: list[str]) -> None:
    table = pa.Table.from_pylist([post | {"md5": b"\xff"} for post in rows]).select(columns)
    report, posts_dir = read_export(parquet_bytes(table))
    assert (report.num_read, report.num_rejected) == (len(rows), 0)
    assert read_rows(posts_dir) == kept(rows)


def test_columns_of_other_widths_and_dictionaries(read_export: ReadExport) -> None:
    table = pa.Table.from_pylist([row(1, "a b"), row(2, rating="e", score=-3)])
    table = table.set_column(0, "id", table["id"].cast(pa.uint32()))
    for name, type_ in {
        "rating": pa.dictionary(pa.int8(), pa.string()),
        "score": pa.int16(),
        "tag_string_general": pa.large_string(),
    }.items():
        column = table[name].dictionary_encode() if pa.types.is_dictionary(type_) else table[name].cast(type_)
        table = table.set_column(table.schema.get_field_index(name), name, column)
    _, posts_dir = read_export(parquet_bytes(table))
    assert read_rows(posts_dir) == [row(1, "a b"), row(2, rating="e", score=-3)]


def as_lists(rows: list[dict[str, object]], names: Callable[[Category], str], list_type: pa.DataType) -> pa.Table:
    table = pa.Table.from_pylist(rows).select(["id", "rating", "score"])
    for category in CATEGORIES:
        fields = [str(post[tag_column(category)]) for post in rows]
        lists = [field.split(" ") if field else [] for field in fields]
        table = table.append_column(names(category), pa.array(lists, list_type))
    return table


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=hostile_rows(),
    names=st.sampled_from([tag_column, lambda category: category.value]),
    list_type=st.sampled_from([pa.list_(pa.string()), pa.large_list(pa.large_string())]),
)
def test_lists_of_tags_are_the_same_posts_as_strings(
    read_export: ReadExport, rows: list[dict[str, object]], names: Callable[[Category], str], list_type: pa.DataType
) -> None:
    report, posts_dir = read_export(parquet_bytes(as_lists(rows, names, list_type)))
    _, wanted_dir = read_export(parquet_bytes(pa.Table.from_pylist(rows)))
    assert (report.num_kept, report.num_rejected) == (len(rows), 0)
    assert read_rows(posts_dir) == read_rows(wanted_dir)


def test_nothing_in_a_list_is_no_tag_and_a_line_break_costs_its_row(
    read_export: ReadExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "BATCH_RECORDS", 3)
    rows = [row(number, f"tag_{number}") for number in range(8)]
    table = as_lists(rows, lambda category: category.value, pa.list_(pa.string()))
    lists = [["a"], ["a", "b c"], ["", "a"], [None], None, [], ["a\nb"], ["ideographic\u3000space", "b"]]
    table = table.set_column(3, "general", pa.array(lists, pa.list_(pa.string())))
    report, posts_dir = read_export(parquet_bytes(table, 5))
    assert report.reconciles
    fields = ["a", "a b_c", "a", "", "", "", "ideographic\u3000space b"]
    assert [post["tag_string_general"] for post in read_rows(posts_dir)] == fields
    rejects = read_rejects(posts_dir)
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (7, "a line break inside tag_string_general"),
    ]
    assert json.loads(str(rejects[0]["raw"]))["general"] == ["a\nb"]


def test_ratings_as_words(read_export: ReadExport) -> None:
    words = ["general", "sensitive", "questionable", "explicit", "e", "safe"]
    rows = [row(number, rating=word) for number, word in enumerate(words)]
    report, posts_dir = read_export(parquet_bytes(pa.Table.from_pylist(rows)))
    assert [post["rating"] for post in read_rows(posts_dir)] == ["g", "s", "q", "e", "e"]
    assert [reject["reason"] for reject in read_rejects(posts_dir)] == [
        "rating 'safe' is not one of g, s, q, e; say which one it is in [posts.rating_names]"
    ]
    assert report.num_rejected == 1


def test_invalid_rows_are_set_aside_with_row_reason_and_values(
    read_export: ReadExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_module, "BATCH_RECORDS", 2)
    rows = [row(1), row(2, rating="x"), row(3), row(None), row(1), {**row(6), "tag_string_meta": None}, row(7, "a\rb")]
    report, posts_dir = read_export(parquet_bytes(pa.Table.from_pylist(rows)))
    assert report.reconciles
    assert (report.num_read, report.num_kept, report.num_duplicate, report.num_rejected) == (7, 3, 1, 3)
    rejects = read_rejects(posts_dir)
    assert [(reject["line"], reject["reason"]) for reject in rejects] == [
        (2, "rating 'x' is not one of g, s, q, e; say which one it is in [posts.rating_names]"),
        (4, "id is missing"),
        (5, DUPLICATE_REASON),
        (7, "a line break inside tag_string_general"),
    ]
    assert json.loads(str(rejects[0]["raw"])) == row(2, rating="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop_columns(["score"]),
            r"found 'id,rating,tag_.* wanted id,rating.*missing: score;",
        ),
        (lambda t: t.append_column("id", t["id"]), r"wrong columns: found .*; twice: id; export these"),
        (lambda t: t.append_column("tag_string_meta", t["id"]), r"wrong columns: found .*; twice: tag_string_meta;"),
        (lambda t: t.set_column(3, "tag_string_general", [[[b"a"]]]), r"tag_string_general has the type list<.*binary"),
        (lambda t: t.set_column(1, "rating", [[["g"]]]), r"rating has the type list<.*>, wanted string or a number;"),
        (
            lambda t: t.rename_columns({"tag_string_general": "generals"}),
            r"wrong columns: .*missing: tag_string_general; .*set \[posts.columns\] tag_string_general = \"\" if",
        ),
        (
            lambda t: t.select(["id", "rating", "score"]).append_column("tag_string", [["a b"]]),
            r"has tag_string and none of .*; set \[posts\] tag_categories to a table of tag and category",
        ),
        (lambda t: t.set_column(3, "tag_string_general", [[b"a"]]), r"tag_string_general has the type binary, wanted"),
    ],
)
def test_what_is_missing_or_of_another_type_is_told(
    read_export: ReadExport, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    with pytest.raises(ExportError, match=r"export-0\.csv: .*" + message):
        read_export(parquet_bytes(change(pa.Table.from_pylist([row(1)]))))


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b[:4] + bytes(len(b) // 2) + b[4 + len(b) // 2 :]])
def test_a_broken_file_is_an_error_that_names_it(read_export: ReadExport, damage: Callable[[bytes], bytes]) -> None:
    content = parquet_bytes(pa.Table.from_pylist([row(number, f"tag_{number}") for number in range(50)]), 50)
    with pytest.raises(ExportError, match=r"export-0\.csv: cannot be parsed .*check the file"):
        read_export(damage(content))

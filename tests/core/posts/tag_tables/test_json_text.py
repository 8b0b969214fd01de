"""JSON: lines by Arrow where it can, and by Python where values or lines are unlike the first ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from booru_embed_core.posts.tag_tables import json_text
from booru_embed_core.posts.tag_tables.columns import Role, TagRows


def json_rows(file: Path) -> TagRows:
    return json_text.json_rows(file, lambda value: value in ("general", "meta"))


def values(rows: TagRows, role: Role = Role.NAME) -> list[Any]:
    columns = [block.columns[role] for block in rows.blocks]
    return [value for one in columns for value in (one.to_pylist() if isinstance(one, pa.Array) else one)]


@pytest.mark.parametrize(
    "last",
    [
        {"name": 2021, "category": "meta"},
        {"name": "2021", "category": 5.0, "words": {"a": 1}},
        {"category": 5, "name": "2021"},
    ],
)
def test_values_may_change_their_types(tmp_path: Path, last: dict[str, object]) -> None:
    rows = [{"name": f"tag_{number}", "category": 0, "words": []} for number in range(150)]
    (tmp_path / "t").write_text("\n".join(json.dumps(row) for row in [*rows, last]), encoding="utf-8")
    assert values(json_rows(tmp_path / "t"))[-2:] == ["tag_149", last["name"]]
    assert values(json_rows(tmp_path / "t"), Role.CATEGORY)[-1] == last["category"]


def test_numbers_of_lines_count_blank_ones(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('\n{"name": "a", "category": 0}\n\n\n{"name": "b", "category": 0}\n', encoding="utf-8")
    rows = json_rows(tmp_path / "t")
    assert rows.unit == "line"
    assert [number for block in rows.blocks for number in block.numbers] == [2, 5]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"tag": [{"name": "a", "category": 0}]}\n{"tag": [{"name": "b", "category": 0}]}', ["a", "b"]),
        ('{"tags": [], "@attributes": {"count": 0}}', []),
        ("[]", []),
        ('{"name": "a", "category": 0, "words": []}', ["a"]),
        ('{"name": "a",\n"category": 0, "words": []}\n{"name": "b", "category": 0, "words": ["b"]}', ["a", "b"]),
        ('[{"name": "a", "category": 0, "consequent_aliases": [{"antecedent_name": "x"}]}]', ["a"]),
        ('{"success": true, "data": [{"tag": "a", "type": "general"}]}', ["a"]),
        ('{"tag": 0, "name": 4}', ["tag", "name"]),
        ('{"a": "general", "wolf": "species"}', ["a", "wolf"]),
        ('[{"type": "tag", "label": "a b", "value": "a_b", "category": 0}]', ["a_b"]),
    ],
)
def test_rows_are_found_in_what_is_around_them(tmp_path: Path, content: str, expected: list[str]) -> None:
    (tmp_path / "t").write_text(content, encoding="utf-8")
    rows = json_rows(tmp_path / "t")
    assert (values(rows) if Role.NAME in rows.roles else []) == expected


def test_an_object_of_texts_gives_old_names(tmp_path: Path) -> None:
    (tmp_path / "t").write_text('{"old_a": "a", "old_b": "b"}', encoding="utf-8")
    rows = json_rows(tmp_path / "t")
    assert list(zip(values(rows, Role.OLD), values(json_rows(tmp_path / "t"), Role.NEW), strict=True)) == [
        ("old_a", "a"),
        ("old_b", "b"),
    ]

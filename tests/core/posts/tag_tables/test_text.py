"""CSV and TSV: headers, quotes, and rows that end early."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from booru_embed_core.posts.tag_tables.columns import Role, TagRows
from booru_embed_core.posts.tag_tables.text import text_rows
from booru_embed_core.posts.validation import ExportError


def rows_of(file: Path, content: str) -> TagRows:
    file.write_text(content, encoding="utf-8", newline="")
    return text_rows(file, lambda value: value in ("0", "4"))


def values(rows: TagRows, role: Role = Role.NAME) -> list[object]:
    columns = [block.columns[role] for block in rows.blocks]
    return [value for one in columns for value in (one.to_pylist() if isinstance(one, pa.Array) else one)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('name\tcategory\n"a"\t0\n"b" c\t0\n', ['"a"', '"b" c']),  # written without quoting
        ('name\tcategory\n"a"\t0\nb"\t0\n', ['"a"', 'b"']),
        ('name\tcategory\n"a"\t0\n', ['"a"']),
        ('name\tcategory\n"""a"""\t0\n', ['"a"']),
        ('"name"\t"category"\n"a"\t"0"\n', ["a"]),
        ('name,category\n"""a""",0\nx"y,0\n', ['"a"', 'x"y']),
        ('name, category\n"a,b", 0\nx, 0\n', ["a,b", "x"]),
        ('category, name\n0, "a,b"\n', ["a,b"]),
        ("\n \n name ,category\na,0\n,\n\nb,0\n", ["a", "b"]),
    ],
)
def test_quotes_enclose_values_only_where_the_file_shows_it(tmp_path: Path, content: str, expected: list[str]) -> None:
    assert values(rows_of(tmp_path / "t", content)) == expected


def test_rows_without_a_header_may_end_early(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t", 'a,0,5\nb,0,5,"x,y"\nc,4\n')
    assert values(rows, Role.ALIASES) == ["", "x,y", ""]
    assert values(rows_of(tmp_path / "t", "a,0,5\nb,4,\n")) == ["a", "b"]
    assert Role.ALIASES not in rows_of(tmp_path / "t", "a,0,5\nb,4,\n").roles
    with pytest.raises(ExportError, match="line 2: 'b,0,5,x,y' has 5 values instead of 4"):
        values(rows_of(tmp_path / "t", "a,0,5,\nb,0,5,x,y\n"))


def test_a_stray_quote_does_not_swallow_the_file(tmp_path: Path) -> None:
    lines = ["name,category", "a,0", '"b,0', *(f"{number},0" for number in range(300)), '"c",0']
    with pytest.raises(ExportError, match="line 3: broken quotes"):
        values(rows_of(tmp_path / "t", "\n".join(lines)))


def test_columns_may_repeat(tmp_path: Path) -> None:
    assert values(rows_of(tmp_path / "t", ",name,x,x,category,name\n0,a,b,c,0,d\n")) == ["a"]


def test_unknown_columns_are_given_back(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "t", "old_a;a;b\n")
    assert (rows.names, rows.roles, list(rows.blocks)) == (("old_a", "a", "b"), frozenset(), [])


def test_a_carriage_return_within_a_line_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="line 2: a carriage return within the line"):
        values(rows_of(tmp_path / "t", "name,category\na,0\rb,0\n"))

"""Tables of implications: what counts, under which names, and chains that lead back."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.implications import (
    Implication,
    TagImplications,
    check_chains,
    read_implications,
    write_implications,
)
from booru_embed_core.posts.read_export import read_export
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import Category
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, row

HEADER = "id,antecedent_name,consequent_name,created_at,status\n"
ROWS = (
    HEADER
    + """1,witch_hat,hat,2010-01-01,active
2,fox_ears,animal_ears,2010-01-01,active
3,fox_ears,animal_ears,2011-01-01,active
4,wolf,canine,2010-01-01,deleted
5,wolf_tail,tail,2010-01-01,Active
"""
)
PAIRS = [("witch_hat", "hat"), ("fox_ears", "animal_ears"), ("wolf_tail", "tail")]
INACTIVE = {"implications that are not active": 1}


def load(file: Path, text: str, aliases: dict[str, str] | None = None) -> TagImplications:
    file.write_text(text)
    return TagImplications.load(file, Aliases({Category.GENERAL: aliases or {}}))


def pairs_of(found: TagImplications) -> list[tuple[str, str]]:
    return [(one.antecedent, one.consequent) for one in found.rows]


def test_active_rows_count_once_in_any_format(tmp_path: Path) -> None:
    file = tmp_path / "tag_implications-2025-01-01.csv"
    found = load(file, ROWS)
    assert (pairs_of(found), found.left_out) == (PAIRS, INACTIVE)
    assert [one.row for one in found.rows] == ["line 2", "line 3", "line 6"]
    table = [dict(zip(HEADER.strip().split(","), line.split(","), strict=True)) for line in ROWS.splitlines()[1:]]
    for name, text in (("a.json", json.dumps(table)), ("b.jsonl", "\n".join(map(json.dumps, table)) + "\n")):
        assert pairs_of(load(tmp_path / name, text)) == PAIRS
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "c.parquet")
    assert pairs_of(TagImplications.load(tmp_path / "c.parquet", Aliases({}))) == PAIRS


def test_old_names_are_replaced_before_anything_else(tmp_path: Path) -> None:
    text = "antecedent_name,consequent_name\nkitsune_ears,animal_ears\nfox_ears,kemonomimi\nkemonomimi,animal_ears\n"
    found = load(tmp_path / "t.csv", text, {"kitsune_ears": "fox_ears", "kemonomimi": "animal_ears"})
    assert pairs_of(found) == [("fox_ears", "animal_ears")]
    assert found.left_out == {"implications between two names of one tag": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,b\nb,c\nx,y\nc,b\n", r"t.csv: implications lead back to themselves: b → c → b \(line 3, line 5\); remove"),
        ("a,a\n", r"implications lead back to themselves: a → a \(line 2\); remove one of these rows, or set its"),
        ("p,q\nq,r\nr,old\n", r"p → q → r → p \(line 2, line 3, line 4\)"),
        ("".join(f"t{i},t{(i + 1) % 20}\n" for i in range(20)), r"t6 → t7 → … → t0 \(line 2, .*, line 9\)"),
    ],
)
def test_chains_that_lead_back_are_refused_by_name(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load(tmp_path / "t.csv", "antecedent_name,consequent_name\n" + rows, {"old": "p"})


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=10))
def test_exactly_chains_that_lead_back_are_refused(pairs: list[tuple[int, int]]) -> None:
    reach = {a: {b for x, b in pairs if x == a} for a in range(7)}
    for _ in range(7):
        reach = {a: ends.union(*(reach[b] for b in ends)) for a, ends in reach.items()}
    rows = [Implication(str(a), str(b), Path("t.csv"), f"line {n}") for n, (a, b) in enumerate(pairs)]
    if any(a in ends for a, ends in reach.items()):
        with pytest.raises(ExportError, match="lead back"):
            check_chains(rows)
    else:
        check_chains(rows)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "tag,category\na,0\n", r"found the columns 'tag,category', wanted antecedent_name,consequent_name"),
        ("t.csv", "a,b\nc,d\n", r"correct the header .* or remove \[posts\] implications"),
        ("tag_aliases.csv", ROWS, r"a table of aliases, .* name it under \[posts\] aliases, and give implications"),
        ("t.csv", HEADER + "1,a,b,x,deleted\n", "1 implications, and none with the status active; correct the status"),
        ("t.csv", HEADER + "1,a,,x,active\n", "line 2: the name is empty"),
    ],
)
def test_what_is_no_table_of_implications_is_told(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        load(tmp_path / name, text)


def test_tables_of_several_sites_may_not_contradict_each_other(tmp_path: Path) -> None:
    first = load(tmp_path / "a.csv", "antecedent_name,consequent_name\nx,y\n")
    second = load(tmp_path / "b.csv", "antecedent_name,consequent_name\ny,x\n")
    with pytest.raises(ExportError, match=r"a.csv: .* x → y → x \(.*a.csv line 2, .*b.csv line 2\)"):
        write_implications([first, second], tmp_path)
    write_implications([first, first], tmp_path)
    assert read_implications(tmp_path) == [("x", "y")]


def test_an_export_keeps_the_implications_that_its_settings_name(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_bytes(csv_bytes([row(1, "witch_hat hat")]))
    (tmp_path / "implied.csv").write_text(ROWS)
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        named = {"implications": Path("implied.csv")} if name == "with" else {}
        settings = PostsSettings.model_validate({"export": ("posts.csv",), **named})
        report = read_export(settings, tmp_path, tmp_path / name, ONE_THREAD)
        assert read_implications(tmp_path / name) == (PAIRS if named else [])
        assert report.left_out_rows == (INACTIVE if named else {})
    (tmp_path / "again").mkdir()
    again = read_export(PostsSettings(export=("with",)), tmp_path, tmp_path / "again", ONE_THREAD)
    assert (again.num_kept, again.left_out) == (1, ())

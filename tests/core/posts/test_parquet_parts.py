"""Parts of one layout whatever the batches, and the ids seen."""

from __future__ import annotations

import itertools
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts import parquet_parts as parts_module
from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.parquet_parts import (
    POSTS_SCHEMA,
    RECORD_SCHEMA,
    PartsWriter,
    PostsWriter,
    SeenIds,
    count_posts,
    part_files,
    read_groups,
)
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.schema import Category
from tests.core.export_helpers import row


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 24)), max_batches=st.integers(1, 4))
def test_the_layout_does_not_depend_on_the_batches(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, cuts: set[int], max_batches: int
) -> None:
    monkeypatch.setattr(parts_module, "_MAX_BATCHES", max_batches)
    monkeypatch.setattr(parts_module, "ROW_GROUP_POSTS", 4)
    monkeypatch.setattr(parts_module, "PART_POSTS", 8)
    table = pa.Table.from_pylist([row(post_id, f"tag_{post_id % 3} z") for post_id in range(25)], schema=RECORD_SCHEMA)
    folders = []
    for indices in ([0, 25], [0, *sorted(cuts), 25]):
        folders.append(tmp_path_factory.mktemp("parts"))
        with PostsWriter(folders[-1], Aliases({})) as writer:
            for start, end in itertools.pairwise(indices):
                for batch in table.slice(start, end - start).combine_chunks().to_batches():
                    writer.add(batch)
        assert writer.num_rows == 25
    whole, pieces = ([file.read_bytes() for file in part_files(folder)] for folder in folders)
    assert whole == pieces
    footers = [pq.read_metadata(file) for file in part_files(folders[0])]
    assert [[footer.row_group(g).num_rows for g in range(footer.num_row_groups)] for footer in footers] == [
        [4, 4],
        [4, 4],
        [4, 4],
        [1],
    ]
    assert count_posts(folders[0]) == 25
    batches = list(read_groups(folders[0], ["id", "general"]))
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 4, 1]
    lists = [TagLists.from_arrow(batch.column("general")) for batch in batches]
    assert [len(part.tags) for part in lists] == [4] * 6 + [2]
    read = [post for batch in batches for post in batch.to_pylist()]
    assert read == [{"id": post_id, "general": [f"tag_{post_id % 3}", "z"]} for post_id in range(25)]


def test_a_part_is_lists_of_strings_to_those_who_know_nothing_of_it(tmp_path: Path) -> None:
    with PostsWriter(tmp_path, Aliases({})) as writer:
        writer.add(pa.RecordBatch.from_pylist([row(1, "b a b  a", artist="x"), row(2, " ")], schema=RECORD_SCHEMA))
    (file,) = part_files(tmp_path)
    assert pq.read_schema(file).equals(POSTS_SCHEMA)
    shown = duckdb.sql(f"select id, general, artist, meta from '{file}'").fetchall()
    assert shown == [(1, ["b", "a"], ["x"], []), (2, [], [], [])]
    assert writer.num_repeats == 2


def test_each_tag_is_once_in_a_row_group(tmp_path: Path) -> None:
    """Dictionary codes are what makes the stages below fast, and Parquet gives them up without a word."""
    rows = [row(post_id, " ".join(f"{'x' * 200}_{post_id}_{index}" for index in range(40))) for post_id in range(500)]
    with PostsWriter(tmp_path, Aliases({})) as writer:
        writer.add(pa.RecordBatch.from_pylist(rows, schema=RECORD_SCHEMA))
    column = pq.read_metadata(part_files(tmp_path)[0]).row_group(0).column(3)
    assert column.path_in_schema == f"{Category.GENERAL}.list.element"
    assert "PLAIN_DICTIONARY" in column.encodings or "RLE_DICTIONARY" in column.encodings
    (batch,) = read_groups(tmp_path)
    assert len(TagLists.from_arrow(batch.column("general")).tags) == 500 * 40


def test_no_posts_are_one_empty_part(tmp_path: Path) -> None:
    with PostsWriter(tmp_path, Aliases({})):
        pass
    assert [file.name for file in part_files(tmp_path)] == ["part-00000.parquet"]
    assert pq.read_schema(part_files(tmp_path)[0]).equals(POSTS_SCHEMA)


def test_another_schema_name_and_group_are_kept(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("n", pa.int64())])
    with PartsWriter(tmp_path, schema, "stream-003-part", group_rows=2) as writer:
        writer.add(pa.RecordBatch.from_pydict({"n": [1, None, 3]}, schema=schema))
    assert [file.name for file in writer.paths] == ["stream-003-part-00000.parquet"]
    assert pq.read_table(writer.paths[0]).equals(pa.table({"n": [1, None, 3]}, schema=schema))
    assert pq.read_metadata(writer.paths[0]).num_row_groups == 2


def test_a_folder_without_parts_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="build the posts first"):
        part_files(tmp_path)


@given(batches=st.lists(st.lists(st.integers(-3, 12) | st.sampled_from([-(2**63), 2**63 - 1]))))
def test_only_the_first_of_each_id_is_fresh(batches: list[list[int]]) -> None:
    seen, known = SeenIds(), set[int]()
    for batch in batches:
        fresh = seen.add(np.array(batch, dtype=np.int64)).tolist()
        wanted = []
        for post_id in batch:
            wanted.append(post_id not in known)
            known.add(post_id)
        assert fresh == wanted


def test_single_ids_are_merged_into_few_runs() -> None:
    seen = SeenIds()
    for post_id in range(1000):
        assert seen.add(np.array([post_id])).all()
    assert len(seen._runs) <= 10, "each run is longer than the next, so a thousand ids fit ten"

"""Parts of one layout whatever the batches, and the ids seen."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_helpers import ONE_THREAD, row
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts import parts as parts_module
from booru_embed_core.posts.parts import POSTS_SCHEMA, PartsWriter, SeenIds, count_posts, open_posts, part_files


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 24)))
def test_the_layout_does_not_depend_on_the_batches(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, cuts: set[int]
) -> None:
    monkeypatch.setattr(parts_module, "ROW_GROUP_POSTS", 4)
    monkeypatch.setattr(parts_module, "PART_POSTS", 8)
    table = pa.Table.from_pylist([row(post_id, f"tag_{post_id}") for post_id in range(25)], schema=POSTS_SCHEMA)
    folders = []
    for places in ([0, 25], [0, *sorted(cuts), 25]):
        folders.append(tmp_path_factory.mktemp("parts"))
        with PartsWriter(folders[-1]) as writer:
            for start, end in itertools.pairwise(places):
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
    batches = list(open_posts(folders[0], ONE_THREAD, ("id", "tag_string_general")))
    assert pa.Table.from_batches(batches).to_pydict() == table.select(["id", "tag_string_general"]).to_pydict()


def test_no_posts_are_one_empty_part(tmp_path: Path) -> None:
    with PartsWriter(tmp_path):
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

"""The files of posts that have no number."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.paths import PATHS_FILE, PATHS_SCHEMA, PathsWriter


def test_paths_are_written_as_they_come(tmp_path: Path) -> None:
    file = tmp_path / PATHS_FILE
    with PathsWriter(file) as writer:
        writer.add(pa.array([1, 2]), pa.array(["a.txt", "b.txt"]))
        writer.add(pa.array([3]), pa.array(["c.txt"], pa.large_string()))
    table = pq.read_table(file)
    assert table.schema.equals(PATHS_SCHEMA)
    assert table.to_pydict() == {"id": [1, 2, 3], "path": ["a.txt", "b.txt", "c.txt"]}


def test_without_paths_there_is_no_file(tmp_path: Path) -> None:
    with PathsWriter(tmp_path / PATHS_FILE):
        pass
    assert not list(tmp_path.iterdir())

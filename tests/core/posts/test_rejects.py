"""``rejects.parquet``: what is set aside comes back in order."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from booru_embed_core.posts import rejects
from booru_embed_core.posts.rejects import REJECTS_SCHEMA, RejectsWriter


@pytest.mark.parametrize(("bound", "value", "num_groups"), [("_BATCH_REJECTS", 2, 3), ("_BATCH_BYTES", 6, 3)])
def test_rejects_are_written_in_order_over_several_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, num_groups: int
) -> None:
    monkeypatch.setattr(rejects, bound, value)
    with RejectsWriter(tmp_path / "rejects.parquet") as writer:
        for line in range(5):
            writer.add("a.csv", line, "reason", b"raw \xff" if line == 3 else b"raw")
    assert pq.read_metadata(tmp_path / "rejects.parquet").num_row_groups == num_groups
    table = pq.read_table(tmp_path / "rejects.parquet")
    assert table.schema.equals(REJECTS_SCHEMA)
    assert table.column("line").to_pylist() == [0, 1, 2, 3, 4]
    assert table.column("raw").to_pylist() == ["raw", "raw", "raw", "raw \\xff", "raw"]


def test_no_reject_is_an_empty_table(tmp_path: Path) -> None:
    with RejectsWriter(tmp_path / "rejects.parquet"):
        pass
    assert pq.read_table(tmp_path / "rejects.parquet").schema.equals(REJECTS_SCHEMA)

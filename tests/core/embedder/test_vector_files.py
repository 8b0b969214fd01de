"""Vectors in Parquet, NumPy's format and JSON lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder.vector_files import Block, VectorFileError, VectorFormat, vector_format, write_vectors

VECTORS = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
IDS = ["a", "b", "ü", "", "e"]
UNKNOWN = [[], ["x"], ["y", "é"], [], []]
BLOCKS = [Block(VECTORS[:2], IDS[:2], UNKNOWN[:2]), Block(VECTORS[2:], IDS[2:], UNKNOWN[2:])]


def test_parquet_holds_ids_vectors_and_unknown_tags(tmp_path: Path) -> None:
    write_vectors(tmp_path / "out", VectorFormat.PARQUET, 5, 3, iter(BLOCKS))
    table = pq.read_table(tmp_path / "out")
    kinds = ["string", "fixed_size_list<element: float>[3]", "list<element: string>"]
    assert [str(kind) for kind in table.schema.types] == kinds
    assert (table["id"].to_pylist(), table["unknown"].to_pylist()) == (IDS, UNKNOWN)
    assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), VECTORS)
    write_vectors(tmp_path / "out", VectorFormat.PARQUET, 2, 3, [Block(VECTORS[:2], [2**62, -1], [[], []])])
    assert pq.read_table(tmp_path / "out")["id"].equals(pa.chunked_array([[2**62, -1]]))


def test_npy_has_the_bytes_of_numpy(tmp_path: Path) -> None:
    write_vectors(tmp_path / "out", VectorFormat.NPY, 5, 3, iter(BLOCKS))
    wanted = io.BytesIO()
    np.save(wanted, VECTORS)
    assert (tmp_path / "out").read_bytes() == wanted.getvalue()


def test_a_json_line_is_a_row_to_the_bit(tmp_path: Path) -> None:
    write_vectors(tmp_path / "out", VectorFormat.JSONL, 5, 3, iter(BLOCKS))
    rows = [json.loads(line) for line in (tmp_path / "out").read_text(encoding="utf-8").splitlines()]
    assert [(row["id"], row["unknown"]) for row in rows] == list(zip(IDS, UNKNOWN, strict=True))
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), VECTORS)


@pytest.mark.parametrize("form", VectorFormat)
def test_no_row_is_a_file_too(tmp_path: Path, form: VectorFormat) -> None:
    write_vectors(tmp_path / "out", form, 0, 3, [])
    if form is VectorFormat.NPY:
        assert np.load(tmp_path / "out").shape == (0, 3)
    elif form is VectorFormat.PARQUET:
        assert pq.read_table(tmp_path / "out").num_rows == 0
    else:
        assert (tmp_path / "out").read_bytes() == b""


def test_the_format_is_told_by_the_suffix() -> None:
    names = {"a.PQ": ".parquet", "a.parquet": ".parquet", "a.npy": ".npy", "a.jsonl": ".jsonl", "a.ndjson": ".jsonl"}
    assert {name: vector_format(Path(name)).value for name in names} == names
    with pytest.raises(VectorFileError, match=r"^a\.csv: vectors are written as \.parquet, \.npy, \.jsonl; name an"):
        vector_format(Path("a.csv"))

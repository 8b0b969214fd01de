"""Vectors with their ids in files: Parquet, NumPy's format, JSON lines; written whole and in bounded memory."""

from __future__ import annotations

import json
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import IO, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray


class VectorFormat(StrEnum):
    """How a file holds vectors, by its suffix."""

    PARQUET = ".parquet"
    """Columns ``id`` (int64 or string), ``vector`` (fixed-size list of float32), ``unknown`` (list of strings)."""
    NPY = ".npy"
    """An array float32 ``[n, dim]`` alone, as ``numpy.load`` reads it."""
    JSONL = ".jsonl"
    """One object a line, with the keys ``id``, ``vector`` and ``unknown``."""


class VectorFileError(ValueError):
    """The name of an output does not tell its format."""


class Block(NamedTuple):
    """Some rows of an output, in order."""

    vectors: NDArray[np.float32]
    """``[n, dim]``."""
    ids: list[int] | list[str]
    unknown: list[list[str]]
    """The tags of each row that are not in the vocabulary."""


_SUFFIXES: Final = {**{form.value: form for form in VectorFormat}, ".pq": VectorFormat.PARQUET}
_SUFFIXES[".ndjson"] = VectorFormat.JSONL


def vector_format(output: Path) -> VectorFormat:
    """How `output` holds vectors, by its suffix.

    Raises:
        VectorFileError: the suffix is of no format.
    """
    form = _SUFFIXES.get(output.suffix.lower())
    if form is None:
        raise VectorFileError(f"{output}: vectors are written as {', '.join(VectorFormat)}; name an --output of these")
    return form


def write_vectors(file: Path, form: VectorFormat, num_rows: int, dim: int, blocks: Iterable[Block]) -> None:
    """Writes the `num_rows` rows of `blocks`, with vectors of length `dim`, to `file` in the format `form`."""
    if num_rows == 0:
        blocks = [Block(np.empty((0, dim), np.float32), [], [])]
    if form is VectorFormat.PARQUET:
        _write_parquet(file, dim, blocks)
        return
    with file.open("wb") as stream:
        if form is VectorFormat.NPY:
            header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
            np.lib.format.write_array_header_1_0(stream, header)
        for block in blocks:
            if form is VectorFormat.NPY:
                stream.write(np.ascontiguousarray(block.vectors, dtype="<f4").tobytes())
            else:
                _write_lines(stream, block)


def _write_lines(stream: IO[bytes], block: Block) -> None:
    for vector, row_id, unknown in zip(block.vectors.tolist(), block.ids, block.unknown, strict=True):
        row = {"id": row_id, "vector": vector, "unknown": unknown}
        stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _write_parquet(file: Path, dim: int, blocks: Iterable[Block]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: pq.ParquetWriter | None = None
    try:
        for block in blocks:
            ids = pa.array(block.ids, pa.string() if block.ids and isinstance(block.ids[0], str) else pa.int64())
            flat = pa.array(np.ascontiguousarray(block.vectors).reshape(-1), pa.float32())
            vectors = pa.FixedSizeListArray.from_arrays(flat, dim)
            columns = {"id": ids, "vector": vectors, "unknown": pa.array(block.unknown, pa.list_(pa.string()))}
            table = pa.table(columns)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, compression="zstd", use_dictionary=False)
            writer.write_table(table)
    finally:
        if writer is not None:
            writer.close()

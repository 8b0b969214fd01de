"""Tables of tags as Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.errors import first_line
from booru_embed_core.posts.tag_tables.columns import BLOCK_ROWS, Block, Role, TagRows, columns_by_role
from booru_embed_core.posts.validation import ExportError


def parquet_rows(file: Path) -> TagRows:
    """The rows of the Parquet `file`."""
    try:
        with pq.ParquetFile(file) as parquet:
            names = tuple(parquet.schema_arrow.names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken(file, error) from None
    columns = columns_by_role(names)
    return TagRows(names, frozenset(columns), "row", _parquet_blocks(file, columns))


def _parquet_blocks(file: Path, columns: Mapping[Role, str]) -> Iterator[Block]:
    number = 1
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            for batch in parquet.iter_batches(BLOCK_ROWS, columns=list(columns.values())):
                batch.validate(full=True)  # Arrow does not check that strings are UTF-8 as it reads
                values = {role: batch.column(name) for role, name in columns.items()}
                yield Block(range(number, number + len(batch)), values)
                number += len(batch)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _broken(file, error) from None


def _broken(file: Path, error: Exception) -> ExportError:
    return ExportError(f"{file}: a broken Parquet file ({first_line(error)}); fetch the file again")

"""What readers share."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from booru_embed_core.posts.readers.base import run_on
from booru_embed_core.posts.validation import ExportError


def test_a_query_that_fails_names_the_file() -> None:
    with (
        duckdb.connect() as connection,
        pytest.raises(ExportError, match=r"^x\.csv: cannot be parsed .*check the file"),
    ):
        list(run_on(connection, "select nothing from records", pa.table({"a": [1]}), Path("x.csv")))

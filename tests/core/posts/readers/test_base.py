"""Text to values: what the SQL takes is what Python's reasons leave."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.readers.base import HIDDEN_COLUMN, fit_values, run_on
from booru_embed_core.posts.validation import ExportError, values_problem
from booru_embed_core.schema import FLAG_COLUMNS, POST_COLUMNS
from tests.core.export_helpers import row

NUMBER = st.sampled_from(
    [
        "0",
        "-0",
        "+1",
        "1.5",
        "1e3",
        " 1",
        "",
        "-",
        "\u0661",
        "9" * 19,
        "9" * 20,
        "0x1",
        "7.0",
        "-3.00",
        "7.",
        "NaN",
        "\\N",
        None,
    ]
)
VALUES = st.fixed_dictionaries(
    {
        "id": NUMBER,
        "rating": st.sampled_from(["g", "G", "safe", "Explicit", "", "nan", None]),
        "score": NUMBER | st.sampled_from([str(2**31 - 1), str(2**31)]),
        **{name: st.sampled_from(["true", "f", "0", "no", "", "None", None]) for name in FLAG_COLUMNS},
    }
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=VALUES)
def test_a_value_is_null_where_python_finds_a_problem(values: dict[str, str | None]) -> None:
    post = {name: str(value) for name, value in row(1).items()} | values
    table = pa.table({name: pa.array([value], pa.string()) for name, value in post.items()})
    query = f"select {fit_values(str, post)} from records"
    with duckdb.connect() as connection:
        (batch,) = run_on(connection, query, table, Path("x"))
    assert batch.schema.names == [*POST_COLUMNS, HIDDEN_COLUMN]
    (found,) = batch.to_pylist()
    assert (None in found.values()) == (values_problem(post) is not None)
    if None not in found.values():
        assert found[HIDDEN_COLUMN] is ("true" in [values[name] for name in FLAG_COLUMNS])
        assert (found["id"], found["score"]) == (int(float(str(values["id"]))), int(float(str(values["score"]))))


def test_a_query_that_fails_names_the_file() -> None:
    with (
        duckdb.connect() as connection,
        pytest.raises(ExportError, match=r"^x\.csv: cannot be parsed .*check the file"),
    ):
        list(run_on(connection, "select nothing from records", pa.table({"a": [1]}), Path("x.csv")))

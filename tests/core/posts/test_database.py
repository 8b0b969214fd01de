"""Connections with the resources that the settings allow."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.errors import DiskError
from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.database import (
    DatabaseMemoryError,
    connect,
    is_out_of_resources,
    quoted,
    source_literal,
    target_literal,
)
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.settings import DuckdbSettings
from tests.core.export_helpers import PATTERN_LIKE


def test_resources_are_those_of_the_settings_and_spill_is_removed(tmp_path: Path) -> None:
    with connect(DuckdbSettings(threads=3, memory_limit="512MiB"), tmp_path) as connection:
        values = connection.sql(
            "select current_setting('threads'), current_setting('memory_limit'), current_setting('temp_directory'), "
            "current_setting('preserve_insertion_order')"
        ).fetchall()
        ((threads, memory, spill, ordered),) = values
        assert (threads, memory, ordered) == (3, "512.0 MiB", True)
        assert Path(spill).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_folder_is_removed_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder(tmp_path) as folder:
            (folder / "file").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_quoted_text_is_itself_in_sql(text: str) -> None:
    with connect(DuckdbSettings(threads=1)) as connection:
        assert connection.sql(f"select {quoted(text)}").fetchall() == [(text,)]


def test_a_path_is_read_and_written_as_it_is_called(tmp_path: Path) -> None:
    for name in PATTERN_LIKE:
        folder = tmp_path / str(len(list(tmp_path.iterdir()))) / name
        folder.mkdir(parents=True)
        file = folder / f"{name}.csv"
        with connect(DuckdbSettings(threads=1)) as connection:
            connection.execute(f"copy (select 'right' as x) to {target_literal(file)}")
            assert file.is_file()
            for other in ("ab", "a", "b", "axb", "x"):  # what the name would match as a pattern
                (folder / f"{other}.csv").write_text("x\nwrong\n", encoding="utf-8")
                (folder.parent / other).mkdir(exist_ok=True)
                (folder.parent / other / file.name).write_text("x\nwrong\n", encoding="utf-8")
            query = f"from read_csv({source_literal(file)}, hive_partitioning = false)"
            assert connection.sql(query).fetchall() == [("right",)], name


def test_a_relative_path_may_start_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with connect(DuckdbSettings(threads=1)) as connection:
        connection.execute(f"copy (select 1 as x) to {target_literal(Path('~'))}")
        assert connection.sql(f"from read_csv({source_literal(Path('~'))})").fetchall() == [(1,)]
    assert (tmp_path / "~").is_file()


def test_a_backslash_beside_a_pattern_is_refused_and_alone_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a\\b.csv"
    file.write_text("x\n1\n", encoding="utf-8")
    with connect(DuckdbSettings(threads=1)) as connection:
        assert connection.sql(f"from read_csv({source_literal(file)})").fetchall() == [(1,)]
    with pytest.raises(ExportError, match=r"a\\\[1\]\.csv: the path holds a backslash beside .*; rename the file or"):
        source_literal(tmp_path / "a\\[1].csv")


@pytest.mark.parametrize("name", PATTERN_LIKE)
def test_spilling_below_any_name_works(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with connect(DuckdbSettings(threads=1, memory_limit="32MiB"), folder) as connection:
        query = "select count(*) from (select random() as x, repeat('x', 100) as y from range(1000000) order by x)"
        assert connection.sql(query).fetchall() == [(1_000_000,)]
    assert list(folder.iterdir()) == []


SORT = "select count(*) from (select random() as x, repeat('x', 100) as y from range(1000000) order by x)"


def test_too_little_memory_names_the_setting_and_its_value() -> None:
    settings = DuckdbSettings(threads=1, memory_limit="8MB")
    with pytest.raises(DatabaseMemoryError) as caught, connect(settings) as connection:
        connection.execute("select list(repeat('x', 200)) from range(1000000)").fetchall()
    message = str(caught.value)
    assert message.startswith("DuckDB ran out of memory (Out of Memory Error: ")
    assert message.endswith("); raise [duckdb] memory_limit, which is '8MB', or lower [duckdb] threads, which is 1")
    assert "\n" not in message


def test_too_little_room_for_temporary_files_names_their_disk(tmp_path: Path) -> None:
    settings = DuckdbSettings(threads=1, memory_limit="16MB")

    def sort() -> None:
        with connect(settings, tmp_path) as connection:
            connection.execute("set max_temp_directory_size = '1MB'")
            connection.sql(SORT).fetchall()

    with pytest.raises(DiskError) as caught:
        sort()
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: No space left on device for DuckDB's temporary files (the disk ")
    assert message.endswith(
        " MB left, which is too little); free some space, raise [duckdb] memory_limit (now '16MB'), or set [warehouse] "
        "path to a folder on another disk"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_query_that_fills_the_disk_names_the_folder(tmp_path: Path) -> None:
    text = 'IO Error: Could not write file "duckdb_temp.tmp": No space left on device'
    with pytest.raises(DiskError, match=f"^{tmp_path}: No space left on device"), connect(DuckdbSettings(), tmp_path):
        raise duckdb.IOException(text)


@pytest.mark.parametrize(
    "error",
    [
        duckdb.ConversionException("Conversion Error: 'Out of Memory Error' is no number: No space left on device"),
        duckdb.IOException('IO Error: Cannot open file "a.csv": Permission denied'),
        pa.ArrowInvalid("wrong: Out of Memory Error"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_of_a_query_pass(error: Exception) -> None:
    assert not is_out_of_resources(error)
    with pytest.raises(type(error)) as caught, connect(DuckdbSettings(threads=1)):
        raise error
    assert caught.value is error

"""Connections with the resources that the settings allow."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.database import connect, quoted
from booru_embed_core.settings import DuckdbSettings


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

"""What the warehouse does to folders."""

from __future__ import annotations

import os
from pathlib import Path

from booru_embed_core.filesystem import folder_bytes, set_file_modes, sync_tree


def test_a_folder_is_as_big_as_all_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "deep" / "er" / "b").write_bytes(b"123")
    assert folder_bytes(tmp_path) == 8
    assert folder_bytes(tmp_path / "missing") == 0


def test_files_that_their_owner_alone_could_read_get_the_mode(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "weights"
    file.touch(mode=0o600)
    set_file_modes(tmp_path, 0o644)
    assert os.stat(file).st_mode & 0o777 == 0o644
    sync_tree(tmp_path)

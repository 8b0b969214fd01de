"""Versions share the files that are the same in both, as second names of one file (hard links).

After a new training, ``post_embeddings`` has the same posts and the same posts of each tag as before: a third of it.
A published file is never written again, so a second name is as good as a copy, and pruning removes names only.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
from pathlib import Path
from typing import Final

from booru_embed_core.filesystem import FILE, kind_of

MIN_SHARED_BYTES: Final = 1 << 20
_SUFFIX: Final = ".shared"


def share_files(written: Path, older: Path) -> int:
    """Replaces files of the draft `written` by those of the version `older` with the same bytes; returns their bytes.

    Bytes are compared, not checksums, so that a file damaged on disk is not taken over. A file stays as it was written
    where the disk has no hard links or `older` is removed meanwhile.
    """
    filecmp.clear_cache()  # it would take files with the same size and time for compared
    shared = 0
    for file in sorted(written.rglob("*")):
        with contextlib.suppress(OSError):
            if _is_same(file, older / file.relative_to(written)):
                link = file.with_name(f"{file.name}{_SUFFIX}")
                os.link(older / file.relative_to(written), link)
                link.replace(file)
                shared += file.stat().st_size
    return shared


def _is_same(file: Path, other: Path) -> bool:
    """Whether both are regular files of at least `MIN_SHARED_BYTES` with equal bytes, and not one file already."""
    if kind_of(file) != FILE or kind_of(other) != FILE or file.stat().st_size < MIN_SHARED_BYTES:
        return False
    return not file.samefile(other) and filecmp.cmp(file, other, shallow=False)

"""The scan of a whole file."""

from __future__ import annotations

from pathlib import Path

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.readers.scan import Scan, Scanner


def scan_file(file: Path, conventions: Conventions = DANBOORU) -> Scan:
    """What is found in `file` once all of it is read."""
    scanner = Scanner(file, conventions)
    for _ in scanner.blocks():
        pass
    return scanner.scan()

"""``version.json``: what a version of a product is, what it was made from, and whether it is still that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MANIFEST: Final = "version.json"
VERSION_DIGITS: Final = 16


class WarehouseError(ValueError):
    """A product is missing or cannot be published; the message names it and the remedy in one line."""


@dataclass(frozen=True)
class Manifest:
    """The content of ``version.json``: what a version is and what it was made from.

    `inputs` maps a name (an asset, or an observed source such as ``settings/vocab``) to its version, `files` are the
    names that the version is the hash of, `created` is UTC in ISO 8601.
    """

    asset: str
    version: str
    inputs: dict[str, str]
    files: list[str]
    created: str


def content_version(folder: Path, files: Iterable[str]) -> str:
    """16 hex digits of the SHA-256 over the sorted relative names of `files` in `folder` and their bytes."""
    total = hashlib.sha256()
    for name in sorted(files):
        with (folder / name).open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        # A name is hashed to a fixed length too: no name can be mistaken for the start of a content.
        total.update(hashlib.sha256(name.encode()).digest() + content)
    return total.hexdigest()[:VERSION_DIGITS]


def read_manifest(folder: Path) -> Manifest:
    """What ``version.json`` in `folder` says.

    Raises:
        WarehouseError: it is missing or is not a manifest.
    """
    try:
        return _manifest_of(folder)
    except (OSError, ValueError, TypeError) as error:
        raise _not_a_manifest(folder, error) from None


def manifest_if_there(folder: Path) -> Manifest | None:
    """`read_manifest`, or None: observed sources have none, and another process may prune `folder` at any moment."""
    try:
        return _manifest_of(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise _not_a_manifest(folder, error) from None


def _manifest_of(folder: Path) -> Manifest:
    return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def _not_a_manifest(folder: Path, error: Exception) -> WarehouseError:
    return WarehouseError(f"{folder / MANIFEST}: not a version's manifest ({error}); remove the folder {folder}")


def is_intact(folder: Path) -> bool:
    """Whether the files of the version in `folder` are still those that it is named by."""
    try:
        manifest = read_manifest(folder)
        return content_version(folder, manifest.files) == manifest.version == folder.name
    except (WarehouseError, OSError):
        return False

"""Version manifests: ``version.json`` names a version, its inputs and its files, and shows if it is still intact."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from booru_embed_core.filesystem import file_sha256

MANIFEST: Final = "version.json"
VERSION_DIGITS: Final = 16


class WarehouseError(ValueError):
    """A product is missing or cannot be published; the message names it and the remedy in one line."""


@dataclass(frozen=True)
class Manifest:
    """The content of ``version.json``.

    Attributes:
        asset: the asset's name.
        version: the hash of `files`, as `content_version` computes it.
        inputs: the version of each input, by name: an asset, or an observed source such as ``settings/vocab``.
        files: relative names of the files that make the version.
        created: UTC in ISO 8601.
    """

    asset: str
    version: str
    inputs: dict[str, str]
    files: list[str]
    created: str


def content_version(folder: Path, files: Iterable[str]) -> str:
    """The first 16 hex digits of the SHA-256 over names and bytes of `files` in `folder`, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(files):
        content = bytes.fromhex(file_sha256(folder / name))
        # The name is hashed to a fixed length too, so that no name can be mistaken for the start of a content.
        total.update(hashlib.sha256(name.encode()).digest() + content)
    return total.hexdigest()[:VERSION_DIGITS]


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`.

    Raises:
        WarehouseError: ``version.json`` is missing or is not a manifest.
    """
    try:
        return _manifest_of(folder)
    except (OSError, ValueError, TypeError) as error:
        raise _not_a_manifest(folder, error) from None


def manifest_if_there(folder: Path) -> Manifest | None:
    """The manifest in `folder` or None: sources have no manifest, and another process may prune `folder`."""
    try:
        return _manifest_of(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise _not_a_manifest(folder, error) from None


def _manifest_of(folder: Path) -> Manifest:
    return Manifest(**json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def _not_a_manifest(folder: Path, error: Exception) -> WarehouseError:
    return WarehouseError(f"{folder / MANIFEST}: not a version manifest ({error}); remove the folder {folder}")


def is_intact(folder: Path) -> bool:
    """Whether the files of the version in `folder` still have the hash that it is named by."""
    try:
        manifest = read_manifest(folder)
        return content_version(folder, manifest.files) == manifest.version == folder.name
    except (WarehouseError, OSError):
        return False

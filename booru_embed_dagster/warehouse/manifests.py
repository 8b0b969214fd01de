"""Version manifests: ``version.json`` names a version, its inputs and its files, and shows if it is still intact."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from booru_embed_core.errors import shown
from booru_embed_core.json_files import RelativeName, SealedModel, read_json
from booru_embed_core.version_file import VERSION_DIGITS, VERSION_FILE, content_version

MANIFEST: Final = VERSION_FILE
__all__ = ["MANIFEST", "VERSION_DIGITS", "Manifest", "WarehouseError", "content_version"]


class WarehouseError(ValueError):
    """A product is missing or cannot be published; the message names it and the remedy in one line."""


class Manifest(SealedModel):
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
    files: list[RelativeName]
    created: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest in `folder`, which it names as the version's.

    Raises:
        WarehouseError: ``version.json`` is missing, is not a manifest, or is that of another version.
    """
    file = folder / MANIFEST
    remedy = f"restore it from a copy, or remove the folder {folder}"
    manifest = read_json(file, Manifest, WarehouseError, remedy)
    if manifest.version != folder.name:
        raise WarehouseError(f"{file}: is of the version {shown(manifest.version)}, not of {folder.name}; {remedy}")
    return manifest


def manifest_if_there(folder: Path) -> Manifest | None:
    """The manifest in `folder` or None: sources have no manifest, and another process may prune `folder`.

    Raises:
        WarehouseError: as `read_manifest`, unless there is none.
    """
    try:
        return read_manifest(folder)
    except WarehouseError:
        if (folder / MANIFEST).exists():
            raise
        return None


def is_intact(folder: Path) -> bool:
    """Whether the files of the version in `folder` still have the hash that it is named by."""
    try:
        manifest = read_manifest(folder)
        return content_version(folder, manifest.files) == manifest.version
    except (WarehouseError, OSError):
        return False

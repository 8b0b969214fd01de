"""``version.json`` of a version in a warehouse, as far as the library reads it; the warehouse writes it.

A version is named by the hash of its files. So the files of a product can be verified that lists no checksums itself:
a table, or a product of an older build.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Final

from pydantic import ConfigDict, Field

from booru_embed_core.errors import cannot_be_read
from booru_embed_core.filesystem import file_sha256
from booru_embed_core.json_files import JsonModel, RelativeName, read_json

VERSION_FILE: Final = "version.json"
VERSION_DIGITS: Final = 16
_MAX_SHOWN: Final = 200
"""Characters of file names in a message."""


class VersionFile(JsonModel):
    """What a product was made from, and the files that its version is the hash of."""

    model_config = ConfigDict(extra="ignore")  # the warehouse may say more

    version: Annotated[str, Field(max_length=100)]
    inputs: dict[str, str]
    files: tuple[RelativeName, ...]


def content_version(folder: Path, files: Iterable[str]) -> str:
    """The first 16 hex digits of the SHA-256 over names and bytes of `files` in `folder`, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(files):
        content = bytes.fromhex(file_sha256(folder / name))
        # The name is hashed to a fixed length too, so that no name can be mistaken for the start of a content.
        total.update(hashlib.sha256(name.encode()).digest() + content)
    return total.hexdigest()[:VERSION_DIGITS]


def read_version(folder: Path, error: type[ValueError], remedy: str) -> VersionFile | None:
    """The version in `folder`; None for a folder outside of a warehouse.

    Raises:
        error: there is a ``version.json``, but it is not one.
    """
    file = folder / VERSION_FILE
    return read_json(file, VersionFile, error, remedy) if file.exists() else None


def verify_version(file: Path, error: type[ValueError], remedy: str) -> bool:
    """Whether the version in the folder of `file` covers it; if so, all files of the version are read and compared.

    Raises:
        error: a file of the version is missing or was changed since it was published.
    """
    found = read_version(file.parent, error, remedy)
    if found is None or file.name not in found.files:
        return False
    try:
        version = content_version(file.parent, found.files)
    except OSError as fault:
        raise error(f"{fault.filename or file}: {cannot_be_read(fault, remedy)}") from None
    if version != found.version:
        others = ", ".join(name for name in found.files if name != file.name)[:_MAX_SHOWN]
        beside = f" (or another file of the version: {others})" if others else ""
        raise error(f"{file}: was changed since it was published as version {found.version}{beside}; {remedy}")
    return True

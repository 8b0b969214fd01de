"""What belongs to a folder of tables: the size and SHA-256 of each file, in ``manifest.json``.

A stage that reads such a folder looks here first: a part that is missing, foreign, cut short or changed by one bit
would otherwise be counted, or crash a native reader. What the tables hold is none of its business.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

MANIFEST_FILE: Final = "manifest.json"
FORMAT_VERSION: Final = 1
_TABLES: Final = "*.parquet"


class ManifestError(ValueError):
    """A folder is not what its manifest says; the message names the file, what is wrong and the remedy in one line."""


def write_manifest(folder: Path) -> None:
    """Writes ``manifest.json`` over all Parquet and JSON files that lie in `folder` by now; each is read once."""
    names = sorted(path.name for pattern in (_TABLES, "*.json") for path in folder.glob(pattern))
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": _sha256(folder / name)}
        for name in names
        if name != MANIFEST_FILE
    }
    text = json.dumps({"format_version": FORMAT_VERSION, "files": files}, indent=2, ensure_ascii=False) + "\n"
    (folder / MANIFEST_FILE).write_text(text, encoding="utf-8")


def check_manifest(folder: Path, product: str) -> None:
    """Nothing, when `folder` holds what ``manifest.json`` names, to the bit, and no other Parquet file.

    Other files (plots, a version's own record) are let be. Every file is read once: 0.6 CPU seconds a gigabyte.

    Raises:
        ManifestError: otherwise; the remedy is to build the `product` again.
    """
    remedy = f"build the {product} again"
    files = _listed(folder / MANIFEST_FILE, remedy)
    for extra in sorted(path.name for path in folder.glob(_TABLES) if path.name not in files):
        raise ManifestError(f"{folder / extra}: is not in {MANIFEST_FILE}, so it is none of the {product}; remove it")
    there = {path.name for path in folder.iterdir()}
    for name, entry in sorted(files.items()):
        file = folder / name
        if name not in there:
            raise ManifestError(f"{file}: is in {MANIFEST_FILE}, but there is no such file; {remedy}")
        size = file.stat().st_size
        if size != entry.get("bytes"):
            raise ManifestError(f"{file}: {size} bytes, {entry.get('bytes')} in {MANIFEST_FILE}; {remedy}")
        if _sha256(file) != entry.get("sha256"):
            raise ManifestError(f"{file}: was changed: its SHA-256 is not that in {MANIFEST_FILE}; {remedy}")


def _listed(file: Path, remedy: str) -> dict[str, dict[str, Any]]:
    """Size and hash by name, as `file` has them."""
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ManifestError(f"{file}: no such file; {remedy}") from None
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, RecursionError):
        raise ManifestError(f"{file}: is not JSON; {remedy}") from None
    if not isinstance(content, dict) or content.get("format_version") != FORMAT_VERSION:
        found = content.get("format_version") if isinstance(content, dict) else None
        raise ManifestError(f"{file}: format_version {str(found)[:20]!r} instead of {FORMAT_VERSION}; {remedy}")
    files = content.get("files")
    if not isinstance(files, dict) or not files or not all(isinstance(entry, dict) for entry in files.values()):
        raise ManifestError(f"{file}: lists no files; {remedy}")
    return files


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

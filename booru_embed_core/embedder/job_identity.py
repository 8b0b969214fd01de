"""What the vectors of a file of captions depend on, by which an interrupted job is recognised."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from booru_embed_core.embedder.caption_files import CaptionFile, Row
from booru_embed_core.embedder.captions import Caption, OnUnknown
from booru_embed_core.filesystem import file_sha256

_MODEL_SUFFIXES: Final = (".safetensors", ".onnx", ".data", ".json", ".parquet", ".npy")
_NOT_THE_MODEL: Final = ("version.json",)
_SHOWN_HASH: Final = 12


@dataclass(frozen=True)
class JobSettings:
    """What each vector depends on, beside the input's rows.

    Attributes:
        model: a hash of the checkpoint.
        input_form: how the input holds captions.
        input_hash: a hash of the input; empty if it cannot be read twice.
        column: see `CaptionFile`.
        id_column: see `CaptionFile`.
        batch_size: the rows that are embedded together; the last bits of a vector may depend on it.
        rating: as in `BooruEmbedder.embed`.
        score: as in `BooruEmbedder.embed`.
        dim: as in `BooruEmbedder.embed`.
        on_unknown: as in `BooruEmbedder.embed`.
    """

    model: str = ""
    input_form: str = ""
    input_hash: str = ""
    column: str | None = None
    id_column: str | None = None
    batch_size: int = 1024
    rating: str | None = None
    score: int | None = None
    dim: int | None = None
    on_unknown: OnUnknown = "raise"

    def identity(self) -> dict[str, Any]:
        """The settings by the words of messages."""
        return {
            "checkpoint": self.model[:_SHOWN_HASH],
            "--input-format": self.input_form,
            "input": self.input_hash[:_SHOWN_HASH],
            "--column": self.column,
            "--id-column": self.id_column,
            "--batch-size": self.batch_size,
            "--rating": self.rating and str(self.rating),
            "--score": self.score,
            "--dim": self.dim,
            "--on-unknown": str(self.on_unknown),
        }

    @staticmethod
    def differences(before: Mapping[str, Any], now: Mapping[str, Any], is_correctable: bool) -> list[str]:
        """The settings of an interrupted job that are not those of this one, with their values before.

        An input may be corrected after a row that ended the job: the rows before it are compared one by one. So may
        ``--on-unknown raise``: the rows before had no such caption.
        """
        changed = {name: before.get(name) for name in now if before.get(name) != now[name]}
        if is_correctable:
            changed.pop("input", None)
        if changed.get("--on-unknown") == "raise":
            del changed["--on-unknown"]
        named = {
            "input": "another content of the input",
            "checkpoint": f"another checkpoint ({before.get('checkpoint')})",
        }
        return [
            named.get(name) or (f"no {name}" if value is None else f"{name} {value}") for name, value in changed.items()
        ]


class Prefix:
    """A hash of the rows so far, with their ids."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        """Adds one row."""
        self._hash.update(json.dumps([row.id, _plain(row.caption)]).encode() + b"\n")

    def hexdigest(self) -> str:
        """The hash in hex."""
        return self._hash.hexdigest()


def _plain(caption: Caption) -> Any:
    return caption if isinstance(caption, str) else dict(caption) if isinstance(caption, Mapping) else list(caption)


def model_hash(checkpoint: Path) -> str:
    """A hash of the files in the folder `checkpoint` that make a model; plots, cards and logs are none of them."""
    content = hashlib.sha256()
    for file in sorted(checkpoint.iterdir()):
        if file.suffix in _MODEL_SUFFIXES and file.name not in _NOT_THE_MODEL and file.is_file():
            content.update(f"{file.name}\0{file_sha256(file)}\n".encode())
    return content.hexdigest()


def input_hash(source: CaptionFile) -> str:
    """A hash of the file of `source`; empty for standard input, which cannot be read twice."""
    return "" if source.file is None or not source.file.is_file() else file_sha256(source.file)

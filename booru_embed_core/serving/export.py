"""A checkpoint in the forms that other programs read: each export is a new folder, complete when it appears.

The same checkpoint gives the same bytes. What belongs here: which forms there are and the folder; how each is written
stands in the module that is named like it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from booru_embed_core.schema import ExportFormat
from booru_embed_core.serving.embedder import BooruEmbedder
from booru_embed_core.serving.export_card import card
from booru_embed_core.serving.export_vectors import write_parquet, write_projector, write_word2vec
from booru_embed_core.training.checkpoint import CARD_FILE, CHECKPOINT_FILES


@dataclass(frozen=True)
class Source:
    """What an export is made from."""

    checkpoint: Path
    """Folder of the checkpoint."""
    embedder: BooruEmbedder
    """The same, on the CPU in float32."""
    evaluation: Path | None = None
    """``evaluation.json`` of the checkpoint, for the card."""
    tokens: Path | None = None
    """The packed file it was trained on, whose test posts tell what a rounded network loses."""


def export(form: ExportFormat, source: Source, out_dir: Path) -> None:
    """Writes `source` as `form` into the new folder `out_dir`, which appears when it is complete.

    Raises:
        FileExistsError: `out_dir` is there already and is not an empty folder.
        ValueError: the form cannot hold this checkpoint, or the evaluation is of another one.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir}: is there already and is not an empty folder; remove it or name another one")
    parent = out_dir.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}.", dir=parent) as scratch:
        draft = Path(scratch) / "export"
        draft.mkdir()
        _WRITERS[form](source, draft)
        draft.replace(out_dir)


def write_hub(source: Source, out_dir: Path) -> None:
    """Writes a folder as the Hub shows it: the checkpoint's own files and a card that says what it is good for."""
    for name in CHECKPOINT_FILES:
        shutil.copyfile(source.checkpoint / name, out_dir / name)
    (out_dir / CARD_FILE).write_text(card(source.embedder, source.evaluation), encoding="utf-8")


_WRITERS: Final[dict[ExportFormat, Callable[[Source, Path], None]]] = {
    ExportFormat.HUB: write_hub,
    ExportFormat.PARQUET: lambda source, out_dir: write_parquet(source.embedder, out_dir),
    ExportFormat.WORD2VEC: lambda source, out_dir: write_word2vec(source.embedder, out_dir),
    ExportFormat.PROJECTOR: lambda source, out_dir: write_projector(source.embedder, out_dir),
}

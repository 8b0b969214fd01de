"""``booru-embed export``: its options, and what it finds in the checkpoint's warehouse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from booru_embed_core.cli.shared import CHECKPOINT, CheckpointOption, JsonOption, print_json
from booru_embed_core.errors import disk_errors
from booru_embed_core.schema import ExportFormat


def export(
    form: Annotated[ExportFormat, typer.Argument(help="Format to write.", metavar="FORMAT", show_choices=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder to write.", metavar="DIR")],
    checkpoint: CheckpointOption = CHECKPOINT,
    evaluation: Annotated[
        Path | None,
        typer.Option("--evaluation", help="Its evaluation.json; by default from the warehouse.", metavar="FILE"),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="Packed file to measure int8 on; by default from the warehouse.", metavar="FILE"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in a format of another program."""
    from booru_embed_core.embedder.locate import find_checkpoint
    from booru_embed_core.export.formats import CheckpointSource
    from booru_embed_core.export.formats import export as write
    from booru_embed_core.training.checkpoint_config import read_config

    folder = find_checkpoint(checkpoint)
    tokens = tokens or _tokens_of(folder, read_config(folder).packed_tokens)
    source = CheckpointSource.open(folder, evaluation or _evaluation_of(folder), tokens)
    with disk_errors(output.absolute().parent, "choose an --output on another disk"):
        write(form, source, output)
    files = {str(path): path.stat().st_size for path in sorted(output.rglob("*")) if path.is_file()}
    if as_json:
        print_json({"format": form.value, "files": files})
        return
    for name, num_bytes in files.items():
        print(f"{name}: {num_bytes:,} bytes")


def _evaluation_of(checkpoint: Path) -> Path | None:
    """The current evaluation in the warehouse of `checkpoint`, if it evaluates this checkpoint."""
    folder = checkpoint.parent.parent / "evaluation" / "current"
    file, made_from = folder / "evaluation.json", folder / "version.json"
    if not (file.exists() and made_from.exists()):
        return None
    inputs = json.loads(made_from.read_text(encoding="utf-8")).get("inputs", {})
    return file if inputs.get("checkpoint") == checkpoint.name else None


def _tokens_of(checkpoint: Path, version: str) -> Path | None:
    """The packed file that `checkpoint` was trained on, if its warehouse still holds it."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    file = checkpoint.parent.parent / "packed_tokens" / version / PACKED_FILE
    return file if file.exists() else None

"""``booru-embed export``: its options, and what it finds in the checkpoint's warehouse."""

from __future__ import annotations

import re
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from booru_embed_core.cli.shared import (
    CHECKPOINT,
    MAX_COUNT,
    CheckpointOption,
    JsonOption,
    UsageError,
    print_json,
    say,
)
from booru_embed_core.errors import disk_errors
from booru_embed_core.outputs import check_output_folder
from booru_embed_core.schema import ExportFormat
from booru_embed_core.version_file import read_version

_LICENSE: Final = re.compile(r"[a-z0-9][a-z0-9.-]*")
LightPrecision = StrEnum("LightPrecision", ["half", "int8"])


class _ManifestError(ValueError):
    """The current evaluation does not say what it was made from."""


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
        typer.Option("--tokens", help="Packed file to measure loss on; by default from the warehouse.", metavar="FILE"),
    ] = None,
    loss_posts: Annotated[
        int,
        typer.Option("--posts", min=2, max=MAX_COUNT, help="Test posts to measure loss on; more take longer."),
    ] = 1000,
    precision: Annotated[
        LightPrecision, typer.Option("--precision", help="Of the tags' vectors in the format light.")
    ] = LightPrecision.int8,
    license_id: Annotated[
        str, typer.Option("--license", help="Of the model, by its name on the Hub, for the card.", metavar="NAME")
    ] = "unknown",
    runtime: Annotated[
        Path | None,
        typer.Option("--runtime", help="onnxruntime-web for the demo: its folder or .tgz; else npm fetches it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint in a format of another program."""
    from booru_embed_core.embedder.locate import find_checkpoint
    from booru_embed_core.export.formats import CheckpointSource
    from booru_embed_core.export.formats import export as write
    from booru_embed_core.training.checkpoint_config import read_config
    from booru_embed_core.training.weights_layout import Precision

    check_output_folder(output)
    if not _LICENSE.fullmatch(license_id):
        raise UsageError(f"--license {license_id}: give the Hub's name of a licence, such as mit or cc-by-4.0.")
    folder = find_checkpoint(checkpoint)
    tokens = tokens or _tokens_of(folder, read_config(folder).packed_tokens)
    kept = Precision(precision.value)
    source = CheckpointSource.open(folder, evaluation or _evaluation_of(folder), tokens, loss_posts, kept)
    source = replace(source, license_id=license_id, runtime=runtime)
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
    file = folder / "evaluation.json"
    try:
        made_from = read_version(folder, _ManifestError, "--evaluation names another one") if file.exists() else None
    except _ManifestError as error:
        say(f"warning: the card is without figures of an evaluation: {error}")
        return None
    return file if made_from is not None and made_from.inputs.get("checkpoint") == checkpoint.name else None


def _tokens_of(checkpoint: Path, version: str) -> Path | None:
    """The packed file that `checkpoint` was trained on, if its warehouse still holds it."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    file = checkpoint.parent.parent / "packed_tokens" / version / PACKED_FILE
    return file if file.exists() else None

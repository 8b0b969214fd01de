"""``booru-embed embed``: vectors of captions, from the command line, standard input or a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from booru_embed_core.cli.shared import (
    CAPTION_HELP,
    CHECKPOINT,
    CheckpointOption,
    JsonOption,
    RatingOption,
    ScoreOption,
    UsageError,
    load_embedder,
    output_file,
    print_json,
    read_captions,
    say,
    unknown_tags_on_stderr,
)
from booru_embed_core.outputs import check_output_file

if TYPE_CHECKING:
    from booru_embed_core.embedder.caption_files import CaptionFile
    from booru_embed_core.embedder.embed_file import Counts
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.embedder.job_identity import JobSettings
    from booru_embed_core.embedder.vector_files import Block

_STDIN: Final = "-"
_CAPTION_BYTES: Final = 50
"""Of a caption in a file, on average: text has more, a compressed column fewer."""


class _InputFormat(StrEnum):
    """As in ``embedder.caption_files``, which is imported late."""

    TEXT = "text"
    JSONL = "jsonl"
    PARQUET = "parquet"


class OnUnknown(StrEnum):
    RAISE = "raise"
    ZERO = "zero"
    EMPTY = "empty"


_CaptionsArgument = Annotated[
    list[str] | None,
    typer.Argument(help=CAPTION_HELP + " Several captions give several vectors; - reads one a line from stdin."),
]
_FileOption = Annotated[
    Path | None,
    typer.Option("--file", "-f", help="Embed the captions of a .txt, .jsonl or .parquet file.", metavar="FILE"),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write a .parquet, .npy or .jsonl file; resumes an interrupted one."),
]
_FormatOption = Annotated[
    _InputFormat | None, typer.Option("--input-format", help="Form of the captions if the suffix does not tell.")
]
_ColumnOption = Annotated[
    str | None, typer.Option("--column", help="Column or key of the captions; by default caption or tags.")
]
_IdColumnOption = Annotated[
    str | None, typer.Option("--id-column", help="Column or key of the ids; by default id, or rows from 0.")
]
OnUnknownOption = Annotated[
    OnUnknown,
    typer.Option("--on-unknown", help="Captions of unknown tags alone: fail, a zero vector, or the empty caption."),
]
BatchSizeOption = Annotated[int, typer.Option("--batch-size", min=1, help="Captions embedded together.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Forget what an interrupted job has left.")]
DimOption = Annotated[
    int | None, typer.Option("--dim", min=1, help="Length of the vector: a prefix of the whole embedding.")
]


def embed(
    captions: _CaptionsArgument = None,
    file: _FileOption = None,
    output: OutputOption = None,
    input_format: _FormatOption = None,
    column: _ColumnOption = None,
    id_column: _IdColumnOption = None,
    on_unknown: OnUnknownOption = OnUnknown.RAISE,
    batch_size: BatchSizeOption = 1024,
    restart: RestartOption = False,
    checkpoint: CheckpointOption = CHECKPOINT,
    rating: RatingOption = None,
    score: ScoreOption = None,
    dim: DimOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the embedding of each caption, one unit vector per line, or write all to a file."""
    if output is not None and as_json:
        raise UsageError("--output writes a file and --json prints: give one of them.")
    is_stdin = _reads_stdin(captions or [], file)
    from booru_embed_core.embedder.job_identity import JobSettings

    settings = JobSettings(
        column=column,
        id_column=id_column,
        batch_size=batch_size,
        rating=rating and str(rating),
        score=score,
        dim=dim,
        on_unknown=on_unknown.value,
    )
    if captions and not is_stdin:
        if input_format or column or id_column or restart:
            raise UsageError("--input-format, --column, --id-column and --restart are for - and --file.")
        if output is not None:
            check_output(output)
        embedder = load_embedder(checkpoint, rating, score, dim, num_captions=len(captions))
        _embed_arguments(embedder, captions, output, settings, as_json=as_json)
        return
    if restart and output is None:
        raise UsageError("--restart is for --output, which alone is resumed.")
    source = _source(None if is_stdin else file, input_format, column, id_column)
    if output is not None:
        check_output(output, file)
    settings = replace(settings, input_form=str(source.form))
    num_captions = None if is_stdin or file is None else expected_captions(file)
    embedder = load_embedder(checkpoint, rating, score, dim, num_captions=num_captions)
    embed_source(embedder, checkpoint, source, output, settings, restart=restart, as_json=as_json)


def expected_captions(source: Path) -> int:
    """About how many captions a file or folder holds: by it alone, so that a resumed job computes as it began."""
    return sum(1 for _ in source.rglob("*")) if source.is_dir() else 1 + source.stat().st_size // _CAPTION_BYTES


def _reads_stdin(captions: list[str], file: Path | None) -> bool:
    """Whether captions come from standard input; wrong use unless they come from one place."""
    if not captions and file is None:
        raise UsageError("Name captions, - for standard input, or --file FILE.")
    if captions and (file is not None or (_STDIN in captions and captions != [_STDIN])):
        raise UsageError("Name captions, or - for standard input, or --file FILE: one of them.")
    return captions == [_STDIN] or str(file) == _STDIN


def check_output(output: Path, file: Path | None = None) -> None:
    from booru_embed_core.embedder.vector_files import vector_format

    vector_format(output)
    check_output_file(output)
    if file is not None and output.exists() and file.exists() and output.samefile(file):
        raise UsageError(f"--output {output} is the file of the captions, which it would replace; name another one.")


def _source(file: Path | None, form: _InputFormat | None, column: str | None, id_column: str | None) -> CaptionFile:
    from booru_embed_core.embedder.caption_files import CaptionFile, InputFormat, format_of

    if file is not None and not file.exists():
        raise FileNotFoundError(f"{file}: no such file; name a file of captions")
    known = format_of(file, InputFormat(form.value) if form else None)
    if known is InputFormat.TEXT and (column or id_column):
        raise UsageError("--column and --id-column are for JSON lines and Parquet; text has one caption a line.")
    return CaptionFile(file, known, column, id_column)


def embed_source(
    embedder: BooruEmbedder,
    checkpoint: Path,
    source: CaptionFile,
    output: Path | None,
    settings: JobSettings,
    *,
    restart: bool,
    as_json: bool,
) -> None:
    """Embeds `source` into `output`, or prints its vectors."""
    from booru_embed_core.embedder.embed_file import Counts, embed_file, embedded_batches
    from booru_embed_core.embedder.job_identity import input_hash, model_hash
    from booru_embed_core.embedder.locate import find_checkpoint

    dim = settings.dim or embedder.embedding_dim
    if output is not None:
        settings = replace(settings, model=model_hash(find_checkpoint(checkpoint)), input_hash=input_hash(source))
        counts = embed_file(embedder, source, output, settings, say, restart)
        say(f"{output}: float32 [{counts.num_rows}, {dim}]")
    else:
        counts = Counts()
        blocks = (block for _, block in embedded_batches(embedder, iter(source), settings, counts))
        _print_json_blocks(blocks, dim) if as_json else _print_blocks(blocks)
    _say_counts(source, counts, settings.on_unknown)


def _print_blocks(blocks: Iterable[Block]) -> None:
    for block in blocks:
        for vector in block.vectors:
            print("\t".join(f"{x:.6f}" for x in vector))


def _print_json_blocks(blocks: Iterable[Block], dim: int) -> None:
    """Prints one JSON value in bounded memory, batch by batch."""
    print(f'{{"dim": {dim}, "embeddings": [', end="")
    separator = ""
    for block in blocks:
        for row_id, unknown, vector in zip(block.ids, block.unknown, block.vectors.tolist(), strict=True):
            row = {"id": row_id, "unknown": unknown, "vector": vector}
            print(separator + json.dumps(row, ensure_ascii=False), end="")
            separator = ", "
    print("]}")


def _say_counts(source: CaptionFile, counts: Counts, on_unknown: str) -> None:
    """Tells what became of the rows, so that they add up."""
    from booru_embed_core.embedder.embed_file import num_rows

    became = {"zero": "zero vectors", "empty": "read as the empty caption"}.get(on_unknown, "")
    kinds = [f"{counts.num_known:,} with known tags", f"{counts.num_empty:,} empty"]
    if counts.num_unknown:
        kinds.append(f"{counts.num_unknown:,} of unknown tags alone ({became})")
    blank = f"; {source.num_blank:,} blank lines left out" if source.num_blank else ""
    say(f"{source.name}: {num_rows(counts.num_rows)} read: {', '.join(kinds)}{blank}")
    if counts.unknown:
        num_with = counts.num_partly + counts.num_unknown
        say(f"warning: not in the vocabulary, in {num_rows(num_with)}, such as {', '.join(counts.unknown)}")
    if counts.num_noted:
        say(f"note: read differently from their spelling: {num_rows(counts.num_noted)}, such as: {counts.notes[0]}")
    if source.unused:
        say(f"note: not read: {', '.join(source.unused)}")


def _embed_arguments(
    embedder: BooruEmbedder,
    captions: list[str],
    output: Path | None,
    settings: JobSettings,
    *,
    as_json: bool,
) -> None:
    """Embeds the `captions` of the command line at once."""
    with unknown_tags_on_stderr():
        vectors = embedder.embed(captions, settings.rating, settings.score, settings.dim, settings.on_unknown)
    read = read_captions(embedder, captions)
    if output is not None:
        from booru_embed_core.embedder.vector_files import Block, vector_format, write_vectors

        block = Block(vectors, list(range(len(captions))), [list(one.unknown) for one in read])
        with output_file(output) as partial:
            write_vectors(partial, vector_format(output), len(vectors), vectors.shape[1], [block])
        say(f"{output}: float32 {list(vectors.shape)}")
    elif as_json:
        embeddings = [
            {"caption": caption, "unknown": list(one.unknown), "notes": list(one.notes), "vector": vector}
            for caption, one, vector in zip(captions, read, vectors.tolist(), strict=True)
        ]
        print_json({"dim": vectors.shape[1], "embeddings": embeddings})
    else:
        for vector in vectors:
            print("\t".join(f"{x:.6f}" for x in vector))

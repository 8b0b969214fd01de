"""``booru-embed embed``: vectors of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import click
import typer

from booru_embed_core.cli.shared import (
    CAPTION_HELP,
    CHECKPOINT,
    CheckpointOption,
    JsonOption,
    RatingOption,
    ScoreOption,
    load_embedder,
    output_file,
    print_json,
    read_captions,
    say,
    unknown_tags_on_stderr,
)


def embed(
    captions: Annotated[list[str], typer.Argument(help=CAPTION_HELP + " Several captions give several vectors.")],
    checkpoint: CheckpointOption = CHECKPOINT,
    rating: RatingOption = None,
    score: ScoreOption = None,
    dim: Annotated[
        int | None, typer.Option(min=1, help="Length of the vector: a prefix of the whole embedding.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a .npy file instead.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the embedding of each caption: one unit vector per line."""
    if output is not None and as_json:
        raise click.UsageError("--output writes a .npy file and --json prints: give one of them.")
    import numpy as np

    embedder = load_embedder(checkpoint, rating, score, dim)
    with unknown_tags_on_stderr():
        vectors = embedder.embed(captions, rating, score, dim)
    read = read_captions(embedder, captions)
    if output is not None:
        with output_file(output) as partial, partial.open("wb") as stream:
            np.save(stream, vectors)
        say(f"{output}: float32 {list(vectors.shape)}")
    elif as_json:
        embeddings = [
            {"caption": caption, "unknown": list(one.unknown), "vector": vector}
            for caption, one, vector in zip(captions, read, vectors.tolist(), strict=True)
        ]
        print_json({"dim": vectors.shape[1], "embeddings": embeddings})
    else:
        for vector in vectors:
            print("\t".join(f"{x:.6f}" for x in vector))

"""``booru-embed embed | complete | similar``: a checkpoint asked about captions and tags."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import click
import typer

from booru_embed_core.cli.shared import (
    CHECKPOINT,
    CategoryOption,
    CheckpointOption,
    CountOption,
    JsonOption,
    output_file,
    print_json,
    print_table,
    say,
    unknown_tags_on_stderr,
)
from booru_embed_core.schema import RATINGS

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.embedder.results import Normalized

Rating = StrEnum("Rating", {rating: rating for rating in RATINGS})  # type: ignore[misc]  # choices come from the schema

RatingOption = Annotated[
    Rating | None, typer.Option("--rating", help="Rating of the image, given to the model; withheld by default.")
]
ScoreOption = Annotated[int | None, typer.Option("--score", help="Score of the image; needs --rating.")]
CAPTION_HELP: Final = 'Tags, such as "1girl, cat ears" or "1girl cat_ears".'


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

    embedder = _load(checkpoint, rating, score, dim)
    with unknown_tags_on_stderr():
        vectors = embedder.embed(captions, rating, score, dim)
    read = _read(embedder, captions)
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


def complete(
    caption: Annotated[str, typer.Argument(help=CAPTION_HELP)],
    k: CountOption = 10,
    category: CategoryOption = None,
    checkpoint: CheckpointOption = CHECKPOINT,
    rating: RatingOption = None,
    score: ScoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the most probable further tags of a caption."""
    embedder = _load(checkpoint, rating, score)
    with unknown_tags_on_stderr():
        found = embedder.complete(caption, k, category, rating, score)
    (read,) = _read(embedder, [caption])
    if as_json:
        print_json({"completions": [tag._asdict() for tag in found], "unknown": list(read.unknown)})
    else:
        print_table([(f"{tag.probability:7.2%}", tag.category.value, tag.tag) for tag in found])


def similar(
    tag: Annotated[str, typer.Argument(help="One tag.")],
    k: CountOption = 10,
    category: CategoryOption = None,
    checkpoint: CheckpointOption = CHECKPOINT,
    as_json: JsonOption = False,
) -> None:
    """Print the tags whose embeddings are nearest to that of one tag."""
    found = _load(checkpoint).similar_tags(tag, k, category)
    if as_json:
        print_json({"tag": tag, "neighbours": [neighbour._asdict() for neighbour in found]})
    else:
        print_table([(f"{one.similarity:7.4f}", one.category.value, one.tag) for one in found])


def _load(
    checkpoint: Path, rating: str | None = None, score: int | None = None, dim: int | None = None
) -> BooruEmbedder:
    """The embedder; options that contradict each other or the checkpoint end with exit code 2."""
    if score is not None and rating is None:
        raise click.BadOptionUsage("score", "--score needs --rating: scores are compared among posts of one rating.")
    from booru_embed_core.embedder.embedder import BooruEmbedder

    embedder = BooruEmbedder.load(checkpoint)
    if dim is not None and dim > embedder.embedding_dim:
        raise click.BadOptionUsage("dim", f"--dim {dim} exceeds the embedding's {embedder.embedding_dim} numbers.")
    return embedder


def _read(embedder: BooruEmbedder, captions: list[str]) -> list[Normalized]:
    """How `captions` were read; prints the notes on that on stderr."""
    read = [embedder.normalize(caption) for caption in captions]
    for note in dict.fromkeys(note for one in read for note in one.notes):
        say(f"note: {note}")
    return read

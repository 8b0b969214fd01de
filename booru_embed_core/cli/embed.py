"""``booru-embed complete | similar``: a checkpoint asked about tags."""

from __future__ import annotations

from typing import Annotated

import typer

from booru_embed_core.cli.shared import (
    CAPTION_HELP,
    CHECKPOINT,
    CategoryOption,
    CheckpointOption,
    CountOption,
    JsonOption,
    RatingOption,
    ScoreOption,
    load_embedder,
    print_json,
    print_table,
    read_captions,
    unknown_tags_on_stderr,
)


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
    embedder = load_embedder(checkpoint, rating, score)
    with unknown_tags_on_stderr():
        found = embedder.complete(caption, k, category, rating, score)
    (read,) = read_captions(embedder, [caption])
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
    found = load_embedder(checkpoint).similar_tags(tag, k, category)
    if as_json:
        print_json({"tag": tag, "neighbours": [neighbour._asdict() for neighbour in found]})
    else:
        print_table([(f"{one.similarity:7.4f}", one.category.value, one.tag) for one in found])

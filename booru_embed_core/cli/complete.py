"""``booru-embed complete | fill | similar``: a checkpoint asked about tags."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

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
    UsageError,
    load_embedder,
    print_json,
    print_table,
    read_captions,
    say,
    unknown_tags_on_stderr,
)
from booru_embed_core.embedder.results import DEFAULT_TEMPERATURE, MAX_FILL_TAGS, MAX_SEED, MAX_TEMPERATURE
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.prompts import DIALECTS

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.embedder.results import Normalized

ImpliedTags = StrEnum("ImpliedTags", ["drop", "keep"])
PromptDialect = StrEnum("PromptDialect", {name: name for name in DIALECTS})  # type: ignore[misc]  # from `prompts`

ImpliedOption = Annotated[
    ImpliedTags, typer.Option("--implied", help="Drop or keep tags that others imply, such as hat from witch_hat.")
]
BanOption = Annotated[
    list[str] | None,
    typer.Option("--ban", metavar="TAG", help="Never this tag, nor any that matches, as *_hair; repeatable."),
]


def complete(
    caption: Annotated[str, typer.Argument(help=CAPTION_HELP)],
    k: CountOption = 10,
    category: CategoryOption = None,
    checkpoint: CheckpointOption = CHECKPOINT,
    rating: RatingOption = None,
    score: ScoreOption = None,
    implied: ImpliedOption = ImpliedTags.drop,
    banned: BanOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the most probable further tags of a caption."""
    embedder = load_embedder(checkpoint, rating, score, num_captions=1)
    with unknown_tags_on_stderr():
        found = embedder.complete(caption, k, category, rating, score, _kept(implied), banned or ())
    (read,) = read_captions(embedder, [caption])
    follow = _implied(embedder, read)
    if as_json:
        completions = [tag._asdict() for tag in found]
        notes = list(read.notes)
        print_json({"completions": completions, "implied": follow, "unknown": list(read.unknown), "notes": notes})
    else:
        if follow and implied is ImpliedTags.drop:
            say(f"note: left out, since the caption implies them: {', '.join(follow)}; --implied keep offers them")
        print_table([(f"{tag.probability:7.2%}", tag.category.value, tag.tag) for tag in found])


def fill(
    caption: Annotated[str, typer.Argument(help=CAPTION_HELP)],
    n: Annotated[int, typer.Option("-n", min=0, max=MAX_FILL_TAGS, help="How many; 0 writes the prompt.")] = 20,
    temperature: Annotated[
        float, typer.Option(min=0, max=MAX_TEMPERATURE, help="Of the draws; 0 takes the most probable tag each time.")
    ] = DEFAULT_TEMPERATURE,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="The same one, the same tags.")] = 0,
    category: Annotated[
        list[Category] | None, typer.Option("--category", help="Add only tags of this category; repeatable.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="CATEGORY=N", help="The most tags to add of a category; repeatable."),
    ] = None,
    checkpoint: CheckpointOption = CHECKPOINT,
    rating: RatingOption = None,
    score: ScoreOption = None,
    implied: ImpliedOption = ImpliedTags.drop,
    banned: BanOption = None,
    dialect: Annotated[PromptDialect, typer.Option(help="Program that the prompt is for.")] = PromptDialect("a1111"),
    as_json: JsonOption = False,
) -> None:
    """Print a caption with further tags drawn for it, as a prompt."""
    limits = _limits(limit or [])
    embedder = load_embedder(checkpoint, rating, score, num_captions=1)
    with unknown_tags_on_stderr():
        found = embedder.fill(
            caption, n, temperature, seed, category or None, limits, rating, score, _kept(implied), banned or ()
        )
    prompt, notes = found.prompt(dialect.value), found.prompt_notes(dialect.value)
    if as_json:
        tags = [tag._asdict() for tag in found.tags]
        print_json({"prompt": prompt, "tags": tags, "unknown": list(found.unknown), "notes": list(notes)})
        return
    for note in notes:
        say(f"note: {note}")
    print(prompt)


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


def _kept(implied: ImpliedTags) -> Literal["drop", "keep"]:
    return "drop" if implied is ImpliedTags.drop else "keep"


def _limits(given: list[str]) -> dict[Category, int]:
    """The limits of ``category=n``; anything else ends with exit code 2."""
    limits: dict[Category, int] = {}
    for one in given:
        name, _, number = one.partition("=")
        if name not in [category.value for category in CATEGORIES] or not number.isdecimal():
            raise UsageError(f"--limit {one}: give a category and a number, such as artist=0.")
        limits[Category(name)] = int(number)
    return limits


def _implied(embedder: BooruEmbedder, read: Normalized) -> list[str]:
    """The tags that the caption implies and does not have."""
    _, sets = embedder.read_caption(read.caption)
    return [embedder.vocab.tags[tag] for tag in embedder.next_tags.implied_by(sets.tags)]

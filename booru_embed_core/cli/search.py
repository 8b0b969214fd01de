"""``booru-embed search | index | duplicates``: posts by their embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from booru_embed_core.cli.shared import (
    CHECKPOINT,
    MAX_COUNT,
    MAX_SCORE,
    PACKED_TOKENS,
    POST_EMBEDDINGS,
    JsonOption,
    PackedOption,
    UsageError,
    output_file,
    packed_file,
    print_json,
    print_table,
    say,
    unknown_tags_on_stderr,
)
from booru_embed_core.outputs import check_output_file
from booru_embed_core.schema import Category

if TYPE_CHECKING:
    from booru_embed_core.embedder.results import Neighbour
    from booru_embed_core.search.post_search import FoundPost

_SHOWN_TAGS: Final = 12
_SHOWN_FIRST: Final = (Category.CHARACTER, Category.COPYRIGHT, Category.ARTIST, Category.GENERAL, Category.META)
"""Order in which a post's tags are printed: what tells posts apart comes first."""

CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", "-c", help="Checkpoint that embedded the posts.", metavar="DIR")
]
PostsOption = Annotated[Path, typer.Option("--posts", "-p", help="Folder of `booru-embed index`.", metavar="DIR")]


def search(
    query: Annotated[
        str,
        typer.Argument(
            help='Tags, such as "1girl, cat ears"; -tag, ~tag, *_ears, ( a or b ), rating:g, score:>10, order:score; '
            '"hatsune_miku - twintails + short_hair" with signs between spaces; id:123 for posts like that one.'
        ),
    ],
    k: Annotated[int, typer.Option("-k", min=1, max=MAX_COUNT, help="How many posts, or tags with --tags.")] = 20,
    required: Annotated[
        list[str] | None, typer.Option("--with", help="Only posts with this tag; may be repeated.", metavar="TAG")
    ] = None,
    excluded: Annotated[
        list[str] | None, typer.Option("--without", help="Only posts without this tag; may be repeated.", metavar="TAG")
    ] = None,
    ratings: Annotated[
        list[str] | None,
        typer.Option("--rating", help="Only posts of this rating; may be repeated.", metavar="g|s|q|e"),
    ] = None,
    min_score: Annotated[
        int | None,
        typer.Option("--min-score", min=-MAX_SCORE, max=MAX_SCORE, help="Only posts with at least this score."),
    ] = None,
    by: Annotated[
        str,
        typer.Option(
            "--by", help="Rank by how many of the tags a post has, or by the cosine alone.", metavar="tags|embedding"
        ),
    ] = "tags",
    tags: Annotated[bool, typer.Option("--tags", help="Print the nearest tags instead of posts.")] = False,
    checkpoint: CheckpointOption = CHECKPOINT,
    posts: PostsOption = POST_EMBEDDINGS,
    as_json: JsonOption = False,
) -> None:
    """Print the posts that have most of the query's tags, the nearest first, among those that pass the filters."""
    if tags and (required or excluded or ratings or min_score is not None or by != "tags"):
        raise UsageError("--tags prints tags; --with, --without, --rating, --min-score and --by choose posts.")
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.search.parser import parse_query
    from booru_embed_core.search.post_search import RANKINGS, PostSearch

    if by not in RANKINGS:
        raise UsageError(f"--by {by} is not one of {', '.join(RANKINGS)}.")
    searched, embedder = PostSearch.open(posts), BooruEmbedder.load(checkpoint)
    parsed = parse_query(query, embedder.tokenizer)
    for note in parsed.notes:
        say(f"note: {note}")
    read = {"unknown": list(parsed.unknown()), "notes": list(parsed.notes)}
    if tags:
        with unknown_tags_on_stderr():
            near = searched.near_tags(embedder, parsed, k)
        named = [searched.post(embedder, post_id) for post_id in parsed.post_ids]
        _print_tags(near, named, read, as_json)
        return
    with unknown_tags_on_stderr():
        found = searched.search(embedder, parsed, k, ratings, min_score, required or (), excluded or (), by)
    _print_posts(found, read, as_json)
    if len(found) < k:
        say(f"{len(found):,} of {searched.num_posts:,} posts pass the filters; leave one out for more")


def index(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the vectors and the index.", metavar="DIR")],
    checkpoint: CheckpointOption = CHECKPOINT,
    packed: PackedOption = PACKED_TOKENS,
    as_json: JsonOption = False,
) -> None:
    """Embed all posts of a packed file and index them for `search`; resumes after an interruption."""

    from booru_embed_core.errors import disk_errors
    from booru_embed_core.search.build import make_search_folder

    with disk_errors(out.absolute().parent, "choose an --out on another disk"):
        metadata = make_search_folder(checkpoint, packed_file(packed), out, log=say)
    if as_json:
        print_json(metadata.model_dump(mode="json", exclude={"checksum"}))
    else:
        print(f"{out}: {metadata.num_posts:,} posts, recall@10 {metadata.recall:.3f}")


def duplicates(
    above: Annotated[float, typer.Option("--above", min=0, max=1, help="Minimal cosine of two posts, 0 to 1.")] = 0.99,
    k: Annotated[int, typer.Option("-k", min=1, max=MAX_COUNT, help="How many groups to print.")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all groups to this .parquet or .csv file instead.")
    ] = None,
    posts: PostsOption = POST_EMBEDDINGS,
    as_json: JsonOption = False,
) -> None:
    """Print groups of posts with nearly the same embedding, largest first; --json prints all groups."""
    if output is not None and (as_json or output.suffix not in (".parquet", ".csv")):
        raise UsageError("--output writes a .parquet or .csv file and --json prints: give one of them.")
    if output is not None:
        check_output_file(output)
    from booru_embed_core.search.near_duplicates import near_duplicates
    from booru_embed_core.search.post_search import PostSearch

    found = near_duplicates(PostSearch.open(posts), above, say)
    if output is not None:
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pq

        with output_file(output) as partial:
            pa_csv.write_csv(found, partial) if output.suffix == ".csv" else pq.write_table(found, partial)
        say(f"{output}: {found.num_rows:,} posts")
        return
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in found.to_pylist():
        groups.setdefault(row.pop("group"), []).append(row)
    for rows in groups.values():
        for row in rows:
            del row["num_posts"]
    if as_json:
        print_json({"num_groups": len(groups), "num_posts": found.num_rows, "groups": list(groups.values())})
        return
    print(f"{found.num_rows:,} posts in {len(groups):,} groups")
    largest = sorted(groups.values(), key=len, reverse=True)
    print_table([(f"{len(rows):,}", " ".join(str(row["post_id"]) for row in rows)) for rows in largest[:k]])


def _print_tags(near: list[Neighbour], named: list[FoundPost], read: dict[str, list[str]], as_json: bool) -> None:
    """Prints the tags of the posts that the query names, then the nearest tags."""
    if as_json:
        posts, tags = [_as_json(post) for post in named], [one._asdict() for one in near]
        print_json({"posts": posts, "tags": tags, **read})
        return
    for post in named:
        print(" ".join(tag.tag for tag in post.tags) + "\n")
    print_table([(f"{one.similarity:7.4f}", one.category.value, one.tag) for one in near])


def _print_posts(found: list[FoundPost], read: dict[str, list[str]], as_json: bool) -> None:
    """Prints the posts that were found."""
    if as_json:
        print_json({"posts": [_as_json(post) for post in found], **read})
    else:
        print_table([(f"{post.similarity:7.4f}", *_cells(post)) for post in found])


def _cells(post: FoundPost) -> tuple[str, ...]:
    ranked = sorted(post.tags, key=lambda tag: _SHOWN_FIRST.index(tag.category))
    tags = " ".join(tag.tag for tag in ranked[:_SHOWN_TAGS])
    more = f" and {len(post.tags) - _SHOWN_TAGS} more" if len(post.tags) > _SHOWN_TAGS else ""
    return f"{post.post_id}", post.rating, f"{post.score}", ",".join(post.matched) or "-", tags + more


def _as_json(post: FoundPost) -> dict[str, Any]:
    return {**post._asdict(), "tags": [tag._asdict() for tag in post.tags]}

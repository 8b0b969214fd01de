"""``booru-embed search | index | duplicates``: posts by what they show.

What belongs here: options and printing.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import click
import typer

from booru_embed_core.cli.shared import WAREHOUSE, JsonOption, print_json, print_table
from booru_embed_core.schema import Category

if TYPE_CHECKING:
    import pyarrow as pa

    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.search.post_search import FoundPost, PostSearch

_SHOWN_TAGS: Final = 12
_SHOWN_FIRST: Final = (Category.CHARACTER, Category.COPYRIGHT, Category.ARTIST, Category.GENERAL, Category.META)
"""What tells posts apart."""

CheckpointOption = Annotated[
    Path, typer.Option("--checkpoint", "-c", help="Folder of the checkpoint that embedded the posts.", metavar="DIR")
]
PostsOption = Annotated[Path, typer.Option("--posts", "-p", help="Folder of `booru-embed index`.", metavar="DIR")]


def search(
    query: Annotated[
        str,
        typer.Argument(
            help='Tags, as "1girl, cat ears"; "hatsune_miku - twintails + short_hair" with signs between spaces; '
            "rating:g; id:123 for a post's own embedding."
        ),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="How many posts, or tags.")] = 20,
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
    min_score: Annotated[int | None, typer.Option("--min-score", help="Only posts of this score or more.")] = None,
    tags: Annotated[bool, typer.Option("--tags", help="Print the nearest tags instead of posts.")] = False,
    checkpoint: CheckpointOption = WAREHOUSE / "checkpoint/current",
    posts: PostsOption = WAREHOUSE / "post_embeddings/current",
    as_json: JsonOption = False,
) -> None:
    """Print the posts whose embeddings are nearest to the query's, of those that pass the filters."""
    if tags and (required or excluded or ratings or min_score is not None):
        raise click.UsageError("--tags prints tags, and --with, --without, --rating and --min-score choose posts.")
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.search.post_search import PostSearch
    from booru_embed_core.search.query import parse_query

    searched, embedder = PostSearch.open(posts), BooruEmbedder.load(checkpoint)
    parsed = parse_query(query)
    unknown = [tag for _, term in parsed.terms for tag in embedder.tokenizer.encode(term).unknown]
    with _warnings_on_stderr():
        if tags:
            _print_tags(searched, embedder, query, k, unknown, as_json)
            return
        found = searched.search(embedder, query, k, ratings, min_score, required or (), excluded or ())
    if as_json:
        print_json({"posts": [_as_json(post) for post in found], "unknown": unknown})
    else:
        print_table([(f"{post.similarity:7.4f}", *_cells(post)) for post in found])
    if len(found) < k:
        _say(f"{len(found):,} of {searched.num_posts:,} posts pass the filters; leave one out for more")


def index(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the vectors and the index.", metavar="DIR")],
    checkpoint: CheckpointOption = WAREHOUSE / "checkpoint/current",
    packed: Annotated[Path, typer.Option("--packed", help="A packed file, or its folder.")] = WAREHOUSE
    / "packed_tokens/current/tokens.safetensors",
    as_json: JsonOption = False,
) -> None:
    """Embed all posts of a packed file and index them for `search`; goes on where it was interrupted."""
    from dataclasses import asdict

    from booru_embed_core.search.build import make_search_folder
    from booru_embed_core.tokens.packed_file import PACKED_FILE

    file = packed / PACKED_FILE if packed.is_dir() else packed
    facts = make_search_folder(checkpoint, file, out, log=_say)
    if as_json:
        print_json(asdict(facts))
    else:
        print(f"{out}: {facts.num_posts:,} posts, recall@10 {facts.recall:.3f}")


def duplicates(
    above: Annotated[float, typer.Option("--above", help="Least cosine of two posts, 0 to 1.")] = 0.99,
    k: Annotated[int, typer.Option("-k", min=1, help="How many groups to print.")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write all of them to this .parquet or .csv file instead.")
    ] = None,
    posts: PostsOption = WAREHOUSE / "post_embeddings/current",
    as_json: JsonOption = False,
) -> None:
    """Print groups of posts whose embeddings are nearly the same, the largest first; --json prints all of them."""
    if output is not None and (as_json or output.suffix not in (".parquet", ".csv")):
        raise click.UsageError("--output names a .parquet or a .csv file, and --json prints: give one of them.")
    from booru_embed_core.search.near_duplicates import near_duplicates
    from booru_embed_core.search.post_search import PostSearch

    found = near_duplicates(PostSearch.open(posts), above, _say)
    if output is not None:
        _write(found, output)
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


def _print_tags(
    searched: PostSearch, embedder: BooruEmbedder, query: str, k: int, unknown: list[str], as_json: bool
) -> None:
    """Prints the nearest tags of `query`, after the posts that it names."""
    from booru_embed_core.search.query import parse_query

    found = searched.near_tags(embedder, query, k)
    named = [searched.post(embedder, post_id) for post_id in parse_query(query).post_ids]
    if as_json:
        tags = [tag._asdict() for tag in found]
        print_json({"posts": [_as_json(post) for post in named], "tags": tags, "unknown": unknown})
        return
    for post in named:
        print(" ".join(tag.tag for tag in post.tags))
        print()
    print_table([(f"{one.similarity:7.4f}", one.category.value, one.tag) for one in found])


def _cells(post: FoundPost) -> tuple[str, ...]:
    ranked = sorted(post.tags, key=lambda tag: _SHOWN_FIRST.index(tag.category))
    tags = " ".join(tag.tag for tag in ranked[:_SHOWN_TAGS])
    more = f" and {len(post.tags) - _SHOWN_TAGS} more" if len(post.tags) > _SHOWN_TAGS else ""
    return f"{post.post_id}", post.rating, f"{post.score}", tags + more


def _as_json(post: FoundPost) -> dict[str, Any]:
    return {**post._asdict(), "tags": [tag._asdict() for tag in post.tags]}


def _write(found: pa.Table, output: Path) -> None:
    import pyarrow.csv as pa_csv
    import pyarrow.parquet as pq

    if not output.parent.is_dir():
        raise FileNotFoundError(f"{output.parent}: no such folder, for --output {output.name}; create it first")
    partial = output.with_name(output.name + ".partial")
    if output.suffix == ".csv":
        pa_csv.write_csv(found, partial)
    else:
        pq.write_table(found, partial)
    partial.replace(output)
    _say(f"{output}: {found.num_rows:,} posts")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Unknown tags are named on stderr in one line each."""
    from booru_embed_core.embedder.embedder import UnknownTagsWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownTagsWarning)
        yield
    for warning in dict.fromkeys(str(warning.message) for warning in caught):
        _say(f"warning: {warning}")

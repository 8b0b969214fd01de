"""``booru-embed ingest``: its options, named like the keys of ``[posts]``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import click
import typer

from booru_embed_core.cli.shared import JsonOption, print_json
from booru_embed_core.schema import RATINGS, Output


def ingest(
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the posts.", metavar="DIR")],
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files, globs or folders of an export.", metavar="SOURCE...")
    ] = None,
    bigquery: Annotated[
        str | None,
        typer.Option("--bigquery", help="Read this BigQuery table instead, project.dataset.table.", metavar="TABLE"),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="Google Cloud project that reads the table and is billed.")
    ] = None,
    to: Annotated[Output, typer.Option("--to", help="Parquet parts, or one text file.")] = Output.PARQUET,
    ratings: Annotated[
        str, typer.Option("--ratings", help="Keep posts of these ratings, such as g,s.", metavar="LIST")
    ] = ",".join(RATINGS),
    min_score: Annotated[
        int | None, typer.Option("--min-score", min=-(2**31), max=2**31 - 1, help="Keep posts of this score or more.")
    ] = None,
    aliases: Annotated[
        Path | None, typer.Option("--aliases", help="Table of tag aliases; old names are replaced.", metavar="FILE")
    ] = None,
    tag_categories: Annotated[
        Path | None,
        typer.Option("--tag-categories", help="Table of tags, for files with only tag_string.", metavar="FILE"),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many posts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Read an export, set invalid rows aside, and write each post once."""
    from booru_embed_core.posts.ingest import ingest as ingest_export
    from booru_embed_core.settings import DuckdbSettings, PostsSettings

    if bool(sources) == bool(bigquery):
        raise click.UsageError("Name either an export by SOURCE... or a table by --bigquery.")
    if project is not None and bigquery is None:
        raise click.UsageError("--project needs --bigquery.")
    unknown = sorted(set(ratings.split(",")) - set(RATINGS))
    if unknown:
        raise click.UsageError(f"--ratings {ratings}: {unknown[0]!r} is not one of {', '.join(RATINGS)}.")
    export = {"export": sources} if sources else {"bigquery_table": bigquery, "bigquery_project": project}
    settings = PostsSettings.model_validate(
        {
            **export,
            "ratings": ratings.split(","),
            "min_score": min_score,
            "limit_posts": limit,
            "aliases": aliases,
            "tag_categories": tag_categories,
        }
    )
    report = ingest_export(settings, out, to, DuckdbSettings())
    if as_json:
        print_json(json.loads(report.to_json()))
    else:
        print(f"{out}: {report.summary}")

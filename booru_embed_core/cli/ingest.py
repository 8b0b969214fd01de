"""``booru-embed ingest``: its options, named like keys of ``[posts]``, and the settings file that holds the others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from booru_embed_core.cli.explanation import print_explanation
from booru_embed_core.cli.shared import JsonOption, UsageError, print_json, say
from booru_embed_core.errors import disk_errors
from booru_embed_core.schema import RATINGS, Output

if TYPE_CHECKING:
    from booru_embed_core.settings import DuckdbSettings, PostsSettings

_OPTIONS: Final = {
    "[posts] export": "SOURCE",
    "[posts] aliases": "--aliases",
    "[posts] tag_categories": "--tag-categories",
    "[posts] tag_separator": "--tag-separator",
    "[posts] preset": "--preset",
}
"""The keys of the settings that the command line has too."""

_EXPORT_KEYS: Final = ("export", "bigquery_table", "bigquery_project")
_NUM_SHOWN_LEFT_OUT: Final = 5

_SettingsOption = Annotated[
    Path | None, typer.Option("--settings", help="Settings file; options override its [posts].", metavar="FILE")
]
_PresetOption = Annotated[
    str | None, typer.Option("--preset", help="What a site or tool calls things, such as e621-api.", metavar="NAME")
]
_SeparatorOption = Annotated[
    str | None,
    typer.Option("--tag-separator", help="What separates tags: ' ', ',', ';', '|', list or auto.", metavar="TEXT"),
]


def ingest(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Files, globs or folders of an export.", metavar="SOURCE...")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="New folder for the posts.", metavar="DIR")] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Write nothing; tell what would be read as what, and the settings for it.")
    ] = False,
    settings_file: _SettingsOption = None,
    preset: _PresetOption = None,
    tag_separator: _SeparatorOption = None,
    bigquery: Annotated[
        str | None,
        typer.Option("--bigquery", help="Read this BigQuery table instead, project.dataset.table.", metavar="TABLE"),
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help="Google Cloud project that reads the table and is billed.")
    ] = None,
    to: Annotated[Output, typer.Option("--to", help="Parquet parts, or one text file.")] = Output.PARQUET,
    ratings: Annotated[
        str | None,
        typer.Option("--ratings", help="Keep posts of these ratings, such as g,s; by default all.", metavar="LIST"),
    ] = None,
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
    if (out is None) != explain:
        raise UsageError("Name either --out DIR for the posts, or --explain to write nothing.")
    if sources and bigquery:
        raise UsageError("Name either an export by SOURCE... or a table by --bigquery.")
    chosen = _chosen(
        settings_file,
        exports={"export": sources or None, "bigquery_table": bigquery, "bigquery_project": project},
        source={
            "preset": preset,
            "tag_separator": tag_separator,
            "aliases": aliases,
            "tag_categories": tag_categories,
        },
        others={"ratings": _ratings(ratings), "min_score": min_score, "limit_posts": limit},
    )
    with _remedies(chosen.file):
        if out is None:
            _explain(chosen, as_json)
        else:
            _ingest(chosen, out, to, as_json)


@dataclass(frozen=True)
class _Chosen:
    """What to read: the settings of the command line and of the settings file, if there is one."""

    posts: PostsSettings
    duckdb: DuckdbSettings
    root: Path
    """The folder that relative paths start from."""
    file: Path | None


def _chosen(
    settings_file: Path | None, exports: dict[str, Any], source: dict[str, Any], others: dict[str, Any]
) -> _Chosen:
    """The settings by the options, by their keys; None for those that are not given."""
    from pydantic import ValidationError

    from booru_embed_core.settings import SETTINGS_VARIABLE, PostsSettings, Settings, load_settings

    named = settings_file or os.environ.get(SETTINGS_VARIABLE)
    file = Path(named) if named else None
    settings = load_settings(file) if file else Settings()
    exports, source, others = (_given(values) for values in (exports, source, others))
    if settings.posts.source and (exports or source):
        raise UsageError(
            f"{file} has [[posts.source]], which set exports, tables, presets and separators. Set them there, or leave "
            "the settings file out."
        )
    from_file = settings.posts.given
    replaces_export = bool({"export", "bigquery_table"} & exports.keys())
    if replaces_export:
        from_file = {key: value for key, value in from_file.items() if key not in _EXPORT_KEYS}
    values = {**from_file, **exports, **source, **others}
    if not ({"export", "bigquery_table"} & values.keys() or settings.posts.source):
        raise UsageError("Name an export by SOURCE..., a table by --bigquery, or either by --settings.")
    if "bigquery_project" in values and "bigquery_table" not in values:
        raise UsageError("--project needs --bigquery.")
    root = Path() if replaces_export else settings.root
    for key in ("aliases", "implications", "tag_categories"):
        if key in values:
            # Those of the file start from its folder, those of the command line from the working directory.
            start = settings.root if key not in source else Path()
            values[key] = start / values[key] if start == root else (start / values[key]).absolute()
    try:
        posts = PostsSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key, problem = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        option = _OPTIONS.get(f"[posts] {key}", "")
        raise UsageError(f"{option} {first['input']!r}: {problem}." if option else f"{problem}.") from None
    return _Chosen(posts, settings.duckdb, root, file)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _ratings(ratings: str | None) -> list[str] | None:
    if ratings is None:
        return None
    unknown = sorted(set(ratings.split(",")) - set(RATINGS))
    if unknown:
        raise UsageError(f"--ratings {ratings}: {unknown[0]!r} is not one of {', '.join(RATINGS)}.")
    return ratings.split(",")


@contextmanager
def _remedies(file: Path | None) -> Iterator[None]:
    """Lets errors of the export tell how their remedies are taken: by an option, or in a settings file."""
    from booru_embed_core.posts.database import DatabaseMemoryError
    from booru_embed_core.posts.validation import ExportError

    try:
        yield
    except ExportError as error:
        text = str(error)
        for key, option in _OPTIONS.items() if file is None else ():
            text = text.replace(key, option)
        if any(word in text for word in ("[posts", "[[posts", "max_rejected_share")):
            text += f" (in {file})" if file else " ([posts] stands in a file for --settings)"
        raise ExportError(text) from error
    except DatabaseMemoryError as error:
        where = f"in {file}" if file else "[duckdb] stands in a file for --settings"
        raise DatabaseMemoryError(f"{error} ({where})") from error


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _NUM_SHOWN_LEFT_OUT
    return f"{', '.join(names[:_NUM_SHOWN_LEFT_OUT])}{f' and {more:,} more' if more > 0 else ''}"


def _ingest(chosen: _Chosen, out: Path, to: Output, as_json: bool) -> None:
    from booru_embed_core.posts.ingest import ingest as ingest_export

    with disk_errors(out.absolute().parent, "choose an --out on another disk"):
        report = ingest_export(chosen.posts, out, to, chosen.duckdb, chosen.root, say)
    if report.left_out:
        say(f"left out, since they hold no posts: {_shown(report.left_out)}")
    for overlap in report.overlaps:
        say(f"warning: {overlap}")
    if as_json:
        print_json(json.loads(report.to_json()))
    else:
        print(f"{out}: {report.summary}")


def _explain(chosen: _Chosen, as_json: bool) -> None:
    from booru_embed_core.posts.explain import explain

    explanation = explain(chosen.posts, chosen.root, chosen.duckdb)
    if as_json:
        print_json(asdict(explanation))
        return
    for before, file in zip((None, *explanation.files), explanation.files, strict=False):
        print_explanation(file, before)
    if explanation.num_more_files:
        print(f"{explanation.num_more_files:,} more files are not looked at\n")
    if explanation.left_out:
        print(f"left out, since they hold no posts: {_shown(explanation.left_out)}\n")
    if not explanation.is_complete:
        print("# not enough yet: see what is refused above")
    print(explanation.settings, end="")

"""What the pipeline reads but does not make: the export's files and the sections of the settings.

Each is an observable source whose data version is a hash of its content, so that Dagster can tell what a change
touches. Annotations are evaluated here (no ``from __future__ import annotations``): Dagster reads them.
"""

import functools
import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dagster as dg

from booru_embed_core.posts.export import bigquery_state
from booru_embed_core.posts.files import expand_export
from booru_embed_core.settings import OBSERVED_SECTIONS, Settings, section_version
from booru_embed_dagster.resources import Pipeline, one_line_errors

if TYPE_CHECKING:
    from booru_embed_core.posts.bigquery import TableState

# Observable sources are beta in Dagster 1.13 and say so at each import.
warnings.filterwarnings("ignore", category=dg.BetaWarning, message=".*observable_source_asset.*")

POSTS_EXPORT: Final = "posts_export"


@dataclass(frozen=True)
class ExportFile:
    """A file of the export: its name relative to the settings file, its size, and its content's SHA-256."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Observation:
    """The files that decide the posts and, where the export is a table, its state."""

    files: tuple[ExportFile, ...]
    table: "TableState | None" = None

    @property
    def version(self) -> str:
        """16 hex digits that change when a file is added, removed, renamed or changed, or the table is."""
        lines = "".join(f"{file.name}\0{file.num_bytes}\0{file.sha256}\n" for file in self.files)
        if self.table is not None:
            lines += f"{self.table.table}\0{self.table.last_modified}\0{self.table.num_rows}\0table\n"
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, dg.MetadataValue | str | int]:
        """The same for Dagster's UI."""
        records = [dg.TableRecord({"file": f.name, "bytes": f.num_bytes, "sha256": f.sha256}) for f in self.files]
        shown: dict[str, dg.MetadataValue | str | int] = {
            # Dagster takes the columns from the first record, and wants to be told when there is none.
            "files": dg.MetadataValue.table(records, schema=None if records else dg.TableSchema([])),
            "size_bytes": sum(f.num_bytes for f in self.files),
        }
        return shown if self.table is None else shown | asdict(self.table)


def settings_key(section: str) -> dg.AssetKey:
    """The asset key of a section of the settings: ``settings/<section>``."""
    return dg.AssetKey(["settings", section])


def observed_files(settings: Settings) -> list[Path]:
    """The export's files, where it is files, and the tables of tags that are named: what decides the posts.

    Raises:
        ExportError: one of them is missing.
    """
    export = settings.posts.export if settings.posts.bigquery_table is None else ()
    return expand_export((*export, *map(str, settings.tag_tables)), settings.root)


def observe_export(settings: Settings) -> Observation:
    """What the posts would be made from now.

    Raises:
        ExportError: a file is missing, or the table cannot be looked at.
    """
    manifest = export_manifest(observed_files(settings), settings.root)
    table = settings.posts.bigquery_table
    state = None if table is None else bigquery_state(table, settings.posts.bigquery_project)
    return Observation(tuple(manifest), state)


def export_manifest(files: Sequence[Path], root: Path) -> list[ExportFile]:
    """What `files` hold, in their order; a file is read again only when its size or time of change differs."""
    stats = [(file, file.stat()) for file in files]
    return [
        ExportFile(os.path.relpath(file, root), stat.st_size, _sha256(file, stat.st_size, stat.st_mtime_ns))
        for file, stat in stats
    ]


@dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # Dagster's own lack
    specs=[
        dg.AssetSpec(
            POSTS_EXPORT,
            group_name="posts",
            kinds={"csv"},
            description="The Danbooru export that settings.toml names, the files of `[posts] export` or the table "
            "`[posts] bigquery_table`, and the tables of tags beside it. Its data version changes when a file is "
            "added, removed or changed, or the table is.",
        )
    ]
)
@one_line_errors
def posts_export(pipeline: Pipeline) -> dg.ObserveResult:
    """Hashes the export's files; asks BigQuery when its table was changed, and how many rows it has."""
    observed = observe_export(pipeline.settings)
    return dg.ObserveResult(
        asset_key=POSTS_EXPORT, data_version=dg.DataVersion(observed.version), metadata=observed.metadata
    )


@dg.multi_observable_source_asset(  # type: ignore[untyped-decorator]  # Dagster's own lack
    specs=[
        dg.AssetSpec(
            settings_key(section),
            group_name="settings",
            kinds={"toml"},
            description=f"The section `[{section}]` of settings.toml. Its data version changes when one of its values "
            "does, and what is made from it is then out of date.",
        )
        for section in OBSERVED_SECTIONS
    ],
    can_subset=True,
)
def settings_sections(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Iterator[dg.ObserveResult]:
    """Hashes each section that is asked for."""
    yield from _observe_sections(pipeline, sorted(context.selected_asset_keys))


@one_line_errors
def _observe_sections(pipeline: Pipeline, keys: Sequence[dg.AssetKey]) -> list[dg.ObserveResult]:
    results = []
    for key in keys:
        section = getattr(pipeline.settings, key.path[-1])
        version = dg.DataVersion(section_version(section))
        values = dg.MetadataValue.json(section.model_dump(mode="json"))
        results.append(dg.ObserveResult(asset_key=key, data_version=version, metadata={"values": values}))
    return results


@functools.lru_cache(maxsize=1024)
def _sha256(file: Path, _num_bytes: int, _changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""The sources of the pipeline, which is the export and the sections of the settings, and their versions.

A source's version is a hash of its content. It is recorded in Dagster's instance as an observation, so that Dagster can
tell which assets a change makes stale. The observable sources (``assets/sources.py``), the sensors (``sensors.py``) and
the start of every run (``resources.py``) record the same observation.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dagster as dg

from booru_embed_core.errors import disk_errors
from booru_embed_core.filesystem import file_sha256
from booru_embed_core.posts.export_files import expand_export, files_in
from booru_embed_core.posts.read_export import bigquery_state
from booru_embed_core.settings import OBSERVED_SECTIONS, Settings, section_version

if TYPE_CHECKING:
    from booru_embed_core.posts.bigquery import TableState

POSTS_EXPORT: Final = "posts_export"
DATA_VERSION_TAG: Final = "dagster/data_version"
"""The tag of an event that holds its data version."""
_IS_OURS_TAG: Final = "dagster/data_version_is_user_provided"
TABLE_REASON: Final = "the export is a table in BigQuery; turn on the schedule refresh_from_bigquery"
WRITING_REASON: Final = "a file of the export has just changed and may still be being written"
_SETTLED_SECONDS: Final = 5.0


@dataclass(frozen=True)
class ExportFile:
    """A file of the export, or a folder that is one export: name relative to the settings file, size, and SHA-256.

    The hash of a folder is one of the names and contents of its files.
    """

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Observation:
    """The files that decide the posts, and the state of the tables among the exports."""

    files: tuple[ExportFile, ...]
    tables: tuple[TableState, ...] = ()

    @property
    def version(self) -> str:
        """16 hex digits that change when a file is added, removed, renamed or changed, or the table is."""
        lines = "".join(f"{file.name}\0{file.num_bytes}\0{file.sha256}\n" for file in self.files)
        for table in self.tables:
            lines += f"{table.table}\0{table.last_modified}\0{table.num_rows}\0table\n"
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, dg.MetadataValue | str | int]:
        """The observation as metadata for Dagster's UI."""
        records = [dg.TableRecord({"file": f.name, "bytes": f.num_bytes, "sha256": f.sha256}) for f in self.files]
        shown: dict[str, dg.MetadataValue | str | int] = {
            # Dagster takes the columns from the first record; without records it needs a schema.
            "files": dg.MetadataValue.table(records, schema=None if records else dg.TableSchema([])),
            "num_files": len(self.files),
            "size_bytes": sum(f.num_bytes for f in self.files),
        }
        if len(self.tables) == 1:
            return shown | asdict(self.tables[0])
        return shown | {table.table: f"{table.num_rows} rows, {table.last_modified}" for table in self.tables}


@dataclass(frozen=True)
class ObservedSource:
    """A source as observed: its key, its version, and the metadata that the UI shows."""

    key: dg.AssetKey
    version: str
    metadata: dict[str, dg.MetadataValue | str | int]

    @property
    def event(self) -> dg.AssetObservation:
        """The observation as an event, for sensors and for the instance."""
        tags = {DATA_VERSION_TAG: self.version, _IS_OURS_TAG: "true"}
        return dg.AssetObservation(self.key, metadata=self.metadata, tags=tags)

    @property
    def result(self) -> dg.ObserveResult:
        """The observation as the result of an observable source."""
        return dg.ObserveResult(
            asset_key=self.key, data_version=dg.DataVersion(self.version), metadata=dict(self.metadata)
        )


def settings_key(section: str) -> dg.AssetKey:
    """The asset key of a section of the settings: ``settings/<section>``."""
    return dg.AssetKey(["settings", section])


def settings_sources(settings: Settings) -> list[ObservedSource]:
    """The sections of `settings` that assets are made from."""
    sources = []
    for name in OBSERVED_SECTIONS:
        section = getattr(settings, name)
        values = dg.MetadataValue.json(section.model_dump(mode="json"))
        sources.append(ObservedSource(settings_key(name), section_version(section), {"values": values}))
    return sources


def export_source(observed: Observation) -> ObservedSource:
    """The export as `observed`."""
    return ObservedSource(dg.AssetKey(POSTS_EXPORT), observed.version, observed.metadata)


def unrecorded(instance: dg.DagsterInstance, sources: Iterable[ObservedSource]) -> list[ObservedSource]:
    """The `sources` whose version differs from the one that `instance` recorded last."""
    return [source for source in sources if recorded_version(instance, source.key) != source.version]


def recorded_version(instance: dg.DagsterInstance, key: dg.AssetKey) -> str | None:
    """The version of the source `key` that `instance` recorded last; None before the first observation."""
    for record in instance.fetch_observations(key, limit=1).records:
        if observation := record.asset_observation:
            return observation.data_version
    return None


def observed_paths(settings: Settings) -> list[Path]:
    """What decides the posts: files and folders of the export, unless it is a table, and the tables of tags.

    Raises:
        ExportError: one of them is missing.
    """
    patterns = [name for one in settings.posts.sources if one.bigquery_table is None for name in one.export]
    return expand_export((*patterns, *map(str, settings.tag_tables)), settings.root)


def is_being_written(settings: Settings) -> bool:
    """Whether a file of the export changed within the last seconds, so that more may follow.

    Raises:
        ExportError: a file is missing.
    """
    files = (file for path in observed_paths(settings) for file in files_in(path))
    youngest = max((file.stat().st_mtime for file in files), default=0.0)
    return 0 <= time.time() - youngest < _SETTLED_SECONDS


def observe_export(settings: Settings) -> Observation:
    """The current state of what the posts are made from.

    Raises:
        ExportError: a file is missing, or the table cannot be read.
    """
    files = hash_paths(observed_paths(settings), settings.root)
    tables = [(one.bigquery_table, one.bigquery_project) for one in settings.posts.sources]
    states = [bigquery_state(table, project) for table, project in tables if table is not None]
    return Observation(tuple(files), tuple(states))


def hash_paths(paths: Sequence[Path], root: Path) -> list[ExportFile]:
    """Names, sizes and hashes of `paths`, in order; a file is read again only when its size or mtime differs."""
    return [_of_folder(path, root) if path.is_dir() else _of_file(path, root) for path in paths]


def _of_file(file: Path, root: Path) -> ExportFile:
    stat = file.stat()
    return ExportFile(os.path.relpath(file, root), stat.st_size, _sha256(file, stat.st_size, stat.st_mtime_ns))


def _of_folder(folder: Path, root: Path) -> ExportFile:
    """One entry for all files: a data set of captions has a hundred thousand."""
    listing = hashlib.sha256()
    num_bytes = 0
    for file in files_in(folder):
        stat = file.stat()
        num_bytes += stat.st_size
        listing.update(os.fsencode(file.relative_to(folder)) + f"\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return ExportFile(os.path.relpath(folder, root), num_bytes, _folder_sha256(folder, listing.hexdigest()))


@functools.lru_cache(maxsize=1024)
def _sha256(file: Path, _num_bytes: int, _changed_ns: int) -> str:
    with disk_errors(file):
        return file_sha256(file)


@functools.lru_cache(maxsize=64)
def _folder_sha256(folder: Path, _listing: str) -> str:
    content = hashlib.sha256()
    for file in files_in(folder):
        with disk_errors(file):
            content.update(os.fsencode(file.relative_to(folder)) + b"\0" + bytes.fromhex(file_sha256(file)))
    return content.hexdigest()

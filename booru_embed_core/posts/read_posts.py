"""Reads files of an export into the ``posts`` table: Parquet parts in export order.

Parsing is up to the ``readers``. Records with invalid values and posts of an id that was read before leave the stream
here. A file with such records is read once more, for their raw text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import duckdb

from booru_embed_core.errors import disk_errors
from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.checksums import write_checksums
from booru_embed_core.posts.containers import called, unpacked
from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.database import ELSEWHERE, connect
from booru_embed_core.posts.export_files import file_labels
from booru_embed_core.posts.identity import check_sites
from booru_embed_core.posts.implications import write_implications
from booru_embed_core.posts.parquet_parts import PostsWriter, SeenIds
from booru_embed_core.posts.progress import Progress, silent
from booru_embed_core.posts.read_file import FileReading, Reading
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.rejects import REJECTS_FILE, RejectsWriter
from booru_embed_core.posts.report import REPORT_FILE, PostsReport
from booru_embed_core.posts.row_status import RowStatus, row_status
from booru_embed_core.posts.sources import Source, conventions_of
from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.tag_fields import canonical_fields
from booru_embed_core.posts.validation import ColumnsError, ExportError, TooManyRejectsError
from booru_embed_core.settings import DuckdbSettings, PostsSettings, SourceSettings


def read_posts(
    files: Sequence[Path],
    out_dir: Path,
    settings: PostsSettings,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
    aliases: Aliases | None = None,
    tag_categories: TagCategories | None = None,
) -> PostsReport:
    """The report on `files` of one source, whose posts are written to `out_dir`; see `read_sources`."""
    (source,) = settings.sources
    conventions = Conventions.of(source)
    one = Source(files, conventions, source.site, aliases or Aliases({}), tag_categories)
    return read_sources([one], out_dir, settings, duckdb_settings, temp_dir)


def read_sources(
    sources: Sequence[Source],
    out_dir: Path,
    settings: PostsSettings,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
    left_out: Sequence[Path] = (),
    say: Callable[[str], object] = silent,
) -> PostsReport:
    """The report on the files of `sources`, whose posts are written to `out_dir` as Parquet parts.

    With them come ``rejects.parquet``, ``report.json`` and ``manifest.json``, ``paths.parquet`` where posts are files,
    and ``implications.parquet`` where a table has some. Parts hold `POSTS_SCHEMA` in export order. The first of several
    posts with one id on one site is kept, and a tag that is twice in a field is kept once. The bytes depend on the
    export alone, not on threads or memory. `say` is told what is being read.

    Raises:
        ExportError: a file has a wrong header or cannot be read, or there is no record at all.
        TooManyRejectsError: more than ``max_rejected_share`` of the records are invalid; names the first reasons.
    """
    sites = check_sites(source.site for source in sources)
    labels = file_labels([*(file for source in sources for file in source.files), *left_out])
    # Posts wait in the writer, so their old names are replaced there only if all have the same table.
    at_once = sources[0].aliases if len(sources) == 1 else Aliases({})
    state = Reading(settings, out_dir, PostsWriter(out_dir, at_once), RejectsWriter(out_dir / REJECTS_FILE))
    state.progress = Progress(say)
    state.left_out.extend(labels[file] for file in left_out)
    with ExitStack() as unless_done, disk_errors(out_dir, ELSEWHERE):
        unless_done.callback(state.remove_files)
        with (
            scratch_folder(temp_dir) as scratch,
            connect(duckdb_settings, scratch) as connection,
            state.parquet_parts,
            state.rejects,
            state.paths,
        ):
            for source, file in [(one, file) for one in sources for file in one.files]:
                if state.room == 0:
                    break
                _read_file(file, labels[file], source, state, connection, duckdb_settings, scratch)
        if state.others and not state.counts:
            raise state.others[0]
        report = PostsReport.of(
            state.counts,
            num_aliases=state.num_aliases + state.parquet_parts.num_aliases,
            num_repeats=state.parquet_parts.num_repeats,
            num_unknown_tags=state.num_unknown_tags,
            num_split_tags=state.num_split_tags,
            num_null_words=state.num_null_words,
            sites=sites,
            left_out=tuple(state.left_out),
            left_out_rows=dict(sum((source.left_out_rows for source in sources), Counter[str]())),
        )
        _accept(report, state.reasons, settings)
        write_implications([source.implications for source in sources], out_dir)
        unless_done.pop_all()
        (out_dir / REPORT_FILE).write_text(report.to_json(), encoding="utf-8")
        write_checksums(out_dir)
    return report


def count_wanted(
    files: Sequence[Path],
    settings: PostsSettings,
    source: SourceSettings,
    duckdb_settings: DuckdbSettings,
    temp_dir: Path | None = None,
) -> int:
    """How many posts of the `files` of `source` would be kept without ``limit_posts``; nothing is written.

    Raises:
        ExportError: a file lacks a column or cannot be read.
    """
    seen = SeenIds()
    num_wanted = 0
    with scratch_folder(temp_dir) as scratch, connect(duckdb_settings, scratch) as connection:
        for file in files:
            conventions = conventions_of(file, Conventions.of(source), duckdb_settings, scratch)
            for raw in open_reader(file, conventions).batches(connection, scratch):
                batch, _ = canonical_fields(raw, conventions)
                num_wanted += int((row_status(batch, settings, seen) == RowStatus.KEPT).sum())
    return num_wanted


def _read_file(
    file: Path,
    label: str,
    source: Source,
    state: Reading,
    connection: duckdb.DuckDBPyConnection,
    duckdb_settings: DuckdbSettings,
    scratch: Path,
) -> None:
    """Reads `file`, or the files in it; one that was found in a folder or an archive may hold no posts."""
    with closing(unpacked(file, label, scratch, state.left_out)) as parts:
        for path, part_label in parts:
            try:
                with called(part_label, path, file):
                    conventions = conventions_of(path, source.conventions, duckdb_settings, scratch)
                    reading = FileReading(path, part_label, source, conventions, state)
                    state.counts.append(reading.run(connection, scratch))
            except ColumnsError as error:
                if error.holds_posts or (path == file and file not in source.searched):
                    raise
                state.others.append(error)
                state.left_out.append(part_label)
            if state.room == 0:
                return


def _accept(report: PostsReport, reasons: Sequence[str], settings: PostsSettings) -> None:
    """Raises where the export holds no post, or too many of its records are rejected."""
    if report.num_read == 0:
        names = ", ".join(counts.file for counts in report.files)
        raise ExportError(f"{names}: the export holds no post; export the posts again")
    share = report.num_rejected / report.num_read
    if share > settings.max_rejected_share:
        raise TooManyRejectsError(
            f"{report.num_rejected} of {report.num_read} records ({share:.2%}) are invalid, more than "
            f"max_rejected_share = {settings.max_rejected_share:g} allows; correct the export or raise it; first: "
            + "; ".join(reasons)
        )
    assert report.reconciles, report

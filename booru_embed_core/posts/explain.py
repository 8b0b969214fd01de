"""What would be read of an export as what, from the first records of its files, and the settings that make it explicit.

Nothing is written. It works on exports that are refused too: then the settings are a proposal, with which the first
records can be read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts import proposals
from booru_embed_core.posts.containers import called, unpacked
from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.export_files import ExportFiles, file_labels, find_export
from booru_embed_core.posts.file_sample import FileExplanation, FileSample
from booru_embed_core.posts.proposals import Comments, Values
from booru_embed_core.posts.tag_fields import ALWAYS_NULL
from booru_embed_core.posts.validation import ColumnsError, ExportError, has_all_tags
from booru_embed_core.schema import ALL_TAGS_COLUMN
from booru_embed_core.settings import DuckdbSettings, PostsSettings, SourceSettings
from booru_embed_core.settings.presets import with_preset
from booru_embed_core.settings.toml_text import toml_table

MAX_FILES: Final = 20
_MAX_PROPOSALS: Final = 6


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What would be read of an export.

    Attributes:
        files: the first `MAX_FILES` files.
        num_more_files: how many more there are; members of an archive count where they are reached.
        left_out: files that hold no posts.
        settings: sections of settings in TOML that say all of this.
        is_complete: whether the first records of the files can be read with them.
    """

    files: tuple[FileExplanation, ...]
    num_more_files: int
    left_out: tuple[str, ...]
    settings: str
    is_complete: bool


def explain(
    settings: PostsSettings, root: Path, duckdb_settings: DuckdbSettings, temp_dir: Path | None = None
) -> Explanation:
    """What would be read of the export of `settings`, whose relative paths start from `root`.

    Raises:
        ExportError: there is no file, none holds posts, or the export is a BigQuery table.
    """
    if any(source.bigquery_table for source in settings.sources):
        raise ExportError("a BigQuery table has Danbooru's columns and needs no explanation; name files instead")
    exports = [find_export(source.export, root) for source in settings.sources]
    others = sorted({path for export in exports for path in export.left_out})
    labels = file_labels([*(file for export in exports for file in export.files), *others])
    left_out = [labels[path] for path in others]
    sources = []
    room = MAX_FILES
    common = {key: value for key, value in settings.given.items() if key != "source"}
    for given, export in zip([source.given for source in settings.source] or [common], exports, strict=True):
        with scratch_folder(temp_dir) as scratch:
            explained = _Source(given, common, settings, duckdb_settings, scratch, left_out)
            explained.read(export, labels, room)
        room -= len(explained.files)
        sources.append(explained)
    problems = [error for one in sources for error in one.others]
    if problems and not any(one.files for one in sources):
        raise problems[0]
    name, is_item = ("posts.source", True) if settings.source else ("posts", False)
    sections = [toml_table(name, one.explicit(), one.comments, is_item=is_item) for one in sources]
    head = [toml_table("posts", common, {}, is_item=False)] if is_item and common else []
    return Explanation(
        files=tuple(file for one in sources for file in one.files),
        num_more_files=sum(one.num_more for one in sources),
        left_out=tuple(left_out),
        settings="\n".join([*head, *sections]),
        is_complete=all(one.is_complete for one in sources),
    )


class _Source:
    """A source on its way to an explanation."""

    def __init__(
        self,
        given: Values,
        common: Values,
        settings: PostsSettings,
        duckdb_settings: DuckdbSettings,
        scratch: Path,
        left_out: list[str],
    ) -> None:
        self.given = given
        self.values = {key: one for key, one in {**common, **given}.items() if key in SourceSettings.model_fields}
        self.added: Values = {}
        self.comments: Comments = {("export",): "paths start from the folder of this file"}
        self.files: list[FileExplanation] = []
        self.num_more = 0
        self.others: list[ColumnsError] = []
        self.is_complete = True
        self._settings = settings
        self._duckdb = duckdb_settings
        self._scratch = scratch
        self._left_out = left_out

    def read(self, export: ExportFiles, labels: Mapping[Path, str], room: int) -> None:
        """Explains the first files of `export`, at most `room`."""
        for number, file in enumerate(export.files):
            if len(self.files) >= room:
                self.num_more = len(export.files) - number
                return
            try:
                with closing(unpacked(file, labels[file], self._scratch, self._left_out)) as parts:
                    for path, label in itertools.islice(parts, room - len(self.files)):
                        is_searched = path != file or file in export.searched
                        with called(label, path, file):
                            self._explain(path, label, is_searched=is_searched)
            except ExportError as error:
                self.files.append(FileExplanation(file=labels[file], refused=str(error)))
                self.is_complete = False

    def explicit(self) -> Values:
        """The values of a settings file that makes explicit what was found."""
        values = proposals.merged(self.given, self.added)
        read = [file for file in self.files if file.kind]
        for key, found in (
            ("tag_separator", {file.tag_separator for file in read if file.tag_separator}),
            ("null_words", {file.null_words for file in read if file.null_words != (ALWAYS_NULL,)}),
        ):
            # Spaces stay unsaid: said, they would allow tags with commas.
            if len(found) == 1 and key not in self.values and not found & {" ", "auto", ()}:
                values[key] = found.pop()
        # Names with dots are found by themselves, and some readers join several of them.
        named = [
            {(name, own) for name, own in one.columns.items() if name != own and "." not in own}
            for one in read
            if len(set(one.columns.values())) == len(one.columns)
        ]
        if common := set.intersection(*named) if named and len(named) == len(read) else set():
            values["columns"] = {**dict(sorted(common)), **values.get("columns", {})}
        return values

    @property
    def _conventions(self) -> Conventions:
        return Conventions.of(_source(proposals.merged(self.values, self.added)))

    def _explain(self, path: Path, label: str, *, is_searched: bool) -> None:
        refused: str | None = None
        sample: FileSample | None = None
        for _ in range(_MAX_PROPOSALS):
            try:
                sample = FileSample.of(path, self._conventions, self._settings, self._duckdb, self._scratch)
                problem, more, comments = self._problem(path, sample)
            except ColumnsError as error:
                if is_searched and not error.holds_posts:
                    self._left_out.append(label)
                    self.others.append(error)
                    return
                problem = str(error)
                more, comments = proposals.of_error(problem)
                if not more:
                    given = proposals.merged(self.values, self.added)
                    more, comments = proposals.of_columns(error, given, self._conventions)
            except ExportError as error:
                problem = str(error)
                more, comments = proposals.of_error(problem)
            refused = refused or problem
            if problem is None or not self._add(more, comments):
                break
        if problem is not None and problem != refused:
            refused = f"{refused}; with these settings then: {problem}"
        self.is_complete &= problem is None
        explanation = FileExplanation(file=label, refused=refused)
        self.files.append(explanation if sample is None else sample.explanation(label, refused))

    def _problem(self, path: Path, sample: FileSample) -> tuple[str | None, Values, Comments]:
        """Why ``ingest`` would refuse the file of `sample`, and what would help."""
        given = proposals.merged(self.values, self.added)
        # Captions have columns of categories too, so that without a table their tags count as general.
        if has_all_tags(sample.raw.schema.names) and given.get("tag_categories") is None:
            column = sample.columns.get(ALL_TAGS_COLUMN, ALL_TAGS_COLUMN)
            self.added.get("columns", {}).pop(ALL_TAGS_COLUMN, None)  # a guess that another one is to replace
            problem = (
                f"{path}: has {column} and no column of a category; set [posts] tag_categories to a table of tags and "
                "their categories"
            )
            return problem, *(proposals.without_categories(column, given) if sample.columns else ({}, {}))
        share = sample.num_rejected / max(1, sample.num_records)
        if not sample.num_records or share <= self._settings.max_rejected_share:
            return None, {}, {}
        texts = list(dict.fromkeys(reason for _, reason in sample.problems))
        problem = f"{sample.num_rejected} of the first {sample.num_records} records are invalid: {'; '.join(texts[:3])}"
        return problem, *proposals.of_reasons(texts, given)

    def _add(self, more: Values, comments: Comments) -> bool:
        """Adds to the proposal; whether anything in it is new."""
        added = proposals.merged(self.added, more)
        try:
            _source(proposals.merged(self.values, added))
        except ValidationError:
            return False
        is_new = added != self.added
        self.added = added
        self.comments = {**comments, **self.comments}
        return is_new


def _source(values: Values) -> SourceSettings:
    return SourceSettings.model_validate(with_preset(values.get("preset"), values))

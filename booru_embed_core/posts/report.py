"""What became of every record of an export: the counts that ``report.json`` holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import RootModel

from booru_embed_core.json_files import parse_json, read_text

REPORT_FILE: Final = "report.json"
_REMEDY: Final = "ingest the posts again"
MAX_SHARE_OF_OTHER_FILES: Final = 0.01
"""More posts of a file with ids of another file's posts are a sign of two sites: files of one site rarely overlap."""


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """Counts of one file's records; the header and blank lines are none."""

    file: str
    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int
    num_filtered: int = 0
    num_duplicate_of_other_files: int = 0
    """How many of `num_duplicate` have the id of a post in an earlier file."""
    tag_separator: str = " "
    """What separates the tags of a field; ``list`` for a printed list."""
    null_words: tuple[str, ...] = ()
    """The words that were read as nothing where they are a whole field of tags."""
    other_namespaces: Mapping[str, int] = field(default_factory=dict)
    """How many tags have each namespace, as in ``title:something``, that has no category; it stays part of the tag."""


@dataclass(frozen=True, kw_only=True)
class PostsReport:
    """Counts of all records. ``num_read`` is counted from the bytes, the rest from what the parser gave.

    Attributes:
        num_read: records; with ``limit_posts`` up to the one that fills the limit.
        num_kept: posts that were written.
        num_duplicate: posts whose id an earlier post has.
        num_rejected: malformed records, and records with an invalid value.
        num_filtered: valid posts that the settings or their flags leave out.
        num_aliases: tags of kept posts that stood under an old name.
        num_repeats: tags of kept posts that were dropped, because the post has them already.
        num_unknown_tags: where ``tag_string`` was split by category, tags of all records that are not in the table of
            categories; they count as general.
        num_split_tags: tags of all records in such fields.
        num_null_words: fields of tags that hold a word for nothing, such as ``\\N``.
        sites: the number of each site of ``[[posts.source]]``, which stands in the ids above their lowest 50 bits.
        left_out: files in folders and archives that hold no posts.
        left_out_rows: rows of the tables of tags that are no tags or no active aliases, by what they are.
        files: the counts of each file, in the order of reading.
    """

    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int
    num_filtered: int = 0
    num_aliases: int = 0
    num_repeats: int = 0
    num_unknown_tags: int = 0
    num_split_tags: int = 0
    num_null_words: int = 0
    sites: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    left_out_rows: dict[str, int] = field(default_factory=dict)
    files: tuple[FileCounts, ...]

    @property
    def reconciles(self) -> bool:
        """Whether read = kept + duplicate + rejected + filtered, in every file and in all."""
        names = ("num_kept", "num_duplicate", "num_rejected", "num_filtered")
        sums = {name: sum(getattr(counts, name) for counts in self.files) for name in ("num_read", *names)}
        return all(getattr(self, name) == value for name, value in sums.items()) and all(
            counts.num_read == sum(getattr(counts, name) for name in names) for counts in self.files
        )

    @property
    def summary(self) -> str:
        """The counts in one line; unknown tags only where there are some."""
        unknown = f", {self.num_unknown_tags:,} uses of unknown tags" if self.num_unknown_tags else ""
        return (
            f"{self.num_read:,} posts read, {self.num_kept:,} kept, {self.num_duplicate:,} duplicate, "
            f"{self.num_rejected:,} rejected, {self.num_filtered:,} filtered{unknown}"
        )

    @property
    def overlaps(self) -> list[str]:
        """A warning for each file of whose posts more than 1% have the id of a post in an earlier file."""
        return [
            f"{counts.file}: {counts.num_duplicate_of_other_files:,} of {counts.num_read:,} posts have the id of a "
            "post in an earlier file and were left out; if the files are of different sites, name each site in a "
            "[[posts.source]]"
            for counts in self.files
            if counts.num_duplicate_of_other_files > MAX_SHARE_OF_OTHER_FILES * counts.num_read
        ]

    def to_json(self) -> str:
        """The report as JSON text, with the same bytes for the same counts."""
        return json.dumps({**asdict(self), "reconciles": self.reconciles}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def of(cls, files: Sequence[FileCounts], **others: Any) -> PostsReport:
        """The report on `files`, whose counts are added up, with the `others` of its attributes."""
        names = ("num_read", "num_kept", "num_duplicate", "num_rejected", "num_filtered")
        sums = {name: sum(getattr(counts, name) for counts in files) for name in names}
        return cls(**sums, **others, files=tuple(files))

    @classmethod
    def from_json(cls, text: str, where: str = REPORT_FILE) -> PostsReport:
        """The report that `to_json` wrote.

        Raises:
            ValueError: `text` is no report; the message begins with `where`.
        """
        return parse_json(text, _ReportFile, where, ValueError, _REMEDY).root

    @classmethod
    def read(cls, file: Path) -> PostsReport:
        """The report in `file`.

        Raises:
            ValueError: it is missing, damaged, or no report.
        """
        return cls.from_json(read_text(file, ValueError, _REMEDY), str(file))


class _ReportFile(RootModel[PostsReport]):
    """The content of ``report.json``."""

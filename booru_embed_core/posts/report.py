"""What became of every record of an export: the counts that ``report.json`` holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

REPORT_FILE: Final = "report.json"


@dataclass(frozen=True, kw_only=True)
class FileCounts:
    """Counts of one file's records; the header and blank lines are none."""

    file: str
    num_read: int
    num_kept: int
    num_duplicate: int
    num_rejected: int
    num_filtered: int = 0


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

    def to_json(self) -> str:
        """The report as JSON text, with the same bytes for the same counts."""
        return json.dumps({**asdict(self), "reconciles": self.reconciles}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def of(
        cls, files: Sequence[FileCounts], *, num_aliases: int, num_repeats: int, num_unknown_tags: int
    ) -> PostsReport:
        """The report on `files`, whose counts are added up."""
        return cls(
            num_read=sum(counts.num_read for counts in files),
            num_kept=sum(counts.num_kept for counts in files),
            num_duplicate=sum(counts.num_duplicate for counts in files),
            num_rejected=sum(counts.num_rejected for counts in files),
            num_filtered=sum(counts.num_filtered for counts in files),
            num_aliases=num_aliases,
            num_repeats=num_repeats,
            num_unknown_tags=num_unknown_tags,
            files=tuple(files),
        )

    @classmethod
    def from_json(cls, text: str) -> PostsReport:
        """The report that `to_json` wrote."""
        values = json.loads(text)
        values.pop("reconciles")
        files = tuple(FileCounts(**counts) for counts in values.pop("files"))
        return cls(**values, files=files)

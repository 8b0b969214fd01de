"""The sources of the posts: files of one site, with what they call things and their tables of tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import pyarrow as pa

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.conventions import Conventions
from booru_embed_core.posts.database import connect
from booru_embed_core.posts.implications import TagImplications
from booru_embed_core.posts.readers.registry import open_reader
from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.tag_fields import SAMPLE_RECORDS, settled
from booru_embed_core.schema import Category
from booru_embed_core.settings import DuckdbSettings, PostsSettings, SourceSettings


@dataclass(frozen=True)
class Source:
    """Files of one site.

    Attributes:
        files: the files, in the order of reading.
        conventions: what they call things.
        site: the site's name, where posts of several sites are read.
        aliases: old names of tags.
        tag_categories: the category of each tag, for files with all tags in one field.
        implications: tags that follow from others, by the site's table.
        searched: those of `files` that were found in a folder; they are left out where they hold no posts.
    """

    files: Sequence[Path]
    conventions: Conventions
    site: str | None = None
    aliases: Aliases = field(default_factory=lambda: Aliases({}))
    tag_categories: TagCategories | None = None
    implications: TagImplications = field(default_factory=TagImplications)
    searched: Collection[Path] = ()

    @property
    def left_out_rows(self) -> Counter[str]:
        """Numbers of rows of its tables that are no tags or do not count, by what they are; one table may be both."""
        categories = {} if self.tag_categories is None else self.tag_categories.left_out
        return (Counter(self.aliases.left_out) | Counter(categories)) + Counter(self.implications.left_out)

    @classmethod
    def load(cls, files: Sequence[Path], settings: SourceSettings, root: Path, searched: Collection[Path] = ()) -> Self:
        """The source of `files` by its `settings`, with its tables of tags, whose paths start from `root`.

        Raises:
            ExportError: a table of tags cannot be read.
        """
        numbers, entities = settings.category_numbers, settings.html_entities
        categories, aliases = None, Aliases({})
        if settings.tag_categories is not None:
            categories = TagCategories.load(root / settings.tag_categories, numbers, html_entities=entities)
        if settings.aliases is not None:
            aliases = Aliases.load(root / settings.aliases, numbers, categories, html_entities=entities)
        implications = TagImplications()
        if settings.implications is not None:
            implications = TagImplications.load(root / settings.implications, aliases, html_entities=entities)
        return cls(files, Conventions.of(settings), settings.site, aliases, categories, implications, searched)


def load_aliases(settings: PostsSettings, root: Path) -> dict[Category, dict[str, str]]:
    """By category, the tag of each old name in the tables of all sources; where two disagree, the first one's.

    Raises:
        ExportError: a table of tags cannot be read.
    """
    merged: dict[Category, dict[str, str]] = {}
    for source in settings.sources:
        if source.aliases is not None:
            for category, names in Source.load([], source, root).aliases.tag_of.items():
                merged[category] = {**names, **merged.get(category, {})}
    return merged


def first_records(file: Path, conventions: Conventions, duckdb_settings: DuckdbSettings, scratch: Path) -> pa.Table:
    """The first `SAMPLE_RECORDS` of `file`, as its reader gives them, or fewer.

    Raises:
        ExportError: see `open_reader`.
    """
    # A connection of its own, since a stream that is left early blocks the one that it comes from.
    with scratch_folder(scratch) as folder, connect(duckdb_settings, folder) as connection:
        reader = open_reader(file, conventions, ends_early=True)
        records: list[pa.RecordBatch] = []
        with closing(reader.batches(connection, folder)) as batches:
            for batch in batches:
                records.append(batch)
                if sum(map(len, records)) >= SAMPLE_RECORDS:
                    break
        return pa.Table.from_batches(records).slice(0, SAMPLE_RECORDS) if records else pa.table({})


def conventions_of(file: Path, conventions: Conventions, duckdb_settings: DuckdbSettings, scratch: Path) -> Conventions:
    """`conventions` with what they leave open found out from the first records of `file`.

    Raises:
        ExportError: see `open_reader`.
    """
    if conventions.is_settled:
        return conventions
    return settled(first_records(file, conventions, duckdb_settings, scratch), conventions)

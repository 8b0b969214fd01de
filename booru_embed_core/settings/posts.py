"""``[posts]``: the export, what it calls things, and which of its posts are kept."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from booru_embed_core.errors import shortened, shown
from booru_embed_core.schema import RATINGS, Category
from booru_embed_core.settings.base import (
    MAX_ENTRIES,
    Name,
    PathValue,
    Pattern,
    PositiveInt,
    Section,
    Share,
    Switch,
    Text,
)
from booru_embed_core.settings.presets import PresetName, with_preset

_SITE: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


def _column(name: str) -> str:
    if '"' in name:
        raise ValueError('holds a ", which no column may')
    return name


def _site(name: str) -> str:
    if not _SITE.fullmatch(name):
        raise ValueError("should be a name of a-z, 0-9, point, hyphen and underscore, such as 'e621'")
    return name


ColumnName = Annotated[Text, AfterValidator(_column)]
Words: TypeAlias = Annotated[tuple[Text, ...], Field(max_length=MAX_ENTRIES)]
Rating: TypeAlias = Literal["g", "s", "q", "e"]
Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31, strict=True)]


class PostColumns(Section):
    """The export's name for each column; a column that is named here must exist, and ``""`` says that there is none.

    A name with dots is a path into nested values, such as ``flags.deleted``.
    """

    id: ColumnName = "id"
    rating: ColumnName = "rating"
    score: ColumnName = "score"
    tag_string: ColumnName = "tag_string"
    tag_string_general: ColumnName = "tag_string_general"
    tag_string_artist: ColumnName = "tag_string_artist"
    tag_string_copyright: ColumnName = "tag_string_copyright"
    tag_string_character: ColumnName = "tag_string_character"
    tag_string_meta: ColumnName = "tag_string_meta"
    is_deleted: ColumnName = "is_deleted"
    is_banned: ColumnName = "is_banned"
    is_flagged: ColumnName = "is_flagged"

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = [name for name in self.model_dump(exclude_unset=True).values() if name]
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"column {shown(twice)} is named twice; name each column once")
        return self


class TrueValues(Section):
    """For each flag, the values that mean true; all others mean false."""

    is_deleted: Words | None = None
    is_banned: Words | None = None
    is_flagged: Words | None = None


class SourceSettings(Section):
    """An export, and what it calls things.

    An export is files, globs or folders, relative to the settings file, or a BigQuery table,
    ``project.dataset.table``. `bigquery_project` reads the table and is billed. `table` is the one with the posts in
    an SQLite database.
    """

    site: Annotated[Text, AfterValidator(_site)] | None = None
    preset: PresetName | None = None
    export: Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=MAX_ENTRIES)] = ("data/sample/*.csv.gz",)
    bigquery_table: Name | None = None
    bigquery_project: Name | None = None
    table: Name | None = None
    aliases: PathValue | None = None
    implications: PathValue | None = None
    tag_categories: PathValue | None = None
    columns: PostColumns = PostColumns()
    rating_names: dict[Text, Rating] = Field(default_factory=dict, max_length=MAX_ENTRIES)
    category_numbers: dict[Text, Category] = Field(default_factory=dict, max_length=MAX_ENTRIES)
    true_values: TrueValues = TrueValues()
    tag_separator: Literal["auto", " ", ",", ";", "|", "\n", "list"] = "auto"
    html_entities: Switch = False
    null_words: Words | None = None
    missing_id: Literal["reject", "row"] = "reject"
    missing_rating: Literal["reject", "g", "s", "q", "e"] = "reject"
    missing_score: Literal["reject"] | Int32 = "reject"

    @model_validator(mode="after")
    def _one_export(self) -> Self:
        if self.bigquery_table is not None and "export" in self.model_fields_set:
            raise ValueError(
                f"export and bigquery_table ({shortened(self.bigquery_table)}) are both set; remove one of them"
            )
        if self.bigquery_project is not None and self.bigquery_table is None:
            raise ValueError(
                f"bigquery_project ({shortened(self.bigquery_project)}) is set without a bigquery_table; name both"
            )
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The values that were set, and not those that are defaults."""
        return self.model_dump(exclude_unset=True)


class PostsSettings(SourceSettings):
    """The export to read, or several of them in `source`, and which posts to keep."""

    source: Annotated[tuple[SourceSettings, ...], Field(max_length=1000)] = ()
    ratings: Annotated[tuple[Rating, ...], Field(min_length=1, max_length=100)] = RATINGS
    min_score: Int32 | None = None
    limit_posts: PositiveInt | None = None
    max_rejected_share: Share = 0.01

    @property
    def sources(self) -> tuple[SourceSettings, ...]:
        """The exports to read, each with the values of its preset and those that ``[posts]`` gives for all."""
        own = {key: value for key, value in self.given.items() if key in SourceSettings.model_fields}
        return tuple(
            SourceSettings.model_validate(with_preset(values.get("preset"), values))
            for values in ([{**own, **source.given} for source in self.source] or [own])
        )

    @property
    def reads_tables(self) -> bool:
        """Whether a source is a BigQuery table, whose changes no file shows."""
        return any(source.bigquery_table is not None for source in self.sources)

    @model_validator(mode="after")
    def _sources_are_apart(self) -> Self:
        if not self.source:
            return self
        given = next((key for key in ("export", "bigquery_table", "site") if key in self.model_fields_set), None)
        if given:
            raise ValueError(f"{given} is set beside [[posts.source]]; move it into one of the sources")
        sites = [source.site for source in self.source]
        for number, source in enumerate(self.source, start=1):
            if "export" not in source.model_fields_set and source.bigquery_table is None:
                raise ValueError(f"[[posts.source]] {number} names no export; set its export or bigquery_table")
            if source.site is None and len(sites) > 1:
                raise ValueError(f"[[posts.source]] {number} has no site; ids count per site, so name it")
        return self

"""What an export calls its columns and ratings, where that differs from Danbooru's names.

Danbooru's names are the canonical ones: a reader translates a file's names first and uses the canonical ones from then
on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from booru_embed_core.schema import EXPORT_RATING_NAMES
from booru_embed_core.settings import PostsSettings


@dataclass(frozen=True)
class Names:
    """The names of an export, the source; by default they are the canonical ones."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The source's column by the canonical one, for columns that the settings name."""
    ratings: Mapping[str, str] = field(default_factory=lambda: EXPORT_RATING_NAMES)
    """One of `RATINGS` by each value that the source may have for it; other values are invalid."""

    @classmethod
    def of(cls, settings: PostsSettings) -> Self:
        """The names that `settings` give."""
        return cls(settings.columns.model_dump(exclude_unset=True), {**EXPORT_RATING_NAMES, **settings.rating_names})

    def source(self, name: str) -> str:
        """The source's name of the canonical column `name`."""
        return self.columns.get(name, name)

    def canonical(self, found: Iterable[str]) -> tuple[str, ...]:
        """The canonical names of the source's columns `found`; columns that have none keep their names."""
        canonical = {source: name for name, source in self.columns.items()}
        # The settings may map a canonical name to another column: then a column of that very name is not it.
        return tuple(canonical.get(name, f"other {name}" if name in self.columns else name) for name in found)


DANBOORU: Final = Names()

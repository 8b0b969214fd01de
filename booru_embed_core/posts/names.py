"""What an export calls its columns and ratings, where that is not what Danbooru calls them.

The names of Danbooru are "ours": whatever reads a file translates first and goes by them from then on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from booru_embed_core.schema import EXPORT_RATING_NAMES
from booru_embed_core.settings import PostsSettings


@dataclass(frozen=True)
class Names:
    """An export's own names; by default there are none."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The export's column by canonical, for those that the settings name."""
    ratings: Mapping[str, str] = field(default_factory=lambda: EXPORT_RATING_NAMES)
    """One of `RATINGS` by what the export may write for it; other values are unfit."""

    @classmethod
    def of(cls, settings: PostsSettings) -> Self:
        """The names that `settings` give."""
        return cls(settings.columns.model_dump(exclude_unset=True), {**EXPORT_RATING_NAMES, **settings.rating_names})

    def source(self, name: str) -> str:
        """What the export calls our column `name`."""
        return self.columns.get(name, name)

    def canonical(self, found: Iterable[str]) -> tuple[str, ...]:
        """What we call the columns `found`; those that are none of canonical keep their names."""
        own = {source: name for name, source in self.columns.items()}
        # A column that is called like one of canonical, which the settings find elsewhere, must not be taken for it.
        return tuple(own.get(name, f"other {name}" if name in self.columns else name) for name in found)


DANBOORU: Final = Names()

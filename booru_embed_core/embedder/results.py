"""What the embedder answers with, and its error and warning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias

from booru_embed_core.schema import Category
from booru_embed_core.tags.prompts import Dialect, as_prompt, has_weights

MAX_FILL_TAGS: Final = 200
"""Tags that may be drawn for one caption: each takes a pass through the network."""
DEFAULT_TEMPERATURE: Final = 0.7
MAX_TEMPERATURE: Final = 10.0
MAX_SEED: Final = 2**53 - 1
"""JavaScript rounds larger numbers."""

Origin: TypeAlias = Literal["caption", "drawn", "implied"]


class UnknownTagsError(ValueError):
    """A caption has tags, but none is in the vocabulary."""


class UnknownTagsWarning(UserWarning):
    """Some tags of a caption are not in the vocabulary and are left out."""


class Completion(NamedTuple):
    """A further tag; `probability` is its share among all tags that may follow."""

    tag: str
    category: Category
    probability: float


class Neighbour(NamedTuple):
    """A tag with a similar embedding; `similarity` is the cosine."""

    tag: str
    category: Category
    similarity: float


class Normalized(NamedTuple):
    """How a caption was read; see ``docs/reference/captions.md``."""

    caption: str
    """Its known tags in their canonical spelling, separated by spaces."""
    tags: tuple[tuple[Category, str], ...]
    unknown: tuple[str, ...]
    """Its tags that are not in the vocabulary."""
    notes: tuple[str, ...]
    """What was read differently from its spelling, one line each: weights, aliases, categories, what was left out."""
    ratings: tuple[str, ...]
    """The ratings that it names, of ``g s q e``: they are not tags, and the model does not see them."""
    weights: tuple[float, ...] = ()
    """The weight of each of `tags`, above 0; 1 where the caption gives none."""
    excluded: tuple[tuple[Category, str], ...] = ()
    """Tags that it gives a weight of 0 or less: no part of it, and never offered for it."""


class FilledTag(NamedTuple):
    """A tag of a completed caption.

    Attributes:
        tag: the tag.
        category: its category.
        origin: whether the given caption has it, it was drawn, or the tags before it imply it.
        probability: of a drawn tag, its share among all tags that might have followed; None for others.
        weight: of a tag of the given caption; 1 for others.
    """

    tag: str
    category: Category
    origin: Origin
    probability: float | None = None
    weight: float = 1.0


@dataclass(frozen=True)
class Filled:
    """A completed caption.

    Attributes:
        tags: those of the given caption, then those drawn, in order.
        caption: `tags` as one text that reads as itself, separated by spaces.
        unknown: tags of the given caption that are not in the vocabulary.
        notes: how the given caption was read where that differs from its spelling, and what of it is odd.
    """

    tags: tuple[FilledTag, ...]
    caption: str
    unknown: tuple[str, ...]
    notes: tuple[str, ...]

    def prompt(self, dialect: Dialect | str = "a1111") -> str:
        """The caption as a prompt for another program: the given tags, known ones first, then the others.

        Args:
            dialect: one of `prompts.DIALECTS`.

        Raises:
            ValueError: no such dialect.
        """
        spellings = self.caption.split(" ") if self.caption else []
        num_given = sum(one.origin == "caption" for one in self.tags)
        weights = [one.weight for one in self.tags]
        return as_prompt(
            [*spellings[:num_given], *self.unknown, *spellings[num_given:]],
            dialect,
            [*weights[:num_given], *(1.0 for _ in self.unknown), *weights[num_given:]],
        )

    def prompt_notes(self, dialect: Dialect | str = "a1111") -> tuple[str, ...]:
        """`notes`, with what a prompt in `dialect` cannot say: weights, in Danbooru's own spelling.

        Raises:
            ValueError: no such dialect.
        """
        weighted = [f"{one.tag} ({one.weight:g})" for one in self.tags if one.weight != 1]
        if not weighted or has_weights(dialect):
            return self.notes
        return (*self.notes, f"a {dialect} prompt has no weights; left out: {', '.join(weighted)}")

"""What the embedder answers with, and its error and warning."""

from __future__ import annotations

from typing import NamedTuple

from booru_embed_core.schema import Category


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

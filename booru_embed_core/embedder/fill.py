"""Whole captions: one tag after another is drawn, and each one changes the probabilities of the next."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.captions import Caption
from booru_embed_core.embedder.completion import Implied, NextTags, ban_note, check_implied, renormalize
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.results import (
    DEFAULT_TEMPERATURE,
    MAX_FILL_TAGS,
    MAX_SEED,
    MAX_TEMPERATURE,
    Filled,
    FilledTag,
    Normalized,
    Origin,
)
from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, Category

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder


@dataclass(frozen=True, kw_only=True)
class FillQuery:
    """A caption to complete; `BooruEmbedder.fill` says what the values mean.

    `row` tells captions apart that share a seed: each has draws of its own.
    """

    caption: Caption
    n: int = 20
    temperature: float = DEFAULT_TEMPERATURE
    seed: int = 0
    row: int = 0
    categories: Collection[str] | None = None
    limits: Mapping[Category, int] | Mapping[str, int] = field(default_factory=dict)
    rating: str | None = None
    score: int | None = None
    implied: Implied = "drop"
    banned: Sequence[str] = ()

    def check(self) -> None:
        """Raises a ValueError for a value out of range; rating and score are for the embedder to check."""
        if not 0 <= self.n <= MAX_FILL_TAGS:
            raise ValueError(f"n {self.n} is not between 0 and {MAX_FILL_TAGS}, the number of tags to add")
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= MAX_TEMPERATURE):
            raise ValueError(f"temperature {self.temperature} is not between 0 and {MAX_TEMPERATURE:g}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"seed {self.seed} is not between 0 and {MAX_SEED}")
        names = [category.value for category in CATEGORIES]
        for category in (*(self.categories or ()), *self.limits):
            if category not in names:
                raise ValueError(f"category {category!r} is not one of {', '.join(names)}")
        for category, limit in self.limits.items():
            if limit < 0:
                raise ValueError(f"limits: {category} {limit} is below 0; give the most tags to add of the category")
        check_implied(self.implied)


@dataclass(frozen=True, eq=False)
class ReadFill:
    """A query, how its caption was read, its tags and their weights, the caption as the network takes it, and bans."""

    query: FillQuery
    read: Normalized
    weights: dict[int, float]
    sets: TagSets
    banned: NDArray[np.int64]
    notes: tuple[str, ...]


def read_fill(embedder: BooruEmbedder, query: FillQuery) -> ReadFill:
    """The query, ready for `fill_all`; unknown tags of its caption are ignored.

    Raises:
        ValueError: a value is out of range.
    """
    query.check()
    read, sets = embedder.read_caption(query.caption, query.rating, query.score)
    banned = embedder.next_tags.banned(query.banned, read.excluded)
    weights = dict(zip(sets.tags.tolist(), read.weights, strict=True))
    tags = embedder.vocab.tags
    notes = [ban_note(name) for name in banned.unknown]
    notes += [
        f"{tags[tag]}: banned, but the caption has it; it stays" for tag in np.intersect1d(sets.tags, banned.tags)
    ]
    odd = embedder.next_tags.contradictions(sets.tags)
    if len(odd):
        notes.append(f"{', '.join(tags[tag] for tag in odd)}: they contradict each other; all stay")
    return ReadFill(query, read, weights, sets, banned.tags, tuple(notes))


def fill_all(embedder: BooruEmbedder, queries: Sequence[ReadFill]) -> list[Filled]:
    """The completed caption of each of `queries`; all draw a tag in one pass through the network."""
    drafts = [_Draft(embedder, query) for query in queries]
    growing = [draft for draft in drafts if draft.is_growing]
    while growing:
        probabilities = embedder.probabilities_of(TagSets.concatenate([draft.sets() for draft in growing]))
        for draft, row in zip(growing, probabilities, strict=True):
            draft.draw(row)
        growing = [draft for draft in growing if draft.is_growing]
    return [draft.filled() for draft in drafts]


class _Draft:
    """A caption while tags are drawn for it."""

    def __init__(self, embedder: BooruEmbedder, asked: ReadFill) -> None:
        self.is_growing = asked.query.n > 0
        self._asked = asked
        self._vocab = embedder.vocab
        self._spellings = embedder.tokenizer.spellings
        self._rules: NextTags = embedder.next_tags
        self._random = np.random.default_rng([asked.query.seed, asked.query.row])
        self._tags = list(asked.weights)
        self._probability_of: dict[int, float] = {}
        self._num_left = {CATEGORIES.index(Category(one)): limit for one, limit in asked.query.limits.items()}
        chosen = asked.query.categories
        self._is_barred = np.isin(
            self._vocab.categories, [i for i, one in enumerate(CATEGORIES) if chosen is not None and one not in chosen]
        )
        self._is_barred[asked.banned] = True
        self._is_barred[self._tags] = True

    def sets(self) -> TagSets:
        """The caption so far."""
        given, drawn = self._asked.sets, np.array(list(self._probability_of), dtype=np.int64)
        weights = None if given.weights is None else np.concatenate([given.weights, np.ones(len(drawn), np.float32)])
        tags = np.concatenate([given.tags, drawn])
        return TagSets(tags, np.array([len(tags)]), given.ratings, given.score_bins, weights)

    def draw(self, probabilities: NDArray[np.float32]) -> None:
        """Adds a tag by the `probabilities` of all tags, which it changes; stops growing if none may follow."""
        tags = np.array(self._tags, dtype=np.int64)
        self._is_barred[self._rules.implied_by(tags)] = True
        full = [category_id for category_id, num_left in self._num_left.items() if num_left <= 0]
        self._is_barred |= np.isin(self._vocab.categories, full)
        left_out = np.concatenate([np.flatnonzero(self._is_barred), self._rules.contradicting(tags)])
        renormalize(probabilities, left_out)
        if not probabilities.any():
            self.is_growing = False
            return
        tag = _drawn(probabilities, self._asked.query.temperature, self._random)
        self._tags.append(tag)
        self._probability_of[tag] = float(probabilities[tag])
        category_id = int(self._vocab.categories[tag])
        if category_id in self._num_left:
            self._num_left[category_id] -= 1
        implied = self._rules.implications.implied_by(np.array(self._tags, dtype=np.int64))
        num_told = len(self._probability_of) - len(np.intersect1d(implied, list(self._probability_of)))
        self.is_growing = num_told < self._asked.query.n

    def filled(self) -> Filled:
        """The caption with the tags drawn."""
        implications = self._rules.implications
        found = {tag: self._tag(tag, "caption", None, weight) for tag, weight in self._asked.weights.items()}
        implied = set(implications.implied_by(np.array(self._tags, dtype=np.int64)).tolist())
        keeps = self._asked.query.implied == "keep"
        if keeps:
            self._add(found, implications.implied_by(np.array(list(self._asked.weights), dtype=np.int64)))
        for tag, probability in self._probability_of.items():
            if keeps or tag not in implied:
                found[tag] = self._tag(tag, "drawn", probability)
            if keeps:
                self._add(found, implications.effects(tag))
        read = self._asked.read
        caption = TAG_SEPARATOR.join(self._spellings[tag] for tag in found)
        return Filled(tuple(found.values()), caption, read.unknown, (*read.notes, *self._asked.notes))

    def _add(self, found: dict[int, FilledTag], implied: NDArray[np.int64]) -> None:
        """Adds to `found` those of the `implied` tags that are neither there, nor drawn later, nor banned."""
        for tag in np.setdiff1d(implied, self._asked.banned).tolist():
            if tag not in found and tag not in self._probability_of:
                found[tag] = self._tag(tag, "implied")

    def _tag(self, tag: int, origin: Origin, probability: float | None = None, weight: float = 1.0) -> FilledTag:
        category = CATEGORIES[int(self._vocab.categories[tag])]
        return FilledTag(self._vocab.tags[tag], category, origin, probability, weight)


def _drawn(probabilities: NDArray[np.float32], temperature: float, random: np.random.Generator) -> int:
    """A tag, with probability ∝ p^(1 / `temperature`); at temperature 0 the most probable one, ties by index."""
    if temperature == 0:
        return int(probabilities.argmax())
    tags = np.flatnonzero(probabilities)
    scores = np.log(probabilities[tags], dtype=np.float64) / temperature
    cumulative = np.cumsum(np.exp(scores - scores.max()))
    place = np.searchsorted(cumulative, random.random() * cumulative[-1], side="right")
    return int(tags[min(int(place), len(tags) - 1)])

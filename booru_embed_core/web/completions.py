"""Completions for a person who types: tags that match the typed letters, ranked by the whole caption."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.completion import Implied, ban_note, check_implied, renormalize
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.results import Normalized
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.patterns import NamedTags
from booru_embed_core.tags.prefix import TypedPrefix, read_prefix
from booru_embed_core.vectors import top_k
from booru_embed_core.web.prefix_index import Match, Matches, PrefixIndex

_REMEMBERED_BANS: Final = 64
"""Lists of bans that are looked up once: an editor sends the same list with every letter that is typed."""
_SCORES_AT_ONCE: Final = 1 << 21
"""8 MB; a pass takes several times that. Eleven captions of 189,000 tags gain nothing from more of them."""


class Suggestion(NamedTuple):
    """A further tag.

    Attributes:
        tag: the tag.
        category: its category.
        probability: its share among all tags that may follow: not those of the caption, banned ones, or implied ones.
        alias: the alias that matches what is typed, None if the tag itself does.
        match: what of the tag matches, None if nothing is typed.
        is_excluded: whether it is typed with a minus before it.
    """

    tag: str
    category: Category
    probability: float
    alias: str | None = None
    match: Match | None = None
    is_excluded: bool = False


@dataclass(frozen=True)
class Suggestions:
    """The answer to a caption.

    Attributes:
        completions: what begins as typed before other matches, those before typos, and the most probable first; with
            `per_category`, category after category in schema order.
        known: the caption's tags that are in the vocabulary.
        weights: of each tag of `known`.
        unknown: the caption's tags that are not in the vocabulary.
        notes: how the caption was read where that differs from its spelling, and bans that ban nothing.
        implied: tags that follow from `known`; they are left out of the completions unless they are kept.
    """

    completions: tuple[Suggestion, ...]
    known: tuple[tuple[Category, str], ...]
    weights: tuple[float, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    implied: tuple[tuple[Category, str], ...] = ()


@dataclass(frozen=True)
class PrefixQuery:
    """A caption to complete.

    Attributes:
        caption: as for `BooruEmbedder.complete`; if no tag of it is known, the empty caption is completed.
        k: maximal number of tags.
        categories: only tags of these categories; None allows all.
        rating: as in `BooruEmbedder.complete`.
        score: as in `BooruEmbedder.complete`.
        prefix: what is typed of the next tag, read as captions are: only tags that it matches.
        per_category: `k` tags of each category.
        implied: as in `BooruEmbedder.complete`.
        banned: as in `BooruEmbedder.complete`.
    """

    caption: str
    k: int = 10
    categories: Collection[Category] | None = None
    rating: str | None = None
    score: int | None = None
    prefix: str = ""
    per_category: bool = False
    implied: Implied = "drop"
    banned: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class ReadQuery:
    """A query, how its caption was read, the caption as the network takes it, and the banned tags."""

    query: PrefixQuery
    read: Normalized
    sets: TagSets
    banned: NamedTags


class Completer:
    """Completes captions while people type. Threads may share an instance."""

    def __init__(self, embedder: BooruEmbedder) -> None:
        self.embedder = embedder
        self._prefixes = PrefixIndex(embedder.tokenizer)
        self._banned = lru_cache(_REMEMBERED_BANS)(embedder.next_tags.banned)

    def warm_up(self) -> None:
        """Makes what the first typo would wait for."""
        self._prefixes.warm_up()

    def complete(self, query: PrefixQuery) -> Suggestions:
        """The `k` most probable further tags, without those of the caption.

        Raises:
            ValueError: as in `BooruEmbedder.complete`.
        """
        return self.answer([self.read(query)])[0]

    def read(self, query: PrefixQuery) -> ReadQuery:
        """The query, ready for `answer`.

        Raises:
            ValueError: as in `BooruEmbedder.complete`.
        """
        if query.k < 1:
            raise ValueError(f"k {query.k} is below 1; ask for at least one tag")
        check_implied(query.implied)
        read, sets = self.embedder.read_caption(query.caption, query.rating, query.score)
        return ReadQuery(query, read, sets, self._banned(tuple(query.banned), read.excluded))

    def answer(self, queries: Sequence[ReadQuery]) -> list[Suggestions]:
        """`complete` of each of `queries`, in one pass through the network or, for a large vocabulary, a few."""
        found: list[Suggestions] = []
        at_once = max(1, _SCORES_AT_ONCE // self.embedder.vocab.num_tags)
        for start in range(0, len(queries), at_once):
            part = queries[start : start + at_once]
            probabilities = self.embedder.probabilities_of(TagSets.concatenate([query.sets for query in part]))
            found += [self._suggestions(query, row) for query, row in zip(part, probabilities, strict=True)]
        return found

    def _suggestions(self, asked: ReadQuery, probabilities: NDArray[np.float32]) -> Suggestions:
        query, vocab, rules = asked.query, self.embedder.vocab, self.embedder.next_tags
        renormalize(probabilities, rules.left_out(asked.sets.tags, query.implied, asked.banned.tags))
        typed = read_prefix(query.prefix, self._prefixes.begins)
        wanted = [category for category in CATEGORIES if query.categories is None or category in query.categories]
        if typed.category is not None:
            wanted = [category for category in wanted if category == typed.category]
        found = [
            suggestion
            for group in ([[category] for category in wanted] if query.per_category else [wanted])
            for suggestion in self._ranked(typed, probabilities, group, query.k)
        ]
        implied = rules.implied_by(asked.sets.tags).tolist()
        return Suggestions(
            tuple(found),
            asked.read.tags,
            asked.read.weights,
            asked.read.unknown,
            (*asked.read.notes, *(ban_note(name) for name in asked.banned.unknown)),
            tuple((CATEGORIES[vocab.categories[tag]], vocab.tags[tag]) for tag in implied),
        )

    def _ranked(
        self, typed: TypedPrefix, probabilities: NDArray[np.float32], categories: Sequence[Category], k: int
    ) -> list[Suggestion]:
        """The best `k` tags of `categories`: one way of matching after another, until there are enough."""
        index, vocab = self._prefixes, self.embedder.vocab
        if not typed.text:
            best = self._most_probable(probabilities, categories, k)
            return [self._suggestion(tag, probabilities, is_excluded=typed.is_excluded) for tag in best]
        is_wanted = np.array([category in categories for category in CATEGORIES])
        found: list[Suggestion] = []
        found_tags: list[int] = []
        for search, match in (
            (index.starting_with, Match.PREFIX),
            (index.with_word, Match.WORD),
            (index.corrected, Match.TYPO),
        ):
            if len(found) == k:
                break
            matches = search(typed.text)
            is_allowed = (probabilities[matches.tags] > 0) & is_wanted[vocab.categories[matches.tags]]
            is_allowed &= ~np.isin(matches.tags, found_tags)
            for tag, row in _best(matches, probabilities, is_allowed, k - len(found)):
                found_tags.append(tag)
                alias = index.alias(row)
                is_alias = match is Match.PREFIX and alias is not None
                way = Match.ALIAS if is_alias else match
                found.append(self._suggestion(tag, probabilities, alias, way, typed.is_excluded))
        return found

    def _most_probable(self, probabilities: NDArray[np.float32], categories: Sequence[Category], k: int) -> list[int]:
        """The `k` tags of `categories` with the highest probabilities above 0, the most probable first."""
        vocab = self.embedder.vocab
        if len(categories) == len(CATEGORIES):
            return [tag for tag in top_k(probabilities, None, k) if probabilities[tag] > 0]
        found: list[int] = []
        for category in categories:  # the tags of each stand together
            start = vocab.first_token_id(category) - vocab.num_special
            of_category = probabilities[start : start + vocab.sizes[category]]
            found += [start + tag for tag in top_k(of_category, None, k) if of_category[tag] > 0]
        return sorted(found, key=lambda tag: (-probabilities[tag], tag))[:k]

    def _suggestion(
        self,
        tag: int,
        probabilities: NDArray[np.float32],
        alias: str | None = None,
        match: Match | None = None,
        is_excluded: bool = False,
    ) -> Suggestion:
        vocab = self.embedder.vocab
        category = CATEGORIES[vocab.categories[tag]]
        return Suggestion(vocab.tags[tag], category, float(probabilities[tag]), alias, match, is_excluded)


def _best(
    matches: Matches, probabilities: NDArray[np.float32], is_allowed: NDArray[np.bool_], k: int
) -> list[tuple[int, int]]:
    """The best `k` of the tags of `matches` that are allowed (bool ``[len(matches.tags)]``), and their rows.

    Those with fewer typos come first, then the most probable.
    """
    tags, edits, rows = matches.tags[is_allowed], matches.edits[is_allowed], matches.rows[is_allowed]
    found: list[tuple[int, int]] = []
    for num_edits in np.unique(edits).tolist():
        among = tags[edits == num_edits]
        best = top_k(probabilities, among, k - len(found)) if k > len(found) else []
        found += [(tag, int(rows[np.searchsorted(tags, tag)])) for tag in best]
    return found

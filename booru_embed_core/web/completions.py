"""Completions for a person who types: tags that begin with the typed letters, ranked by the whole caption."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.results import Normalized
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.vectors import top_k

_LAST_CHARACTER: Final = "\U0010ffff"


class Suggestion(NamedTuple):
    """A further tag; `alias` is its alias that matches the prefix, None if the tag itself matches."""

    tag: str
    category: Category
    probability: float
    alias: str | None


@dataclass(frozen=True)
class Suggestions:
    """The answer to a caption.

    Attributes:
        completions: the most probable first; with `per_category`, category after category in schema order.
        known: the caption's tags that are in the vocabulary.
        unknown: the caption's tags that are not.
        notes: how the caption was read where that differs from its spelling.
    """

    completions: tuple[Suggestion, ...]
    known: tuple[tuple[Category, str], ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]


class PrefixIndex:
    """The names of all tags and their aliases, sorted, so that the names with one prefix are a slice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocab = tokenizer.vocab
        names = [(tag, index, "") for index, tag in enumerate(vocab.tags) if not vocab.is_unknown[index]]
        names += [(alias, token_id - vocab.num_special, alias) for alias, token_id in tokenizer.aliases.items()]
        names.sort()
        self._spellings = [name for name, _, _ in names]
        self._indices = np.array([index for _, index, _ in names], dtype=np.int64)
        self._aliases = [alias for _, _, alias in names]
        self._every = np.flatnonzero(~vocab.is_unknown)

    def starting_with(self, prefix: str) -> tuple[NDArray[np.int64], dict[int, str]]:
        """The tags with `prefix`: distinct tag indices, ascending, and the alias of each that only an alias matches.

        Args:
            prefix: lower case, with underscores for spaces; the empty prefix matches all.
        """
        if not prefix:
            return self._every, {}
        start, stop = bisect_left(self._spellings, prefix), bisect_left(self._spellings, prefix + _LAST_CHARACTER)
        alias_of: dict[int, str] = {}
        by_name = set()
        for row in range(start, stop):
            index = int(self._indices[row])
            if self._aliases[row]:
                alias_of.setdefault(index, self._aliases[row])
            else:
                by_name.add(index)
        return np.unique(self._indices[start:stop]), {i: name for i, name in alias_of.items() if i not in by_name}


@dataclass(frozen=True)
class PrefixQuery:
    """A caption to complete.

    Attributes:
        caption: as for `BooruEmbedder.complete`; if no tag of it is known, the empty caption is completed.
        k: maximal number of tags.
        categories: only tags of these categories; None allows all.
        rating: as in `BooruEmbedder.complete`.
        score: as in `BooruEmbedder.complete`.
        prefix: only tags that begin with it, by name or alias; in any case, with spaces or underscores.
        per_category: `k` tags of each category.
    """

    caption: str
    k: int = 10
    categories: Collection[Category] | None = None
    rating: str | None = None
    score: int | None = None
    prefix: str = ""
    per_category: bool = False


@dataclass(frozen=True, eq=False)
class ReadQuery:
    """A query, how its caption was read, and the caption as the network takes it."""

    query: PrefixQuery
    read: Normalized
    sets: TagSets


class Completer:
    """Completes captions while people type. Threads may share an instance."""

    def __init__(self, embedder: BooruEmbedder) -> None:
        self.embedder = embedder
        self._prefixes = PrefixIndex(embedder.tokenizer)

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
        return ReadQuery(query, *self.embedder.read_caption(query.caption, query.rating, query.score))

    def answer(self, queries: Sequence[ReadQuery]) -> list[Suggestions]:
        """`complete` of each of `queries`, at least one, in one pass through the network."""
        probabilities = self.embedder.probabilities_of(TagSets.concatenate([query.sets for query in queries]))
        return [self._suggestions(query, row) for query, row in zip(queries, probabilities, strict=True)]

    def _suggestions(self, asked: ReadQuery, probabilities: NDArray[np.float32]) -> Suggestions:
        query, vocab = asked.query, self.embedder.vocab
        candidates, alias_of = self._prefixes.starting_with(query.prefix.strip().lower().replace(" ", "_"))
        candidates = candidates[probabilities[candidates] > 0]
        wanted = [category for category in CATEGORIES if query.categories is None or category in query.categories]
        found = []
        for group in [[category] for category in wanted] if query.per_category else [wanted]:
            in_group = candidates
            if len(group) < len(CATEGORIES):
                is_in = np.array([category in group for category in CATEGORIES])
                in_group = candidates[is_in[vocab.categories[candidates]]]
            found += top_k(probabilities, in_group, query.k)
        return Suggestions(
            tuple(
                Suggestion(vocab.tags[i], CATEGORIES[vocab.categories[i]], float(probabilities[i]), alias_of.get(i))
                for i in found
            ),
            asked.read.tags,
            asked.read.unknown,
            asked.read.notes,
        )

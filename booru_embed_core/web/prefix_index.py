"""Tags by what people type of them: their beginning, the beginning of a word in them, or either with a typo."""

from __future__ import annotations

import re
from bisect import bisect_left
from enum import StrEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA

from booru_embed_core.schema import TAG_SEPARATOR
from booru_embed_core.tags.tokenizer import Tokenizer

_LAST_CHARACTER: Final = "\U0010ffff"
_INNER_WORD: Final = re.compile(r"(?<=[_()/:\-'.])[^\W_]")
"""The first letter of each word of a tag but the first; these signs stand between words."""
_SHORTEST_CORRECTED: Final = 4
_SHORTEST_TWICE_CORRECTED: Final = 8
"""Letters from which one typo is corrected, and two: shorter ones are near too many tags."""
_BEGINNINGS: Final = (3, 10, 20, 40)
"""Letters at the beginning of a name whose set is kept, to rule out most names without a comparison."""


class Match(StrEnum):
    """What of a tag is like the typed letters."""

    PREFIX = "prefix"
    """The tag begins with them."""
    ALIAS = "alias"
    """An alias of the tag begins with them."""
    WORD = "word"
    """A later word of the tag or of an alias begins with them."""
    TYPO = "typo"
    """The tag, an alias, or what follows from a word of it on, is a few edits away."""


class Matches(NamedTuple):
    """Tags that match in one way, each once.

    Attributes:
        tags: tag indices, int64, ascending.
        edits: number of typos of each, uint8; 0 without typos.
        rows: the row of the index that matches, int64.
    """

    tags: NDArray[np.int64]
    edits: NDArray[np.uint8]
    rows: NDArray[np.int64]


class PrefixIndex:
    """All tags and aliases of a vocabulary, and what follows from each of their words on, sorted.

    Texts are in lower case, with underscores for spaces. What begins in one way is a slice of the rows.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocab = tokenizer.vocab
        names = [(_spelled(tag), index, "") for index, tag in enumerate(vocab.tags) if not vocab.is_unknown[index]]
        names += [
            (_spelled(alias), token_id - vocab.num_special, alias) for alias, token_id in tokenizer.aliases.items()
        ]
        inner = [
            (name[word.start() :], index, alias, True)
            for name, index, alias in names
            for word in _INNER_WORD.finditer(name)
        ]
        rows = sorted([(*name, False) for name in names] + inner)
        self._texts = [row[0] for row in rows]
        self._tags = np.array([row[1] for row in rows], dtype=np.int64)
        self._aliases = [row[2] for row in rows]
        self._is_alias = np.array([bool(alias) for alias in self._aliases], dtype=np.bool_)
        self._is_inner = np.array([row[3] for row in rows], dtype=np.bool_)
        lengths = np.array([len(text) for text in self._texts], dtype=np.int64)
        letters = _letters(self._texts, lengths)
        self._by_length = np.argsort(lengths, kind="stable")
        self._letters_by_length = letters[self._by_length]
        self._lengths = lengths[self._by_length]
        self._names = np.flatnonzero(~self._is_inner)
        names_cut = {most: [self._texts[row][:most] for row in self._names.tolist()] for most in _BEGINNINGS}
        self._beginnings = {
            most: _letters(texts, np.minimum(lengths[self._names], most)) for most, texts in names_cut.items()
        }

    def begins(self, prefix: str) -> bool:
        """Whether a tag or an alias begins with `prefix`."""
        rows = self._slice(prefix)
        return bool(len(rows)) and not self._is_inner[rows].all()

    def starting_with(self, prefix: str) -> Matches:
        """The tags of which the name or an alias begins with `prefix`."""
        rows = self._slice(prefix)
        return self._matches(rows[~self._is_inner[rows]])

    def with_word(self, prefix: str) -> Matches:
        """The tags in which a word that is not the first of its name or alias begins with `prefix`."""
        rows = self._slice(prefix)
        return self._matches(rows[self._is_inner[rows]])

    def corrected(self, text: str) -> Matches:
        """The tags that differ from `text` by one typo, from eight letters on by two.

        A typo is a missing, added or wrong letter, or two in the wrong order. The whole name or alias is compared, and
        what follows from a word on. If no tag and no word of one begins with `text`, the beginnings of those names are
        compared too that share its first letter.
        """
        max_edits = (len(text) >= _SHORTEST_CORRECTED) + (len(text) >= _SHORTEST_TWICE_CORRECTED)
        if not max_edits:
            return self._matches(np.empty(0, dtype=np.int64))
        letters = _letters([text], np.array([len(text)]))[0]
        start, stop = np.searchsorted(self._lengths, [len(text) - max_edits, len(text) + max_edits + 1])
        others = self._letters_by_length[start:stop]
        few_missing = np.bitwise_count(letters & ~others) <= max_edits
        few_added = np.bitwise_count(others & ~letters) <= max_edits
        rows = self._by_length[start:stop][few_missing & few_added]
        edits = _distances(text, [self._texts[row] for row in rows.tolist()], max_edits)
        if not len(self._slice(text)):
            names = self._near_beginnings(text, letters, max_edits)
            cuts = range(len(text) - max_edits, len(text) + max_edits + 1)
            rows = np.concatenate([rows, *[names] * len(cuts)])
            beginnings = [self._texts[row][:cut] for cut in cuts for row in names.tolist()]
            edits = np.concatenate([edits, _distances(text, beginnings, max_edits)])
        is_near = edits <= max_edits
        return self._matches(rows[is_near], edits[is_near])

    def _near_beginnings(self, text: str, letters: np.uint64, max_edits: int) -> NDArray[np.int64]:
        """The rows of the names with the first letter of `text` whose beginning has few other letters."""
        start, stop = np.searchsorted(self._names, self._bounds(text[0]))
        longest = next((most for most in _BEGINNINGS[1:] if most >= len(text) + max_edits), _BEGINNINGS[-1])
        names = self._names[start:stop]
        first = self._beginnings[_BEGINNINGS[0]][start:stop]
        is_near = np.bitwise_count(first & ~letters) <= max_edits
        if longest >= len(text) + max_edits:
            is_near &= np.bitwise_count(letters & ~self._beginnings[longest][start:stop]) <= max_edits
        near: NDArray[np.int64] = names[is_near]
        return near

    def alias(self, row: int) -> str | None:
        """The alias of that row; None if it is of the tag's own name."""
        return self._aliases[row] or None

    def _bounds(self, prefix: str) -> tuple[int, int]:
        start = bisect_left(self._texts, prefix)
        return start, bisect_left(self._texts, prefix + _LAST_CHARACTER, lo=start)

    def _slice(self, prefix: str) -> NDArray[np.int64]:
        return np.arange(*self._bounds(prefix))

    def _matches(self, rows: NDArray[np.int64], edits: NDArray[np.uint8] | None = None) -> Matches:
        """The tags of `rows`; of a tag's rows, that with the fewest `edits`, its own name before an alias."""
        edits = np.zeros(len(rows), dtype=np.uint8) if edits is None else edits
        order = np.lexsort((rows, self._is_alias[rows], edits, self._tags[rows]))
        tags, first = np.unique(self._tags[rows[order]], return_index=True)
        return Matches(tags, edits[order[first]], rows[order[first]])


def _spelled(name: str) -> str:
    return name.casefold().replace(TAG_SEPARATOR, "_")


def _letters(texts: list[str], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The letters of each text as a set of 64 bits, some shared by several letters: uint64 ``[len(texts)]``.

    An edit takes at most one bit and adds at most one, so most texts are ruled out without a comparison.
    """
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    bits = np.left_shift(np.uint64(1), codes.astype(np.uint64) & np.uint64(63))
    found = np.zeros(len(texts), dtype=np.uint64)
    starts = np.cumsum(lengths) - lengths
    has_any = lengths > 0
    if has_any.any():
        found[has_any] = np.bitwise_or.reduceat(bits, starts[has_any])
    return found


def _distances(text: str, others: list[str], max_edits: int) -> NDArray[np.uint8]:
    """The number of typos between `text` and each of `others`; more than `max_edits` are ``max_edits + 1``."""
    if not others:
        return np.empty(0, dtype=np.uint8)
    found: NDArray[np.uint8] = process.cdist(
        [text], others, scorer=OSA.distance, score_cutoff=max_edits, dtype=np.uint8, workers=1
    )[0]
    return found

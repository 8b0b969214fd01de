"""Tags by what people type of them: their beginning, the beginning of a word in them, or either with a typo."""

from __future__ import annotations

import re
from bisect import bisect_left
from enum import StrEnum
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA

from booru_embed_core.schema import TAG_SEPARATOR
from booru_embed_core.tags.tokenizer import Tokenizer

_LAST_CHARACTER: Final = "\U0010ffff"
_BETWEEN: Final = "\0"
_INNER_WORD: Final = re.compile(r"(?<=[_()/:\-'.])[^\W_]")
"""The first letter of each word of a tag but the first; these signs stand between words."""
_SHORTEST_CORRECTED: Final = 4
_SHORTEST_TWICE_CORRECTED: Final = 8
"""Letters from which one typo is corrected, and two: shorter ones are near too many tags."""
_BEGINNINGS: Final = (3, 10, 20, 40)
"""Letters at the beginning of a name whose set is kept, to rule out most names without a comparison."""


_TEXTS_AT_ONCE: Final = 16_384


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
        known = np.flatnonzero(~vocab.is_unknown)
        aliases = sorted((token_id - vocab.num_special, alias) for alias, token_id in tokenizer.aliases.items())
        names = _spelled([*(vocab.tags[index] for index in known.tolist()), *(alias for _, alias in aliases)])
        tags = np.concatenate([known, np.array([index for index, _ in aliases], dtype=np.int64)])
        owners, starts = _inner_words(names)
        of_name = np.concatenate([np.arange(len(names), dtype=np.int32), owners])
        starts = np.concatenate([np.zeros(len(names), dtype=np.int32), starts])
        texts = [names[name][start:] for name, start in zip(of_name.tolist(), starts.tolist(), strict=True)]
        order = np.array(sorted(range(len(texts)), key=texts.__getitem__), dtype=np.int64)
        del texts
        of_name = of_name[order]
        self._texts = _Texts(names, of_name, starts[order])
        self._tags = tags[of_name].astype(np.int32)
        self._alias_of_row = np.maximum(of_name - len(known), -1).astype(np.int32)
        self._aliases = [alias for _, alias in aliases]
        self._is_inner = order >= len(names)

    @cached_property
    def _by_typos(self) -> _TypoTables:
        return _TypoTables(self._texts, np.flatnonzero(~self._is_inner))

    def warm_up(self) -> None:
        """Makes what the first typo would wait for."""
        self._by_typos  # noqa: B018

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
        letters = _letters([text])[0]
        rows = self._by_typos.near(len(text), letters, max_edits)
        edits = _distances(text, self._texts.of(rows), max_edits)
        if not len(self._slice(text)):
            names = self._near_beginnings(text, letters, max_edits)
            cuts = range(len(text) - max_edits, len(text) + max_edits + 1)
            rows = np.concatenate([rows, *[names] * len(cuts)])
            near = self._texts.of(names)
            beginnings = [name[:cut] for cut in cuts for name in near]
            edits = np.concatenate([edits, _distances(text, beginnings, max_edits)])
        is_near = edits <= max_edits
        return self._matches(rows[is_near], edits[is_near])

    def _near_beginnings(self, text: str, letters: np.uint64, max_edits: int) -> NDArray[np.int64]:
        """The rows of the names with the first letter of `text` whose beginning has few other letters."""
        return self._by_typos.near_beginnings(self._bounds(text[0]), len(text), letters, max_edits)

    def alias(self, row: int) -> str | None:
        """The alias of that row; None if it is of the tag's own name."""
        number = int(self._alias_of_row[row])
        return self._aliases[number] if number >= 0 else None

    def _bounds(self, prefix: str) -> tuple[int, int]:
        start = bisect_left(self._texts, prefix)
        return start, bisect_left(self._texts, prefix + _LAST_CHARACTER, lo=start)

    def _slice(self, prefix: str) -> NDArray[np.int64]:
        return np.arange(*self._bounds(prefix))

    def _matches(self, rows: NDArray[np.int64], edits: NDArray[np.uint8] | None = None) -> Matches:
        """The tags of `rows`; of a tag's rows, that with the fewest `edits`, its own name before an alias."""
        edits = np.zeros(len(rows), dtype=np.uint8) if edits is None else edits
        is_alias = self._alias_of_row[rows] >= 0
        wanted = (self._tags[rows].astype(np.int64) << 9) + (edits.astype(np.int64) << 1) + is_alias
        order = np.lexsort((rows, wanted))  # by one number: four take twice as long
        tags = wanted[order] >> 9
        first = np.flatnonzero(np.diff(tags, prepend=-1))
        return Matches(tags[first], edits[order[first]], rows[order[first]])


class _Texts:
    """The end of a name in each row, made when it is asked for: as a text of its own it would take 70 bytes."""

    def __init__(self, names: list[str], of_row: NDArray[np.int32], starts: NDArray[np.int32]) -> None:
        """Row i is ``names[of_row[i]][starts[i]:]``."""
        self._names = names
        self._of_row = of_row
        self._starts = starts
        # A view gives Python's numbers, in a third of the time.
        self._name_at, self._start_at = of_row.data, starts.data

    def __len__(self) -> int:
        return len(self._of_row)

    def __getitem__(self, row: int) -> str:
        return self._names[self._name_at[row]][self._start_at[row] :]

    def of(self, rows: slice | NDArray[np.int64]) -> list[str]:
        """The texts of `rows`."""
        names = self._names
        numbers = zip(self._of_row[rows].tolist(), self._starts[rows].tolist(), strict=True)
        return [names[name][start:] for name, start in numbers]

    def lengths(self) -> NDArray[np.int32]:
        """The number of letters of each."""
        of_names = np.fromiter(map(len, self._names), dtype=np.int32, count=len(self._names))
        lengths: NDArray[np.int32] = of_names[self._of_row] - self._starts
        return lengths


class _TypoTables:
    """Sets of letters and lengths of the texts of an index, to rule out most of them without a comparison."""

    def __init__(self, texts: _Texts, names: NDArray[np.int64]) -> None:
        """Of the sorted `texts`; those in the rows `names`, ascending, are whole names or aliases."""
        lengths, letters = texts.lengths(), np.empty(len(texts), dtype=np.uint64)
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = slice(start, start + _TEXTS_AT_ONCE)
            letters[part] = _letters(texts.of(part))
        order = np.argsort(lengths, kind="stable")
        self._by_length = order.astype(np.int32)
        self._letters_by_length = letters[order]
        self._lengths = lengths[order]
        self._names = names
        whole = texts.of(names)
        self._beginnings = {most: _letters(whole, most) for most in _BEGINNINGS}

    def near(self, length: int, letters: np.uint64, max_edits: int) -> NDArray[np.int64]:
        """The rows of all texts of about `length` with few letters that are not among `letters`, and the reverse."""
        start, stop = np.searchsorted(self._lengths, [length - max_edits, length + max_edits + 1])
        others = self._letters_by_length[start:stop]
        few_missing = np.bitwise_count(letters & ~others) <= max_edits
        few_added = np.bitwise_count(others & ~letters) <= max_edits
        near: NDArray[np.int64] = self._by_length[start:stop][few_missing & few_added].astype(np.int64)
        return near

    def near_beginnings(
        self, bounds: tuple[int, int], length: int, letters: np.uint64, max_edits: int
    ) -> NDArray[np.int64]:
        """The rows of the names within `bounds` whose first `length` letters are about `letters`."""
        start, stop = np.searchsorted(self._names, bounds)
        longest = next((most for most in _BEGINNINGS[1:] if most >= length + max_edits), _BEGINNINGS[-1])
        first = self._beginnings[_BEGINNINGS[0]][start:stop]
        is_near = np.bitwise_count(first & ~letters) <= max_edits
        if longest >= length + max_edits:
            is_near &= np.bitwise_count(letters & ~self._beginnings[longest][start:stop]) <= max_edits
        near: NDArray[np.int64] = self._names[start:stop][is_near]
        return near


def _spelled(names: list[str]) -> list[str]:
    """`names` in lower case, with underscores for spaces; all at once, which takes a fifth of the time."""
    joined = _BETWEEN.join(names)
    if joined.count(_BETWEEN) != max(0, len(names) - 1):
        return [name.casefold().replace(TAG_SEPARATOR, "_") for name in names]  # a name has the sign
    spelled = joined.casefold().replace(TAG_SEPARATOR, "_")
    if spelled == joined:
        return names
    # What is spelled so already is not kept twice.
    return [name if name == one else one for name, one in zip(names, spelled.split(_BETWEEN), strict=True)]


def _inner_words(names: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Each word of `names` but their first ones: which name it is of, and the letter that it begins with, int32."""
    joined = _BETWEEN.join(names)
    starts = np.array([word.start() for word in _INNER_WORD.finditer(joined)], dtype=np.int64)
    ends = np.cumsum([len(name) + 1 for name in names], dtype=np.int64)
    owners = np.searchsorted(ends, starts, side="right")
    firsts = np.concatenate([[0], ends])[owners]
    return owners.astype(np.int32), (starts - firsts).astype(np.int32)


def _letters(texts: list[str], most: int | None = None) -> NDArray[np.uint64]:
    """The letters of each text as a set of 64 bits, some shared by several letters: uint64 ``[len(texts)]``.

    An edit takes at most one bit and adds at most one, so most texts are ruled out without a comparison.

    Args:
        texts: read some thousands at a time, since a letter takes twelve bytes meanwhile.
        most: only so many letters at the beginning of each.
    """
    found = np.empty(len(texts), dtype=np.uint64)
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = texts[start : start + _TEXTS_AT_ONCE]
        lengths = np.fromiter(map(len, part), dtype=np.int64, count=len(part))
        starts = np.cumsum(lengths) - lengths
        kept = lengths if most is None else np.minimum(lengths, most)
        found[start : start + len(part)] = _sets(_bits(part), starts, kept)
    return found


def _bits(texts: list[str]) -> NDArray[np.uint64]:
    """The bit of each letter of `texts`, text after text, uint64."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), dtype=np.uint32)
    return np.left_shift(np.uint64(1), (codes & np.uint32(63)).astype(np.uint64))


def _sets(bits: NDArray[np.uint64], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """All of `bits` in each stretch of `lengths` from `starts` on, which ascend; 0 in an empty one."""
    found = np.zeros(len(starts), dtype=np.uint64)
    has_any = lengths > 0
    if has_any.any():
        # One zero more, so that the last stretch may end at the end.
        ends = np.stack([starts[has_any], (starts + lengths)[has_any]], axis=1).reshape(-1)
        found[has_any] = np.bitwise_or.reduceat(np.append(bits, np.uint64(0)), ends)[::2]
    return found


def _distances(text: str, others: list[str], max_edits: int) -> NDArray[np.uint8]:
    """The number of typos between `text` and each of `others`; more than `max_edits` are ``max_edits + 1``."""
    if not others:
        return np.empty(0, dtype=np.uint8)
    found: NDArray[np.uint8] = process.cdist(
        [text], others, scorer=OSA.distance, score_cutoff=max_edits, dtype=np.uint8, workers=1
    )[0]
    return found

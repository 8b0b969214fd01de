"""The tags of a vocabulary by everything that people call them: names, other names, categories, hyphens for spaces."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import cached_property
from typing import Final, NamedTuple

from booru_embed_core.schema import CATEGORIES, RATING_NAMES, TAG_SEPARATOR, UNKNOWN_TAGS
from booru_embed_core.tags.normalize import PREFIXES, joined, unescaped, unescaped_all
from booru_embed_core.tags.spelling import unique_spellings
from booru_embed_core.tags.vocab import Vocab

_BETWEEN_WORDS: Final = re.compile(r"[\s_-]+")
_BETWEEN_LETTERS: Final = re.compile(r"[\s_-]")
_HYPHENS: Final = re.compile(r"[_-]+")
_LETTER: Final = re.compile(r"[^\W_]")
LONGEST_RUN: Final = 24
"""Words of a tag that are read without a comma; the longest of Danbooru's 140,740 tags of 2026 has 20."""


class Found(NamedTuple):
    """A tag or a rating that a text names."""

    token_id: int | None
    rating: str | None = None
    note: str | None = None
    """How it was read if not by its own name."""


class TagNames:
    """Looks up the names of one vocabulary's tags.

    Attributes:
        by_category: the token_id of each tag by category_id and tag.
        unknown_ids: the token_id of each category's unknown token, None without one.
        spellings: the token_id by each tag's unique spelling, see `unique_spellings`.
        ids: `spellings` without those of unknown tokens, which no text names: they are spelled with a space.
        aliases: the token_id by each other name, in lower case; no tag's own name is among them.
    """

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self.spellings = unique_spellings(vocab.tags, vocab.categories.tolist(), vocab.counts.tolist())
        token_ids = iter(self.spellings.values())  # in order; numbers of their own would take 5 MB for 189,000 tags
        self.by_category: list[dict[str, int]] = [
            dict(zip(tags := vocab.tags_of(category), itertools.islice(token_ids, len(tags)), strict=True))
            for category in CATEGORIES
        ]
        self.unknown_ids = [
            self.by_category[category_id].pop(UNKNOWN_TAGS[category], None)
            for category_id, category in enumerate(CATEGORIES)
        ]
        self.ids = self.spellings
        if TAG_SEPARATOR in "\0".join(self.spellings):
            self.ids = {name: token_id for name, token_id in self.spellings.items() if TAG_SEPARATOR not in name}
        self.aliases = self._known_aliases()

    def find(self, text: str) -> Found | None:
        """The tag or rating that `text` names, without signs around it; None if it names none.

        It is looked up unchanged, unescaped, in any case, as another name, by its category, and with hyphens for
        spaces.
        """
        spaced = joined(text)
        for spelling in (text,) if spaced == text else dict.fromkeys((text, spaced, text.replace(TAG_SEPARATOR, "_"))):
            found = self._look_up(spelling)
            if found is not None:
                return found
        name, _, rating = spaced.casefold().partition(":")
        if name == "rating" and rating.lstrip("_") in RATING_NAMES:
            return Found(None, RATING_NAMES[rating.lstrip("_")])
        return None

    def by_name(self, spelling: str) -> int | None:
        """The token_id of `spelling`, matched exactly, else in lower case, else in any case."""
        if spelling in self.ids:
            return self.ids[spelling]
        folded = spelling.casefold()
        return self.ids.get(folded, self._folded.get(folded))

    def tag(self, token_id: int) -> str:
        """The tag of `token_id`."""
        return self.vocab.tags[token_id - self.vocab.num_special]

    def names(self) -> Iterable[str]:
        """All names of tags, their own and others."""
        yield from self.ids
        yield from self.aliases

    def longest_run(self, word: str) -> int:
        """The most words of a name that begins with `word`, 1 if there is none; at most 24."""
        word = (unescaped_all(word) if "\\" in word else word).casefold()
        prefix, colon, tag = word.partition(":")
        if colon and prefix in PREFIXES:
            if not tag:
                return LONGEST_RUN
            return max(self._longest.get(_first_word(word), 1), self._longest.get(_first_word(tag), 1))
        return self._longest.get(_first_word(word), 1)

    @cached_property
    def _folded(self) -> dict[str, int]:
        """The token_id by each name in lower case, of those that are not: none of Danbooru's."""
        every = "\0".join(self.ids)
        if every.casefold() == every:
            return {}
        folded = zip(map(str.casefold, self.ids), self.ids.items(), strict=True)
        return {spelled: token_id for spelled, (name, token_id) in folded if spelled != name}

    @cached_property
    def longest_name(self) -> int:
        """No text of more characters names a tag, even with a backslash before each and a category."""
        return 3 * max(map(len, self.names()), default=0) + 32

    @cached_property
    def _longest(self) -> dict[str, int]:
        longest: dict[str, int] = {}
        for name in self.names():
            spaced = name
            if not name.isascii() or TAG_SEPARATOR in name or not name.isprintable():  # other white space is neither
                spaced = "_".join(_BETWEEN_LETTERS.split(name))
            folded = spaced.casefold().replace("-", "_")
            words = folded.count("_") + 1
            if words > 1:
                first = folded[: folded.index("_")]
                longest[first] = min(LONGEST_RUN, max(words, longest.get(first, 1)))
        return longest

    @cached_property
    def _unhyphenated(self) -> dict[str, int]:
        """The token_id by each name with hyphens between words, which are underscores here."""
        found: dict[str, int] = {}
        for ids in (self.aliases, self.ids):  # a tag's own name is above another's alias
            of_names: dict[str, int] = {}
            for name, token_id in ids.items():
                if "-" not in name and "__" not in name:
                    continue
                loose = _loose(name)
                if loose not in of_names or self._count(token_id) > self._count(of_names[loose]):
                    of_names[loose] = token_id
            found |= of_names
        return found

    def _look_up(self, word: str) -> Found | None:
        spellings = (word,) if "\\" not in word else tuple(dict.fromkeys((word, unescaped(word), unescaped_all(word))))
        for spelling in spellings:
            token_id = self.by_name(spelling)
            if token_id is not None:
                return Found(token_id)
        for spelling in spellings:
            token_id = self.aliases.get(spelling.casefold())
            if token_id is not None:
                return Found(token_id, note=f"{word}: another name of {self.tag(token_id)}")
        for spelling in spellings:
            found = self._by_prefix(word, spelling)
            if found is not None:
                return found
        loose = _loose(spellings[-1])
        token_id = self.by_name(loose)
        if token_id is None:
            token_id = self._unhyphenated.get(loose, self.aliases.get(loose))
        return None if token_id is None else Found(token_id, note=f"{word}: read as {self.tag(token_id)}")

    def _by_prefix(self, word: str, spelling: str) -> Found | None:
        """The tag behind the category that `spelling` begins with."""
        prefix, colon, tag = spelling.partition(":")
        category_id, tag = PREFIXES.get(prefix.casefold()), tag.lstrip("_ ")
        if not colon or category_id is None:
            return None
        loose = _loose(tag)
        for name in (tag, tag.casefold()):
            if name in self.by_category[category_id]:
                return Found(self.by_category[category_id][name])
        token_id = self.by_category[category_id].get(loose)
        for ids in (self.ids, self.aliases, self._unhyphenated):
            for name in (tag, tag.casefold(), loose):
                token_id = ids.get(name) if token_id is None else token_id
        if token_id is None:
            return None
        category = CATEGORIES[self.vocab.categories[token_id - self.vocab.num_special]]
        if category == CATEGORIES[category_id]:
            return Found(token_id, note=f"{word}: read as {self.tag(token_id)}")
        return Found(token_id, note=f"{word}: taken for {self.tag(token_id)}, which is {category.value}")

    def _count(self, token_id: int) -> int:
        return int(self.vocab.counts[token_id - self.vocab.num_special])

    def _known_aliases(self) -> dict[str, int]:
        """The token_id by each other name; of two tags with the same one, the more used has it."""
        found: dict[str, int] = {}
        for category, tag_of in self.vocab.aliases.items():
            tags = self.by_category[CATEGORIES.index(category)]
            for alias, tag in tag_of.items():
                name = alias.casefold()
                if tag not in tags or self.by_name(name) is not None:
                    continue
                if name not in found or self._count(tags[tag]) > self._count(found[name]):
                    found[name] = tags[tag]
        return found


def _first_word(name: str) -> str:
    """The letters of `name` before its first space, underscore or hyphen."""
    return _BETWEEN_WORDS.split(name, maxsplit=1)[0]


def _loose(name: str) -> str:
    """`name` in lower case, with one underscore for hyphens and underscores; names without letters keep them."""
    folded = name.casefold()
    if "-" not in folded and "__" not in folded:
        return folded
    return _HYPHENS.sub("_", folded) if _LETTER.search(folded) else folded

"""From text to token ids and back.

There are two kinds of text, each with a method of its own. Export fields are split on U+0020 alone and matched
exactly. Typed text is read leniently: ``1girl, (cat ears:1.2), tracer_\\(overwatch\\)`` and ``1girl cat_ears`` both
work. ``docs/reference/captions.md`` has all rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from booru_embed_core.schema import CATEGORIES, RATING_NAMES, TAG_SEPARATOR, UNKNOWN_TAGS, Category
from booru_embed_core.tags.normalize import (
    PREFIXES,
    bare,
    grouped,
    joined,
    typed_pieces,
    unescaped,
    without_layers,
)
from booru_embed_core.tags.spelling import unique_spellings
from booru_embed_core.tags.vocab import Vocab


@dataclass(frozen=True)
class Encoded:
    """One text, encoded.

    Attributes:
        token_ids: ids of its tags, unique, in order of first mention.
        unknown: its tags that are not in the vocabulary.
        notes: a line for each piece that was not taken literally: weights, other names, categories, omissions.
        ratings: ratings that it names (``rating:g``), for a search; they are no tags.
        weights: the weight of each of `token_ids`, above 0; empty if all are 1.
    """

    token_ids: tuple[int, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()
    ratings: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()


class _Found(NamedTuple):
    """The meaning of one piece of a text."""

    token_ids: list[int]
    notes: list[str]
    ratings: list[str]


def split_field(field: str) -> list[str]:
    """The tags of an export's field, in its order, each once. U+0020 alone separates."""
    return list(dict.fromkeys(tag for tag in field.split(TAG_SEPARATOR) if tag))


class Tokenizer:
    """Text to token ids and back, for one vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self._by_category: list[dict[str, int]] = [{} for _ in CATEGORIES]
        for tag_index, (tag, category_id) in enumerate(zip(vocab.tags, vocab.categories.tolist(), strict=True)):
            self._by_category[category_id][tag] = vocab.num_special + tag_index
        self._unknown_ids = [
            self._by_category[category_id].pop(UNKNOWN_TAGS[category], None)
            for category_id, category in enumerate(CATEGORIES)
        ]
        self._spellings = unique_spellings(vocab.tags, vocab.categories.tolist(), vocab.counts.tolist())
        # Unknown tokens are spelled with a space, so that no text names one.
        self._ids = {
            spelling: token_id for spelling, token_id in self._spellings.items() if TAG_SEPARATOR not in spelling
        }
        # Empty for Danbooru, whose tags are lower case.
        self._folded = {
            folded: token_id for spelling, token_id in self._ids.items() if (folded := spelling.casefold()) != spelling
        }
        self.aliases = self._known_aliases()
        """The token_id by each other name of a tag, in lower case; no tag's own name is among them."""

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The unique spelling of each tag, by tag_index: see `spelling.unique_spellings`.

        `encode` reads all of them except those of unknown tokens.
        """
        return tuple(self._spellings)

    def encode(self, text: str) -> Encoded:
        """The tags of typed `text`; it never fails, whatever the text.

        In a text with a comma, commas and line breaks separate, and spaces within a tag become underscores. A piece
        that is no tag is split into its words if they all are tags. In any other text, white space separates. A piece
        is looked up unchanged, unescaped, in any case, as an alias, and by its category (``artist:wlop``; a wrong
        category is noted), then without brackets and weights, the fewest removed first. Of tags of one name in several
        categories, the most used one is meant. Pieces that are not found are returned normalised.
        """
        as_exported = dict.fromkeys(map(self._ids.get, text.split(TAG_SEPARATOR)))
        if None not in as_exported:  # every word is a tag unchanged: same result in a twentieth of the time
            return Encoded(tuple(as_exported), ())  # type: ignore[arg-type]
        token_ids: list[int] = []
        unknown: list[str] = []
        notes: list[str] = []
        ratings: list[str] = []
        for piece in typed_pieces(text, self._ids, notes):
            token_id = self._ids.get(piece, self._ids.get(joined(piece)))
            if token_id is not None:  # the common case: what follows takes several times as long
                token_ids.append(token_id)
                continue
            found = self._read(piece)
            if found is None:
                unknown.append(bare(piece))
            else:
                token_ids += found.token_ids
                notes += found.notes
                ratings += found.ratings
        return Encoded(*(tuple(dict.fromkeys(part)) for part in (token_ids, unknown, notes, ratings)))  # type: ignore[arg-type]

    def tag_named(self, name: str) -> int | None:
        """The token_id of the tag of this `name`, in any case, by another name or with its category; None if none is.

        Spaces, brackets and weights are not read here; `encode` reads them.
        """
        found = self._look_up(name)
        return None if found is None else found[0]

    def normalized(self, encoded: Encoded) -> str:
        """The known tags of `encoded` as one text of `spellings`, which encodes to the same ids without a note."""
        return TAG_SEPARATOR.join(self.spellings[token_id - self.vocab.num_special] for token_id in encoded.token_ids)

    def encode_fields(self, fields: Mapping[Category, str]) -> Encoded:
        """The tags of an export's fields, matched exactly within their category, in schema order.

        Unknown tags are returned as ``category:tag``. If their category has an unknown token, it ends the field.
        """
        found: list[int] = []
        unknown: list[str] = []
        for category, known, unknown_id in zip(CATEGORIES, self._by_category, self._unknown_ids, strict=True):
            tags = split_field(fields.get(category, ""))
            found += [known[tag] for tag in tags if tag in known]
            outside = [f"{category.value}:{tag}" for tag in tags if tag not in known]
            unknown += outside
            if outside and unknown_id is not None:
                found.append(unknown_id)
        return Encoded(tuple(found), tuple(unknown))

    def decode(self, token_ids: Iterable[int]) -> list[tuple[Category, str]]:
        """The category and tag of each of `token_ids`; special tokens are left out.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        decoded = []
        for token_id in token_ids:
            if not 0 <= token_id < self.vocab.num_tokens:
                raise ValueError(f"token_id {token_id} is not in the vocabulary of {self.vocab.num_tokens} tokens")
            if token_id >= self.vocab.num_special:
                tag_index = token_id - self.vocab.num_special
                decoded.append((CATEGORIES[self.vocab.categories[tag_index]], self.vocab.tags[tag_index]))
        return decoded

    def _read(self, piece: str) -> _Found | None:
        """The meaning of `piece`: one tag or rating, or several separated by spaces; None where a part is unknown."""
        found = self._read_one(piece)
        if found is not None:
            return found
        *_, innermost = without_layers(piece)
        for whole in dict.fromkeys((piece, innermost)):
            parts = grouped(whole.split(), self._ids)
            several = _Found([], [f"{piece}: brackets and weights are left out"] if whole != piece else [], [])
            for part in parts if len(parts) > 1 else ():
                found = self._read_one(part)
                if found is None:
                    break
                for all_found, more in zip(several, found, strict=True):
                    all_found += more  # type: ignore[operator]
            else:
                if len(parts) > 1:
                    return several
        return None

    def _read_one(self, piece: str) -> _Found | None:
        for text in without_layers(piece):
            notes = [f"{piece}: brackets and weights are left out"] if text != piece else []
            for spelling in dict.fromkeys((text, joined(text), text.replace(TAG_SEPARATOR, "_"))):
                found = self._look_up(spelling)
                if found is not None:
                    return _Found([found[0]], [*notes, *found[1]], [])
            name, _, rating = joined(text).casefold().partition(":")
            if name == "rating" and rating.lstrip("_") in RATING_NAMES:
                return _Found([], notes, [RATING_NAMES[rating.lstrip("_")]])
        return None

    def _look_up(self, word: str) -> tuple[int, list[str]] | None:
        """The token_id of `word` by its own name, another name or its category, and notes on how it was read."""
        spellings = tuple(dict.fromkeys((word, unescaped(word))))
        for spelling in spellings:
            token_id = self._by_name(spelling)
            if token_id is not None:
                return token_id, []
        for spelling in spellings:
            token_id = self.aliases.get(spelling.casefold())
            if token_id is not None:
                return token_id, [f"{word}: another name of {self._name(token_id)}"]
        for spelling in spellings:
            prefix, colon, tag = spelling.partition(":")
            category_id, tag = PREFIXES.get(prefix.casefold()), tag.lstrip("_ ")
            if not colon or category_id is None:
                continue
            for name in (tag, tag.casefold()):
                if name in self._by_category[category_id]:
                    return self._by_category[category_id][name], []
            token_id = self._by_name(tag)
            if token_id is None:
                token_id = self.aliases.get(tag.casefold())
            if token_id is not None:
                category = CATEGORIES[self.vocab.categories[token_id - self.vocab.num_special]]
                return token_id, [f"{word}: taken for {self._name(token_id)}, which is {category.value}"]
        return None

    def _by_name(self, spelling: str) -> int | None:
        """The token_id of `spelling`, matched exactly, else in lower case, else in any case."""
        if spelling in self._ids:
            return self._ids[spelling]
        folded = spelling.casefold()
        return self._ids.get(folded, self._folded.get(folded))

    def _name(self, token_id: int) -> str:
        return self.vocab.tags[token_id - self.vocab.num_special]

    def _known_aliases(self) -> dict[str, int]:
        """The token_id by each other name; of two tags with the same one, the more used has it."""
        found: dict[str, int] = {}
        num_special, counts = self.vocab.num_special, self.vocab.counts
        for category, tag_of in self.vocab.aliases.items():
            tags = self._by_category[CATEGORIES.index(category)]
            for alias, tag in tag_of.items():
                name = alias.casefold()
                if tag not in tags or self._by_name(name) is not None:
                    continue
                if name not in found or counts[tags[tag] - num_special] > counts[found[name] - num_special]:
                    found[name] = tags[tag]
        return found

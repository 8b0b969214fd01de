"""The one way from text to token ids: for counting, encoding and for what people type.

Two kinds of text, told apart by the method that reads them. Export fields are split on U+0020 alone and matched as
they stand. What people type is forgiving: ``1girl, cat ears, tracer_\\(overwatch\\)`` and ``1girl cat_ears`` both work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, UNKNOWN_TAGS, Category, tag_column
from booru_embed_core.tags.spelling import tokenizers_json, unique_spellings
from booru_embed_core.tags.vocab import Vocab

_ESCAPED: Final = re.compile(r"\\([()\[\]])")
_CATEGORY_NAMES: Final = {category.value: category_id for category_id, category in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class Encoded:
    """Token ids of one text, unique, in order of first mention; and its tags that are not in the vocabulary."""

    token_ids: tuple[int, ...]
    unknown: tuple[str, ...]


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
        # Unknown tokens are spelled with a space: nobody can name one.
        self._ids = {
            spelling: token_id for spelling, token_id in self._spellings.items() if TAG_SEPARATOR not in spelling
        }

    @property
    def spellings(self) -> tuple[str, ...]:
        """How each tag is written so that it is told from all others; the place is the tag_index.

        The bare tag, or ``category:tag`` for the less used of two tags of one name. `encode` reads all but those of
        unknown tokens.
        """
        return tuple(self._spellings)

    def encode(self, text: str) -> Encoded:
        """The tags of `text` as people type it.

        With a comma, commas separate, and spaces within a tag become underscores; a piece that is no tag but whose
        words all are gives its words. Without a comma, white space separates. Each tag is looked up as it stands, then
        with ``\\(`` unescaped, then in lower case. ``category:tag`` names the category where the text is no tag itself;
        a tag of several categories is the most used one. What is not found is returned as it was normalised.
        """
        as_exported = dict.fromkeys(map(self._ids.get, text.split(TAG_SEPARATOR)))
        if None not in as_exported:  # every word a tag as it stands: the same, in a twentieth of the time
            return Encoded(tuple(as_exported), ())  # type: ignore[arg-type]
        found: list[int] = []
        unknown: list[str] = []
        for piece in _pieces(text, self._ids):
            token_ids = self._look_up_piece(piece)
            if token_ids is None:
                unknown.append(_joined(_unescaped(piece)))
            else:
                found += token_ids
        return Encoded(tuple(dict.fromkeys(found)), tuple(dict.fromkeys(unknown)))

    def encode_fields(self, fields: Mapping[Category, str]) -> Encoded:
        """The tags of an export's fields, matched exactly within their category, in schema order.

        Unknown ones are returned as ``category:tag``; where the category has an unknown token, it ends the field.
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
        """Category and tag of each of `token_ids`; special tokens are left out.

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

    def to_tokenizers_json(self) -> str:
        """The vocabulary as the ``tokenizers`` library reads it; see `spelling.tokenizers_json`."""
        return tokenizers_json(self._spellings)

    def _look_up_piece(self, piece: str) -> list[int] | None:
        """The token ids of one comma-separated piece, or None."""
        for spelling in (piece, _joined(piece)):
            token_id = self._look_up(spelling)
            if token_id is not None:
                return [token_id]
        words = [self._look_up(word) for word in piece.split()]
        known = [token_id for token_id in words if token_id is not None]
        return known if known and len(known) == len(words) else None

    def _look_up(self, word: str) -> int | None:
        unescaped = _unescaped(word)
        for spelling in dict.fromkeys((word, unescaped, word.lower(), unescaped.lower())):
            if spelling in self._ids:
                return self._ids[spelling]
            category, colon, tag = spelling.partition(":")
            if colon and category in _CATEGORY_NAMES:
                token_id = self._by_category[_CATEGORY_NAMES[category]].get(tag)
                if token_id is not None:
                    return token_id
        return None


def record_fields(record: Mapping[str, str]) -> dict[Category, str]:
    """The tag fields of a post's `record`, a mapping of the export's columns."""
    return {category: record[tag_column(category)] for category in CATEGORIES}


def _pieces(text: str, known: Mapping[str, int]) -> Iterable[str]:
    """The parts of typed `text` that stand for a tag each, in order."""
    words = [word for word in text.split(TAG_SEPARATOR) if word]
    if "," not in text or all(word in known for word in words):
        for word in words:
            # Other white space occurs inside tags, but people also separate with it.
            yield from [word] if word in known else word.split()
        return
    # A tag may contain a comma; it is only taken for one where it stands between spaces as the export has it.
    pending: list[str] = []
    for word in words:
        if "," in word and word in known:
            yield from _stripped(" ".join(pending))
            pending = []
            yield word
        else:
            pending.append(word)
    yield from _stripped(" ".join(pending))


def _stripped(text: str) -> Iterable[str]:
    return (stripped for piece in text.split(",") if (stripped := piece.strip()))


def _joined(piece: str) -> str:
    return "_".join(piece.split())


def _unescaped(piece: str) -> str:
    return _ESCAPED.sub(r"\1", piece)

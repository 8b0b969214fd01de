"""From text to token ids and back.

There are two kinds of text, each with a method of its own. Export fields are split on U+0020 alone and matched
exactly. Typed text is read leniently: ``1girl, (cat ears:1.2), tracer_\\(overwatch\\)`` and ``1girl cat_ears`` both
work. ``docs/reference/captions.md`` has all rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, Category
from booru_embed_core.tags.names import TagNames
from booru_embed_core.tags.normalize import joined
from booru_embed_core.tags.vocab import Vocab

if TYPE_CHECKING:
    from booru_embed_core.tags.emphasis import Mention
    from booru_embed_core.tags.reader import CaptionReader

_LIST: Final = re.compile(r"[,\n]")


@dataclass(frozen=True)
class Encoded:
    """One text, encoded.

    Attributes:
        token_ids: ids of its tags, unique, in order of first mention.
        unknown: its tags that are not in the vocabulary.
        notes: a line for each piece that was not taken literally: weights, other names, categories, omissions.
        ratings: ratings that it names (``rating:g``), for a search; they are no tags.
        weights: the weight of each of `token_ids`, above 0; empty if all are 1.
        excluded: ids of the tags with a weight of 0 or less, which are not among `token_ids`.
    """

    token_ids: tuple[int, ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...] = ()
    ratings: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    excluded: tuple[int, ...] = ()


def split_field(field: str) -> list[str]:
    """The tags of an export's field, in its order, each once. U+0020 alone separates."""
    return list(dict.fromkeys(tag for tag in field.split(TAG_SEPARATOR) if tag))


class Tokenizer:
    """Text to token ids and back, for one vocabulary."""

    def __init__(self, vocab: Vocab) -> None:
        self.vocab = vocab
        self._names = TagNames(vocab)
        self._ids = self._names.ids
        self._has_commas = any("," in tag for tag in vocab.tags)
        self.aliases = self._names.aliases
        """The token_id by each other name of a tag, in lower case; no tag's own name is among them."""

    @cached_property
    def _reader(self) -> CaptionReader:
        from booru_embed_core.tags.reader import CaptionReader  # lists of known tags need none of its expressions

        return CaptionReader(self._names)

    @cached_property
    def spellings(self) -> tuple[str, ...]:
        """The unique spelling of each tag, by tag_index: see `spelling.unique_spellings`.

        `encode` reads all of them except those of unknown tokens.
        """
        return tuple(self._names.spellings)

    def encode(self, text: str) -> Encoded:
        """The tags of typed `text` and their weights; it never fails, whatever the text.

        Commas, line breaks and the like separate tags, and spaces within a tag become underscores. Without them, white
        space separates, but a run of words that is a tag is one where a word of it is none. A tag is looked up
        unchanged, unescaped, in any case, as an alias, by its category (``artist:wlop``; a wrong category is noted),
        then without the signs around it, the fewest removed first. Of tags of one name in several categories, the most
        used one is meant. A tag that is mentioned several times has the greatest weight, but a weight of 0 or less
        leaves it out. What is not found is returned normalised.
        """
        as_exported = dict.fromkeys(map(self._ids.get, text.split(TAG_SEPARATOR)))
        if None not in as_exported:  # every word is a tag unchanged: same result in a twentieth of the time
            return Encoded(tuple(as_exported), ())  # type: ignore[arg-type]
        if not self._has_commas:
            as_listed = dict.fromkeys(self._ids.get(name) for piece in _LIST.split(text) if (name := joined(piece)))
            if None not in as_listed:
                return Encoded(tuple(as_listed), ())  # type: ignore[arg-type]
        reading = self._reader.read(text)
        notes = list(reading.notes)
        weights = _weights(reading.mentions, notes)
        ratings = dict.fromkeys(
            mention.rating for mention in reading.mentions if mention.rating is not None and mention.weight > 0
        )
        mentioned = dict.fromkeys(mention.token_id for mention in reading.mentions if mention.token_id is not None)
        return Encoded(
            tuple(weights),
            tuple(dict.fromkeys(reading.unknown)),
            tuple(dict.fromkeys(notes)),
            tuple(ratings),
            () if all(weight == 1 for weight in weights.values()) else tuple(weights.values()),
            tuple(token_id for token_id in mentioned if token_id not in weights),
        )

    def exactly(self, names: Iterable[object]) -> list[int | None]:
        """The token_id of each of `names` that is a tag's own name, unchanged: what `encode` finds first; else None."""
        ids = self._ids
        return [ids.get(name) if isinstance(name, str) else None for name in names]

    def tag_named(self, name: str) -> int | None:
        """The token_id of the tag that `name` names, without signs around it; None if it names none."""
        found = self._names.find(name)
        return None if found is None else found.token_id

    def without_settings(self, text: str, notes: list[str]) -> str:
        """`text` without what names no tag, as `encode` takes it out; `notes` gets a line for everything taken out."""
        from booru_embed_core.tags.dialects import without_settings

        return without_settings(text, self._ids, notes)

    def normalized(self, encoded: Encoded) -> str:
        """The known tags of `encoded` as one text of `spellings`, which encodes to the same ids without a note."""
        return TAG_SEPARATOR.join(self.spellings[token_id - self.vocab.num_special] for token_id in encoded.token_ids)

    def encode_fields(self, fields: Mapping[Category, str]) -> Encoded:
        """The tags of an export's fields, matched exactly within their category, in schema order.

        Unknown tags are returned as ``category:tag``. If their category has an unknown token, it ends the field.
        """
        found: list[int] = []
        unknown: list[str] = []
        for category, known, unknown_id in zip(
            CATEGORIES, self._names.by_category, self._names.unknown_ids, strict=True
        ):
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


def _weights(mentions: Iterable[Mention], notes: list[str]) -> dict[int, float]:
    """The weight of each mentioned tag, in order of first mention, without those that a mention leaves out."""
    found: dict[int, list[Mention]] = {}
    for mention in mentions:
        if mention.token_id is not None:
            found.setdefault(mention.token_id, []).append(mention)
    weights = {}
    for token_id, of_tag in found.items():
        if len(of_tag) == 1 and of_tag[0].weight > 0:
            weights[token_id] = of_tag[0].weight
            continue
        if min(mention.weight for mention in of_tag) <= 0:
            continue
        weights[token_id] = max(mention.weight for mention in of_tag)
        several = dict.fromkeys(f"{mention.weight:g}" for mention in of_tag)
        if len(several) > 1:
            notes.append(f"{of_tag[0].name}: mentioned with weights {', '.join(several)}; {weights[token_id]:g} counts")
    return weights

"""A tagger's scores as captions of weighted tags, and what became of each score.

A score is a poor weight: many tags of low score add up to much. ``score ** 6`` weighs as well as the best threshold;
``docs/guides/use-the-embedding.md`` has the measurement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from booru_embed_core.embedder.caption_files import CaptionFile, CaptionFileError, Row
from booru_embed_core.embedder.tagger_files import TaggedImage, tagged_images
from booru_embed_core.embedder.tagger_values import RATING, TagScore
from booru_embed_core.errors import disk_errors, shown
from booru_embed_core.schema import RATING_NAMES, TAG_SEPARATOR, Category
from booru_embed_core.tags.tokenizer import Tokenizer

DEFAULT_THRESHOLD: Final = 0.05
DEFAULT_POWER: Final = 6.0
MAX_POWER: Final = 100.0
_RATINGS: Final = ("general", "sensitive", "questionable", "explicit")
"""The tags of category 9."""
_REMEMBERED: Final = 1 << 16
"""Names that are looked up once; taggers know some 11,000 tags."""


@dataclass(frozen=True)
class TaggerRules:
    """How scores become weights.

    Attributes:
        general_threshold: minimal score of a tag, unless it is a character.
        character_threshold: minimal score of a character.
        power: the weight of a tag is its score raised to this; 0 gives each tag the weight 1.
        kinds: category, or `RATING`, of tags by their names, where the scores do not tell.
    """

    general_threshold: float = DEFAULT_THRESHOLD
    character_threshold: float = DEFAULT_THRESHOLD
    power: float = DEFAULT_POWER
    kinds: Mapping[str, str] = field(default_factory=dict)


@dataclass
class TaggerCounts:
    """What became of the scores: each is kept, below a threshold, or a rating."""

    num_scores: int = 0
    num_kept: int = 0
    num_below: Counter[str] = field(default_factory=Counter)
    """By `general` and `character`."""
    num_ratings: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    """Kept tags that are not in the vocabulary, each with its number of images."""
    ratings: Counter[str] = field(default_factory=Counter)
    """The most probable rating of each image that has one."""


class _Reading(NamedTuple):
    """What the vocabulary says of a name."""

    names: tuple[str, ...]
    """Itself; or, of a text with several tags between spaces, each of them."""
    category: Category | None
    rating: str | None


@dataclass
class TaggerFile(CaptionFile):
    """What a tagger's tool wrote, as captions of weighted tags; images are the ids. `counts` is kept up to date."""

    tokenizer: Tokenizer | None = None
    rules: TaggerRules = field(default_factory=TaggerRules)
    counts: TaggerCounts = field(default_factory=TaggerCounts)
    untagged: list[str] = field(default_factory=list)
    """The images of a folder without tags."""

    def __iter__(self) -> Iterator[Row]:
        """The rows.

        Raises:
            CaptionFileError: see there.
            DiskError: the file cannot be read to its end.
        """
        assert self.file is not None
        assert self.tokenizer is not None
        captions = TaggerCaptions(self.tokenizer, self.rules, self.counts)
        with disk_errors(self.file):
            for image in tagged_images(self.file, self.untagged):
                yield Row(image.place, image.id, captions.caption(image))


class TaggerCaptions:
    """Makes captions of scores, and counts what became of them."""

    def __init__(self, tokenizer: Tokenizer, rules: TaggerRules, counts: TaggerCounts) -> None:
        self._tokenizer = tokenizer
        self._rules = rules
        self._counts = counts
        self._read = lru_cache(_REMEMBERED)(self._reading)

    def caption(self, image: TaggedImage) -> dict[str, float]:
        """The tags of `image` with their weights.

        Raises:
            CaptionFileError: a rating is none.
        """
        counts, rules = self._counts, self._rules
        weights: dict[str, float] = {}
        ratings: dict[str, float] = {}
        for one in image.scores:
            reading = self._read(one.name)
            kind = one.kind or rules.kinds.get(one.name.replace(TAG_SEPARATOR, "_")) or reading.category
            counts.num_scores += len(reading.names)
            if kind == RATING or (kind is None and reading.rating is not None):
                counts.num_ratings += len(reading.names)
                letter = reading.rating or self._rating(one, image)
                ratings[letter] = max(one.score, ratings.get(letter, 0.0))
                continue
            is_character = kind == Category.CHARACTER
            threshold = rules.character_threshold if is_character else rules.general_threshold
            if one.score < threshold or one.score == 0:
                counts.num_below["character" if is_character else "general"] += len(reading.names)
                continue
            counts.num_kept += len(reading.names)
            for name in reading.names:
                weights[name] = max(weights.get(name, 0.0), one.score**rules.power)
        if ratings:
            counts.ratings[max(ratings, key=lambda letter: ratings[letter])] += 1
        counts.unknown.update(name for name in weights if self._read(name).category is None)
        return weights

    def _rating(self, one: TagScore, image: TaggedImage) -> str:
        letter = RATING_NAMES.get(one.name.strip().lower())
        if letter is None:
            raise CaptionFileError(
                f"{image.place}: the rating is {shown(one.name)}; ratings are {', '.join(_RATINGS)} or g, s, q, e"
            )
        return letter

    def _reading(self, name: str) -> _Reading:
        encoded = self._tokenizer.encode(f"{name}," if TAG_SEPARATOR in name else name)
        tags = self._tokenizer.decode(encoded.token_ids)
        if len(tags) + len(encoded.unknown) > 1:  # a caption without commas
            return _Reading((*(tag for _, tag in tags), *encoded.unknown), None, None)
        is_rating = not tags and name.strip().lower() in _RATINGS
        rating = RATING_NAMES[name.strip().lower()] if is_rating else next(iter(encoded.ratings), None)
        return _Reading((name,), tags[0][0] if tags else None, None if tags else rating)

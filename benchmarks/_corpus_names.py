"""Tag names for the generated corpus: realistic ones, and names that break CSV readers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from booru_embed_core.schema import Category

# fmt: off
HOSTILE_GENERAL: Final = (
    # faces
    ":d", ";)", "^_^", "=_=", "-_-", "@_@", ">:)", "\\m/", "\\||/", "(o)_(o)", "!?", "...", "_",
    # quotes and separators of CSV
    "'", '"', '""', '"quoted"', 'say_"hello"', '",', '","', ",", ",,", "a,b", ";", "|", "||", "--", "#comment",
    # look like nulls, numbers or booleans
    "\\N", "\\n", "\\", "null", "NULL", "nan", "NA", "None", "true", "0", "007", "1e5", "-1", "+1",
    # formulas, formats, JSON and markup
    "=cmd|'/c'!A1", "=1+1", "@sum", "%s%n", '{json:"x"}', "[1,2]", "<eos>", "<|endoftext|>", "[PAD]", "<unk>",
    "general",
    # composed and decomposed, other scripts, joined emoji, case
    "caf\u00e9", "cafe\u0301", "\u3042\u3044\u3046", "\u7dda\u306e\u592a\u3055", "\U0001f469\u200d\U0001f680",
    "ABC", "abc",
    # white space that is not a separator, and zero-width characters
    "zero\u200bwidth", "ideographic\u3000space", "nbsp\u00a0inside", "nel\u0085inside", "rtl\u202eoverride",
    "\ufeffbom",
    # long ones
    "x" * 255, "\u9577" * 170, "..." * 30 + "a",
)
HOSTILE_ARTISTS: Final = (
    "null", "nan", "\\N", "1", "-", "=", "o'brien", '"the_"artist', "a,b,c", "\u6c34\u5f69(\u753b\u5bb6)",
    "\u00fc\u00f1\u00ee",
)
_ADJECTIVES: Final = (
    "red", "blue", "long", "short", "open", "closed", "small", "torn", "wet", "striped", "floral", "simple", "raised",
    "glowing", "dark", "light",
)
_NOUNS: Final = (
    "hair", "eyes", "dress", "skirt", "hat", "ribbon", "gloves", "boots", "sword", "flower", "ears", "wings",
    "sleeves", "necktie", "earrings", "smile", "hand", "uniform", "coat", "glasses", "scarf", "bag", "book", "moon",
    "sky", "tree", "water", "cup", "cake", "cat", "bird", "train", "window", "chair",
)
# fmt: on
_QUALIFIERS: Final = ("request", "id", "(medium)", "source", "commentary", "edit")
_FREQUENT_META: Final = ("highres", "absurdres", "commentary_request", "bad_id", "translated", "commentary")
_CONSONANTS: Final = (*"kstnhmyrwgzdbp", "sh", "ch", "ts", "ky", "")
_SYLLABLES: Final = tuple(consonant + vowel for consonant in _CONSONANTS for vowel in "aiueo")


@dataclass(frozen=True, kw_only=True)
class NumNames:
    """Number of tags per category; the defaults approximate the whole site's tags with two posts or more."""

    general: int = 42_000
    artist: int = 400_000
    copyright: int = 32_000
    character: int = 165_000
    meta: int = 520


def make_names(num: NumNames, seed: int) -> dict[Category, list[str]]:
    """Distinct names per category, the most frequent first; equal arguments give equal names.

    Hostile general names are at ranks from 20 on, each about a tenth further down than the previous one.
    """
    maker = _Maker(seed)
    general = maker.many(num.general - len(HOSTILE_GENERAL), maker.general, HOSTILE_GENERAL)
    rank = 20
    for name in HOSTILE_GENERAL:
        general.insert(min(rank, len(general)), name)
        rank += 3 + rank // 10
    artists = maker.many(num.artist - len(HOSTILE_ARTISTS), maker.artist, HOSTILE_ARTISTS)
    copyrights = maker.many(num.copyright - 1, maker.copyright, ("original",))
    meta = maker.many(num.meta - len(_FREQUENT_META), maker.meta, _FREQUENT_META)
    characters = maker.many(num.character, lambda: maker.character(copyrights), ())
    return {
        Category.GENERAL: general,
        Category.ARTIST: [*HOSTILE_ARTISTS, *artists],
        Category.COPYRIGHT: ["original", *copyrights],
        Category.CHARACTER: characters,
        Category.META: [*_FREQUENT_META, *meta],
    }


class _Maker:
    """Invents names."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def many(self, num: int, make: Callable[[], str], taken: Iterable[str]) -> list[str]:
        """`num` distinct names outside `taken`; a repeated name gets a number."""
        seen = dict.fromkeys(taken, 1)
        names: list[str] = []
        while len(names) < num:
            name = make()
            seen[name] = seen.get(name, 0) + 1
            if seen[name] > 1:
                name = f"{name}_{seen[name]}"
                if name in seen:
                    continue
                seen[name] = 1
            names.append(name)
        return names

    def word(self, fewest: int, most: int) -> str:
        """A word of `fewest` to `most` syllables."""
        return "".join(self._random.choices(_SYLLABLES, k=self._random.randint(fewest, most)))

    def general(self) -> str:
        noun, kind = self._random.choice(_NOUNS), self._random.random()
        if kind < 0.25:
            return f"{self._random.choice(_ADJECTIVES)}_{noun}"
        if kind < 0.5:
            return f"{noun}_({self.word(2, 4)})"
        return f"{self.word(1, 3)}_{noun}"

    def artist(self) -> str:
        kind = self._random.random()
        if kind < 0.7:
            return self.word(2, 5)
        return f"{self.word(1, 3)}{self._random.randrange(10_000)}" if kind < 0.9 else f"{self.word(1, 3)}_(artist)"

    def copyright(self) -> str:
        words = "_".join(self.word(2, 4) for _ in range(self._random.choice((1, 1, 2, 3))))
        return words + self._random.choice(("", "", "!", f":_{self.word(2, 3)}", "_(series)"))

    def character(self, copyrights: list[str]) -> str:
        name = f"{self.word(2, 3)}_{self.word(1, 3)}"
        return f"{name}_({self._random.choice(copyrights)[:24]})" if self._random.random() < 0.5 else name

    def meta(self) -> str:
        return f"{self.word(2, 3)}_{self._random.choice(_QUALIFIERS)}"

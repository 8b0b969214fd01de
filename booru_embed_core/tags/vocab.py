"""The vocabulary: the tags that are worth a token, with their ids, in memory and read from disk.

Serving starts with this module, so it needs no more than numpy. Vocabularies are built and written by `build`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.errors import cannot_be_read, first_line
from booru_embed_core.filesystem import file_sha256
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, SPECIAL_TOKENS, UNKNOWN_TAGS, Category
from booru_embed_core.tags.implications import Implications

if TYPE_CHECKING:
    from booru_embed_core.settings import VocabSettings
    from booru_embed_core.tags.vocab_file import VocabFile

FORMAT_VERSION: Final = 3
_HASHED_VERSION: Final = 1
"""Part of the hash, not of the files: another number would orphan every packed file and checkpoint."""
VOCAB_TABLE_FILE: Final = "vocab.parquet"
VOCAB_FILE: Final = "vocab.json"
TOKENIZER_FILE: Final = "tokenizer.json"
IMPLICATIONS_FILE: Final = "implications.parquet"
"""For other programs, and not copied: ``vocab.json`` has implications too."""
VOCAB_FILES: Final = (VOCAB_TABLE_FILE, VOCAB_FILE, TOKENIZER_FILE)
_REMEDY: Final = "build the vocab again"


class VocabError(ValueError):
    """A vocabulary cannot be read or is not what it says it is; the message names the file and the remedy."""


def _vocab_settings(values: Any = None) -> VocabSettings:
    """The settings of `values`, the defaults where they are None. Imports pydantic only now: serving starts without."""
    from booru_embed_core.settings import VocabSettings

    return VocabSettings() if values is None else VocabSettings.model_validate(values)


@dataclass(frozen=True, kw_only=True)
class CutLoss:
    """Tags that the cut of one category lost, and their uses."""

    num_tags: int
    num_uses: int


@dataclass(frozen=True, eq=False)
class Vocab:
    """The tokens: special ones first, then tags, category after category, most used first.

    With ``unpopular = "unk"`` the last tag of each category is its unknown token, spelled as in `UNKNOWN_TAGS`; its
    count is the uses that the cut lost. It has ids like any tag and counts in all sizes. `is_unknown` marks it.

    ``token_id`` = ``category_offsets[category_id] + local_id``. ``tag_index`` = ``token_id - num_special`` is a tag's
    index in `tags` (a tuple of strings), `categories` (uint8 `[num_tags]`, the category_id) and `counts` (int64
    `[num_tags]`).
    """

    tags: tuple[str, ...]
    categories: NDArray[np.uint8]
    counts: NDArray[np.int64]
    settings: VocabSettings = field(default_factory=lambda: _vocab_settings())
    lost: Mapping[Category, CutLoss] | None = None
    """What the cut lost of each category; None where it is unknown."""
    aliases: Mapping[Category, Mapping[str, str]] = field(default_factory=dict)
    """By category, the tag of each other name in the posts' table of aliases. They serve to look up typed text only:
    `hash` covers neither them nor `lost` nor `settings` nor `implications`."""
    implications: Implications = field(default_factory=lambda: Implications.none(0))
    """Which tags follow from others; by default none."""

    def __post_init__(self) -> None:
        if not self.implications.num_pairs:
            object.__setattr__(self, "implications", Implications.none(self.num_tags))
        assert self.implications.num_tags == self.num_tags, "implications of another vocabulary"

    @property
    def num_special(self) -> int:
        """Number of special tokens, which is the first tag's token_id."""
        return len(SPECIAL_TOKENS)

    @property
    def num_tags(self) -> int:
        """Number of tags in all categories."""
        return len(self.tags)

    @property
    def num_tokens(self) -> int:
        """Special tokens and tags: the rows of a model's embedding."""
        return self.num_special + self.num_tags

    @property
    def special_ids(self) -> dict[str, int]:
        """The token_id of each special token."""
        return {token: token_id for token_id, token in enumerate(SPECIAL_TOKENS)}

    @cached_property
    def sizes(self) -> dict[Category, int]:
        """Tags of each category, its unknown token included."""
        counts = np.bincount(self.categories, minlength=NUM_CATEGORIES)
        return {category: int(counts[category_id]) for category_id, category in enumerate(CATEGORIES)}

    @cached_property
    def category_offsets(self) -> NDArray[np.int64]:
        """The token_id of local id 0 of each category, and the end: int64 `[NUM_CATEGORIES + 1]`."""
        return self.num_special + np.cumsum([0, *self.sizes.values()])

    @cached_property
    def local_ids(self) -> NDArray[np.int64]:
        """Each tag's index within its category, int64 `[num_tags]`."""
        return np.arange(self.num_special, self.num_tokens) - self.category_offsets[self.categories]

    def first_token_id(self, category: Category) -> int:
        """The token_id of the most used tag of `category` (of the next category's where it is empty)."""
        return int(self.category_offsets[CATEGORIES.index(category)])

    def tags_of(self, category: Category) -> tuple[str, ...]:
        """The tags of `category`, its unknown token included, by local_id."""
        start = self.first_token_id(category) - self.num_special
        return self.tags[start : start + self.sizes[category]]

    def unknown_local_id(self, category: Category) -> int | None:
        """The local_id of the unknown token of `category`, its last; None where its unpopular tags are dropped."""
        end = self.first_token_id(category) - self.num_special + self.sizes[category]
        has_one = self.sizes[category] > 0 and self.tags[end - 1] == UNKNOWN_TAGS[category]
        return self.sizes[category] - 1 if has_one else None

    @cached_property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Which tags are unknown tokens, bool `[num_tags]`: the model reads them, but nobody is offered one."""
        unknown = np.zeros(self.num_tags, dtype=np.bool_)
        for category in CATEGORIES:
            local_id = self.unknown_local_id(category)
            if local_id is not None:
                unknown[self.first_token_id(category) - self.num_special + local_id] = True
        return unknown

    def lost_rows(self) -> list[dict[str, Any]]:
        """What the cut lost: for each category what is kept and lost; none where that is unknown."""
        rows = []
        for category_id, (category, lost) in enumerate((self.lost or {}).items()):
            is_kept = (self.categories == category_id) & ~self.is_unknown
            num_kept, kept_uses = int(is_kept.sum()), int(self.counts[is_kept].sum())
            rows.append(
                {
                    "category": category.value,
                    "tags_kept": num_kept,
                    "tags_lost": lost.num_tags,
                    "uses_kept": kept_uses,
                    "uses_lost": lost.num_uses,
                    "share_of_uses_lost": lost.num_uses / max(1, kept_uses + lost.num_uses),
                }
            )
        return rows

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of the special tokens and of category, tag and count of each tag in order.

        The settings are not hashed: another cut that keeps the same tags gives the same vocabulary.
        """
        content = [
            _HASHED_VERSION,
            list(SPECIAL_TOKENS),
            [category.value for category in CATEGORIES],
            self.categories.tolist(),
            list(self.tags),
            self.counts.tolist(),
        ]
        text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @classmethod
    def load(cls, vocab_dir: Path) -> Vocab:
        """The vocabulary that `build.save_vocab` wrote, from ``vocab.json``; the files beside it are checked too.

        Raises:
            VocabError: a file is missing, damaged, of another format, or not the content that its hash names.
        """
        # Imported only now, with pydantic: serving starts without.
        from booru_embed_core.json_files import read_json
        from booru_embed_core.tags.vocab_file import MAX_VOCAB_BYTES, VocabFile

        file = vocab_dir / VOCAB_FILE
        found = read_json(
            file,
            VocabFile,
            VocabError,
            _REMEDY,
            missing="build the vocab first",
            max_bytes=MAX_VOCAB_BYTES,
            format_version=FORMAT_VERSION,
        )
        _check_files(file, found.files)
        return _checked(file, found)


def _check_files(file: Path, listed: Mapping[str, str]) -> None:
    """Raises where a file beside `file` is not the one that it lists."""
    for name in (VOCAB_TABLE_FILE, TOKENIZER_FILE, IMPLICATIONS_FILE):
        beside = file.with_name(name)
        try:
            if beside.exists() and file_sha256(beside) != listed.get(name):
                raise VocabError(
                    f"{beside}: was changed or belongs to another vocab: its SHA-256 is not that in {VOCAB_FILE}; "
                    f"{_REMEDY}"
                )
        except OSError as error:
            raise VocabError(f"{beside}: {cannot_be_read(error, 'check it')}") from None


def _implications(effects_of: Mapping[str, str], num_tags: int) -> Implications:
    """What `implications_text` wrote; none in the description of an older vocabulary."""
    effects = [text.split() for text in effects_of.values()]
    causes = np.repeat(np.array(list(effects_of), np.int64), [len(one) for one in effects])
    return Implications.of_pairs(causes, np.array(list(itertools.chain.from_iterable(effects)), np.int64), num_tags)


def implications_text(implications: Implications) -> dict[str, str]:
    """For each tag index that implies others, those others, separated by spaces: a line each in ``vocab.json``."""
    causes, effects = implications.pairs.T.tolist()
    found: dict[str, list[str]] = {}
    for cause, effect in zip(causes, effects, strict=True):
        found.setdefault(str(cause), []).append(str(effect))
    return {cause: " ".join(one) for cause, one in found.items()}


def _checked(file: Path, found: VocabFile) -> Vocab:
    every = [*CATEGORIES]
    listed: list[Iterable[Category]] = [found.tags, found.counts, every if found.lost is None else found.lost]
    if any({*one} != {*every} for one in listed):
        raise VocabError(f"{file}: lacks a category of {', '.join(CATEGORIES)}; {_REMEDY}")
    tags = tuple(itertools.chain.from_iterable(found.tags[category] for category in every))
    sizes = {category: len(found.tags[category]) for category in every}
    if sizes != found.sizes or sizes != {category: len(found.counts[category]) for category in every}:
        raise VocabError(f"{file}: sizes, tags and counts are not equally many in each category; {_REMEDY}")
    numbers = (len(SPECIAL_TOKENS), len(tags), len(SPECIAL_TOKENS) + len(tags))
    special = {token: token_id for token_id, token in enumerate(SPECIAL_TOKENS)}
    if (found.num_special, found.num_tags, found.num_tokens) != numbers or found.special_ids != special:
        raise VocabError(f"{file}: special tokens, tags and tokens are not {numbers}; {_REMEDY}")
    try:
        implications = _implications(found.implications, len(tags))
    except (ValueError, OverflowError, LookupError) as error:
        raise VocabError(f"{file}: implications that are none ({first_line(error)}); {_REMEDY}") from None
    lost = None if found.lost is None else {of: CutLoss(**found.lost[of].model_dump()) for of in every}
    counts = np.array([count for category in every for count in found.counts[category]], dtype=np.int64)
    categories = np.repeat(np.arange(NUM_CATEGORIES, dtype=np.uint8), list(sizes.values()))
    vocab = Vocab(tags, categories, counts, found.settings, lost, found.aliases, implications)
    if vocab.hash != found.sha256:
        raise VocabError(
            f"{file}: its sha256 {found.sha256!r} is not that of its tags ({vocab.hash}); "
            f"one of the two was changed: {_REMEDY}"
        )
    return vocab

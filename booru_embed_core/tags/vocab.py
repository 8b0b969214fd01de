"""The vocabulary: the tags that are worth a token, with their ids, in memory and on disk."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.arrow import schema_of, strings
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, SPECIAL_TOKENS, UNKNOWN_TAGS, Category
from booru_embed_core.settings import VocabSettings
from booru_embed_core.tags.cut import cut_size, wide_category
from booru_embed_core.tags.frequency import read_frequencies
from booru_embed_core.tags.spelling import tokenizers_json, unique_spellings

FORMAT_VERSION: Final = 2
_HASHED_VERSION: Final = 1
"""What is hashed, whatever the files look like: another number would orphan every packed file and checkpoint."""
VOCAB_TABLE_FILE: Final = "vocab.parquet"
VOCAB_FILE: Final = "vocab.json"
TOKENIZER_FILE: Final = "tokenizer.json"

VOCAB_SCHEMA: Final = schema_of(
    {
        "token_id": pa.int32(),
        "category": pa.string(),
        "tag": pa.string(),
        "count": pa.int64(),
        "local_id": pa.int32(),
    }
)

LOST_SCHEMA: Final = schema_of(
    {
        "category": pa.string(),
        "tags_kept": pa.int64(),
        "tags_lost": pa.int64(),
        "uses_kept": pa.int64(),
        "uses_lost": pa.int64(),
        "share_of_uses_lost": pa.float64(),
    }
)


class VocabError(ValueError):
    """A vocabulary cannot be read or is not what it says it is; the message names the file and the remedy."""


class WideVocabWarning(UserWarning):
    """A category has more tags than 16 bits tell apart."""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What the cut of one category lost: tags, and their uses."""

    num_tags: int
    num_uses: int


@dataclass(frozen=True, eq=False)
class Vocab:
    """The tokens: special ones first, then tags, category after category, most used first.

    With ``unpopular = "unk"`` the last tag of each category is its unknown token, spelled as in `UNKNOWN_TAGS`, whose
    count is the uses that the cut lost. It has ids as any tag has and makes the same sizes; `is_unknown` tells it.

    ``token_id`` = ``category_offsets[category_id] + local_id``; ``tag_index`` = ``token_id - num_special`` places a
    tag in `tags` (a tuple of strings), `categories` (uint8 `[num_tags]`, the category_id) and `counts` (int64
    `[num_tags]`).
    """

    tags: tuple[str, ...]
    categories: NDArray[np.uint8]
    counts: NDArray[np.int64]
    settings: VocabSettings = field(default_factory=VocabSettings)
    lost: Mapping[Category, Lost] | None = None
    """What the cut lost of each category; None where that is not known. Neither this nor `settings` is in `hash`."""

    @property
    def num_special(self) -> int:
        """Special tokens; the first tag's token_id."""
        return len(SPECIAL_TOKENS)

    @property
    def num_tags(self) -> int:
        """Tags of all categories."""
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
        """Each tag's place within its category, int64 `[num_tags]`."""
        return np.arange(self.num_special, self.num_tokens) - self.category_offsets[self.categories]

    def first_token_id(self, category: Category) -> int:
        """The token_id of the most used tag of `category` (of the next category's where it is empty)."""
        return int(self.category_offsets[CATEGORIES.index(category)])

    def tags_of(self, category: Category) -> tuple[str, ...]:
        """The tags of `category`, its unknown token included; the place is the local_id."""
        start = self.first_token_id(category) - self.num_special
        return self.tags[start : start + self.sizes[category]]

    def unknown_local_id(self, category: Category) -> int | None:
        """The local_id of the unknown token of `category`, its last; None where its unpopular tags are dropped."""
        end = self.first_token_id(category) - self.num_special + self.sizes[category]
        has_one = self.sizes[category] > 0 and self.tags[end - 1] == UNKNOWN_TAGS[category]
        return self.sizes[category] - 1 if has_one else None

    @cached_property
    def is_unknown(self) -> NDArray[np.bool_]:
        """Which tags are unknown tokens, bool `[num_tags]`: to be read, never to be offered or asked for."""
        unknown = np.zeros(self.num_tags, dtype=np.bool_)
        for category in CATEGORIES:
            local_id = self.unknown_local_id(category)
            if local_id is not None:
                unknown[self.first_token_id(category) - self.num_special + local_id] = True
        return unknown

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of the special tokens and of category, tag and count of each tag in order.

        The settings are no part of it: another cut that keeps the same tags gives the same vocabulary.
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

    def save(self, out_dir: Path) -> None:
        """Writes ``vocab.parquet``, ``tokenizer.json``, and ``vocab.json`` with the SHA-256 of both and of itself."""
        pq.write_table(self._table(), out_dir / VOCAB_TABLE_FILE, compression="zstd")
        spellings = unique_spellings(self.tags, self.categories.tolist(), self.counts.tolist())
        (out_dir / TOKENIZER_FILE).write_text(tokenizers_json(spellings), encoding="utf-8")
        description: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "sha256": self.hash,
            "num_tokens": self.num_tokens,
            "num_special": self.num_special,
            "num_tags": self.num_tags,
            "sizes": {category.value: size for category, size in self.sizes.items()},
            "special_ids": self.special_ids,
            "settings": self.settings.model_dump(mode="json"),
            "lost": {category.value: asdict(lost) for category, lost in self.lost.items()} if self.lost else None,
            "files": {name: _sha256((out_dir / name).read_bytes()) for name in (VOCAB_TABLE_FILE, TOKENIZER_FILE)},
        }
        description["checksum"] = _checksum(description)
        (out_dir / VOCAB_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")

    def _table(self) -> pa.Table:
        names = [category.value for category in CATEGORIES]
        columns = [
            np.arange(self.num_special, self.num_tokens, dtype=np.int32),
            pa.array([names[category_id] for category_id in self.categories.tolist()], pa.string()),
            pa.array(self.tags, pa.string()),
            self.counts,
            self.local_ids.astype(np.int32),
        ]
        return pa.table(columns, schema=VOCAB_SCHEMA)

    @classmethod
    def load(cls, vocab_dir: Path) -> Vocab:
        """The vocabulary that `save` wrote.

        Raises:
            VocabError: a file is missing, damaged, of another format, or not the content that its hash names.
        """
        file = vocab_dir / VOCAB_FILE
        try:
            description = json.loads(file.read_bytes())
            contents = {name: (vocab_dir / name).read_bytes() for name in (VOCAB_TABLE_FILE, TOKENIZER_FILE)}
        except FileNotFoundError as error:
            raise VocabError(f"{error.filename or vocab_dir}: no such file; build the vocab first") from None
        except (ValueError, RecursionError) as error:
            raise VocabError(f"{file}: not a readable vocab ({_first_line(error)}); build the vocab again") from None
        except OSError as error:
            raise VocabError(f"{error.filename or vocab_dir}: cannot be read ({error.strerror}); check it") from None
        _check_files(file, description, contents)
        try:
            table = pq.read_table(pa.BufferReader(contents[VOCAB_TABLE_FILE]))
        except (ValueError, OSError) as error:
            raise VocabError(
                f"{vocab_dir / VOCAB_TABLE_FILE}: not a readable vocab ({_first_line(error)}); build the vocab again"
            ) from None
        return _checked(file, description, table)


def _warn(line: str) -> None:
    warnings.warn(line, WideVocabWarning, stacklevel=3)


def build_vocab(freq_dir: Path, settings: VocabSettings, warn: Callable[[str], None] = _warn) -> Vocab:
    """The vocabulary that `settings` cut out of the frequencies; ties at the cut are broken by the tag's bytes.

    `warn` is called with a line for each category that 16 bits are too few for; by default it is a `WideVocabWarning`.

    Raises:
        VocabError: nothing is left.
    """
    frequencies = read_frequencies(freq_dir)
    all_counts = {category: table.column("count").to_numpy() for category, table in frequencies.items()}
    kept = {category: cut_size(counts, *settings.cut(category)) for category, counts in all_counts.items()}
    if not any(kept.values()):
        raise VocabError(
            f"{freq_dir}: no tag has min_count = {settings.min_count} uses or more; lower [vocab] min_count"
        )
    num_extra = int(settings.unpopular == "unk")
    num_uses = sum(int(counts[: kept[category]].sum()) for category, counts in all_counts.items())
    tags: list[str] = []
    parts: list[NDArray[np.int64]] = []
    lost = {}
    for category, counts in all_counts.items():
        size = kept[category]
        lost[category] = Lost(num_tags=len(counts) - size, num_uses=int(counts[size:].sum()))
        tags += strings(frequencies[category].column("tag").slice(0, size))
        parts.append(counts[:size])
        if num_extra:
            tags.append(UNKNOWN_TAGS[category])
            parts.append(np.array([lost[category].num_uses], dtype=np.int64))
        line = wide_category(category, counts, size, num_extra, num_uses)
        if line:
            warn(line)
    sizes = [size + num_extra for size in kept.values()]
    return Vocab(tuple(tags), _category_ids(sizes), np.concatenate(parts), settings, lost)


def what_is_lost(vocab: Vocab) -> pa.Table:
    """A row for each category that `vocab` was cut in, as `LOST_SCHEMA`; none where what it lost is not known."""
    rows = []
    for category_id, (category, lost) in enumerate((vocab.lost or {}).items()):
        is_kept = (vocab.categories == category_id) & ~vocab.is_unknown
        num_kept, kept_uses = int(is_kept.sum()), int(vocab.counts[is_kept].sum())
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
    return pa.Table.from_pylist(rows, schema=LOST_SCHEMA)


def _category_ids(sizes: Sequence[int]) -> NDArray[np.uint8]:
    return np.repeat(np.arange(NUM_CATEGORIES, dtype=np.uint8), sizes)


def _check_files(file: Path, description: Any, contents: Mapping[str, bytes]) -> None:  # JSON from outside
    """That no bit was changed: Parquet's reader is not for damaged bytes, and settings have no hash but this."""
    if not isinstance(description, dict) or description.get("format_version") != FORMAT_VERSION:
        found = description.get("format_version") if isinstance(description, dict) else None
        raise VocabError(f"{file}: format_version {found!r} instead of {FORMAT_VERSION}; build the vocab again")
    if description.get("checksum") != _checksum(description):
        raise VocabError(f"{file}: was changed: its checksum is another; build the vocab again")
    listed = description.get("files")
    for name, content in contents.items():
        if not isinstance(listed, dict) or listed.get(name) != _sha256(content):
            raise VocabError(
                f"{file.with_name(name)}: was changed or belongs to another vocab: its SHA-256 is not that in "
                f"{VOCAB_FILE}; build the vocab again"
            )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _checksum(description: Mapping[str, Any]) -> str:
    """SHA-256 of what ``vocab.json`` says, this checksum aside."""
    rest = {key: value for key, value in description.items() if key != "checksum"}
    return _sha256(json.dumps(rest, sort_keys=True).encode())


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _checked(file: Path, description: Mapping[str, Any], table: pa.Table) -> Vocab:
    if table.schema.names != VOCAB_SCHEMA.names:
        raise VocabError(
            f"{file.with_name(VOCAB_TABLE_FILE)}: columns {','.join(table.schema.names)} instead of "
            f"{','.join(VOCAB_SCHEMA.names)}; build the vocab again"
        )
    category_ids = {category.value: category_id for category_id, category in enumerate(CATEGORIES)}
    try:
        table = table.cast(VOCAB_SCHEMA)
        categories = np.array([category_ids[name] for name in strings(table.column("category"))], dtype=np.uint8)
        settings = VocabSettings.model_validate(description.get("settings"))
        lost = description.get("lost") and {
            category: Lost(**description["lost"][category.value]) for category in CATEGORIES
        }
    except (KeyError, TypeError, ValueError, NotImplementedError) as error:
        raise VocabError(
            f"{file}: unknown category, type or settings ({_first_line(error)}); build the vocab again"
        ) from None
    counts = table.column("count").to_numpy().astype(np.int64)
    vocab = Vocab(tuple(strings(table.column("tag"))), categories, counts, settings, lost)
    if vocab.hash != description.get("sha256") or not vocab._table().equals(table):
        raise VocabError(
            f"{file}: its sha256 {description.get('sha256')!r} is not that of {VOCAB_TABLE_FILE} ({vocab.hash}); "
            "the files do not belong together or were changed: build the vocab again"
        )
    return vocab

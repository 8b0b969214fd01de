"""Which tags are worth a token: the cut by percentile, what each percentile costs, and the vocabulary itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.posts.arrow import schema_of, strings
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, SPECIAL_TOKENS, Category
from booru_embed_core.settings import ModelSettings, VocabSettings
from booru_embed_core.tags.frequency import read_frequencies
from booru_embed_core.tags.spelling import tokenizers_json, unique_spellings

FORMAT_VERSION: Final = 2
VOCAB_TABLE_FILE: Final = "vocab.parquet"
VOCAB_FILE: Final = "vocab.json"
TOKENIZER_FILE: Final = "tokenizer.json"
VOCAB_COST_FILE: Final = "vocab_cost.parquet"

COST_PERCENTILES: Final = (
    *(float(percent) for percent in range(50, 95)),
    *(percent / 2 for percent in range(190, 198)),
    *(percent / 10 for percent in range(990, 1000)),
    99.95,
    99.99,
    100.0,
)
"""From 50 to 100, finer where the curve turns."""

VOCAB_SCHEMA: Final = schema_of(
    {
        "token_id": pa.int32(),
        "category": pa.string(),
        "tag": pa.string(),
        "count": pa.int64(),
        "local_id": pa.int32(),
    }
)

COST_SCHEMA: Final = schema_of(
    {
        "category": pa.string(),
        "percentile": pa.float64(),
        "min_count": pa.int64(),
        "vocab_size": pa.int64(),
        "coverage": pa.float64(),
        "embedding_bytes": pa.int64(),
    }
)
COST_EMBEDDING_BYTES: Final = 4 * ModelSettings().width
"""A tag's row in the embedding of a model of the default width, in float32."""


class VocabError(ValueError):
    """A vocabulary cannot be read or is not what it says it is; the message names the file and the remedy."""


def cut_size(counts: NDArray[np.int64], keep_percentile: float, min_count: int) -> int:
    """How many tags of one category are kept, of `counts` int64 `[num_tags]` in descending order.

    The shortest prefix whose uses reach `keep_percentile` of all uses, without tags of fewer than `min_count`
    uses. The percentile is taken as the decimal that a person wrote, and compared in whole numbers: 99.9 is
    999/1000, not the nearest float.
    """
    if len(counts) == 0:
        return 0
    cumulative = np.cumsum(counts)
    share = Fraction(str(keep_percentile)) / 100
    # The least whole number of uses that is share * total or more.
    needed = -((-int(cumulative[-1]) * share.numerator) // share.denominator)
    by_percentile = int(np.searchsorted(cumulative, needed)) + 1
    by_count = int(np.searchsorted(-counts, -min_count, side="right"))
    return min(by_percentile, by_count)


def cost_curve(freq_dir: Path) -> pa.Table:
    """What each of `COST_PERCENTILES` would keep, by category, as `COST_SCHEMA`.

    ``min_count`` is the count of the last kept tag (0 for an empty category), ``coverage`` the share of the uses that
    is kept, ``embedding_bytes`` what the rows weigh in a model of the default width in float32. No minimal count is
    applied.
    """
    rows = []
    for category, table in read_frequencies(freq_dir).items():
        counts = table.column("count").to_numpy()
        total = int(counts.sum())
        for percentile in COST_PERCENTILES:
            size = cut_size(counts, percentile, 1)
            rows.append(
                {
                    "category": category.value,
                    "percentile": percentile,
                    "min_count": int(counts[size - 1]) if size else 0,
                    "vocab_size": size,
                    "coverage": int(counts[:size].sum()) / total if total else 1.0,
                    "embedding_bytes": size * COST_EMBEDDING_BYTES,
                }
            )
    return pa.Table.from_pylist(rows, schema=COST_SCHEMA)


def write_vocab_cost(freq_dir: Path, out_dir: Path) -> pa.Table:
    """The table of `cost_curve`, also written as ``vocab_cost.parquet``."""
    table = cost_curve(freq_dir)
    pq.write_table(table, out_dir / VOCAB_COST_FILE, compression="zstd")
    return table


@dataclass(frozen=True, eq=False)
class Vocab:
    """The tokens: special ones first, then tags, category after category, most used first.

    ``token_id`` = ``category_offsets[category_id] + local_id``; ``tag_index`` = ``token_id - num_special`` places a
    tag in `tags` (a tuple of strings), `categories` (uint8 `[num_tags]`, the category_id) and `counts` (int64
    `[num_tags]`).
    """

    tags: tuple[str, ...]
    categories: NDArray[np.uint8]
    counts: NDArray[np.int64]
    settings: VocabSettings = field(default_factory=VocabSettings)

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
        """Tags of each category."""
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
        """The tags of `category`; the place is the local_id."""
        start = self.first_token_id(category) - self.num_special
        return self.tags[start : start + self.sizes[category]]

    @cached_property
    def hash(self) -> str:
        """SHA-256, in hex, of the special tokens and of category, tag and count of each tag in order.

        The settings are no part of it: another cut that keeps the same tags gives the same vocabulary.
        """
        content = [
            FORMAT_VERSION,
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


def build_vocab(freq_dir: Path, settings: VocabSettings) -> Vocab:
    """The vocabulary that `settings` cut out of the frequencies; ties at the cut are broken by the tag's bytes.

    Raises:
        VocabError: nothing is left.
    """
    tags: list[str] = []
    sizes, counts = [], []
    for category, table in read_frequencies(freq_dir).items():
        all_counts = table.column("count").to_numpy()
        size = cut_size(all_counts, *settings.cut(category))
        tags += strings(table.column("tag").slice(0, size))
        counts.append(all_counts[:size])
        sizes.append(size)
    if not tags:
        raise VocabError(
            f"{freq_dir}: no tag has min_count = {settings.min_count} uses or more; lower [vocab] min_count"
        )
    return Vocab(tuple(tags), _category_ids(sizes), np.concatenate(counts), settings)


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
    except (KeyError, ValueError, NotImplementedError) as error:
        raise VocabError(
            f"{file}: unknown category, type or settings ({_first_line(error)}); build the vocab again"
        ) from None
    vocab = Vocab(
        tuple(strings(table.column("tag"))), categories, table.column("count").to_numpy().astype(np.int64), settings
    )
    if vocab.hash != description.get("sha256") or not vocab._table().equals(table):
        raise VocabError(
            f"{file}: its sha256 {description.get('sha256')!r} is not that of {VOCAB_TABLE_FILE} ({vocab.hash}); "
            "the files do not belong together or were changed: build the vocab again"
        )
    return vocab

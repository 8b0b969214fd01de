"""From frequencies to the vocabulary's files: the cut, what it loses, and the table for other programs.

The files are read by `vocab`, which needs none of the libraries here.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.filesystem import file_sha256
from booru_embed_core.posts.arrow import schema_of, strings
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, UNKNOWN_TAGS, Category
from booru_embed_core.settings import VocabSettings
from booru_embed_core.tags.cut import cut_size, wide_category
from booru_embed_core.tags.frequency import read_frequencies
from booru_embed_core.tags.spelling import tokenizers_json, unique_spellings
from booru_embed_core.tags.vocab import (
    FORMAT_VERSION,
    TOKENIZER_FILE,
    VOCAB_FILE,
    VOCAB_TABLE_FILE,
    CutLoss,
    Vocab,
    VocabError,
    checksum,
    implications_text,
)

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


class WideVocabWarning(UserWarning):
    """A category has more tags than 16-bit ids can number."""


def _warn(line: str) -> None:
    warnings.warn(line, WideVocabWarning, stacklevel=3)


def build_vocab(
    freq_dir: Path,
    settings: VocabSettings,
    warn: Callable[[str], None] = _warn,
    aliases: Mapping[Category, Mapping[str, str]] | None = None,
) -> Vocab:
    """The vocabulary that `settings` cut out of the frequencies in `freq_dir`; ties are broken by the tag's bytes.

    Args:
        freq_dir: the tables of `frequency.count_tags`.
        settings: where each category is cut.
        warn: called with one line for each category whose ids need more than 16 bits; by default a
            `WideVocabWarning`.
        aliases: tags by their other names, by category; names of tags that the cut loses are dropped.

    Raises:
        VocabError: the cut leaves no tag.
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
    tag_counts: list[NDArray[np.int64]] = []
    lost = {}
    for category, counts in all_counts.items():
        size = kept[category]
        lost[category] = CutLoss(num_tags=len(counts) - size, num_uses=int(counts[size:].sum()))
        tags += strings(frequencies[category].column("tag").slice(0, size))
        tag_counts.append(counts[:size])
        if num_extra:
            tags.append(UNKNOWN_TAGS[category])
            tag_counts.append(np.array([lost[category].num_uses], dtype=np.int64))
        line = wide_category(category, counts, size, num_extra, num_uses)
        if line:
            warn(line)
    sizes = [size + num_extra for size in kept.values()]
    vocab = Vocab(tuple(tags), _category_ids(sizes), np.concatenate(tag_counts), settings, lost)
    kept_aliases = {category: _kept(tag_of, vocab, category) for category, tag_of in (aliases or {}).items()}
    return replace(vocab, aliases=kept_aliases)


def what_is_lost(vocab: Vocab) -> pa.Table:
    """What the cut of `vocab` lost, a row for each category as `LOST_SCHEMA`; no row where that is unknown."""
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


def _kept(tag_of: Mapping[str, str], vocab: Vocab, category: Category) -> dict[str, str]:
    tags = set(vocab.tags_of(category))
    return {alias: tag for alias, tag in tag_of.items() if tag in tags}


def _category_ids(sizes: Sequence[int]) -> NDArray[np.uint8]:
    return np.repeat(np.arange(NUM_CATEGORIES, dtype=np.uint8), sizes)


def save_vocab(vocab: Vocab, out_dir: Path) -> None:
    """Writes ``vocab.parquet``, ``tokenizer.json``, and ``vocab.json`` with the SHA-256 of both and of itself."""
    pq.write_table(vocab_table(vocab), out_dir / VOCAB_TABLE_FILE, compression="zstd")
    spellings = unique_spellings(vocab.tags, vocab.categories.tolist(), vocab.counts.tolist())
    (out_dir / TOKENIZER_FILE).write_text(tokenizers_json(spellings), encoding="utf-8")
    every = range(NUM_CATEGORIES)
    description: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "sha256": vocab.hash,
        "num_tokens": vocab.num_tokens,
        "num_special": vocab.num_special,
        "num_tags": vocab.num_tags,
        "sizes": {category.value: size for category, size in vocab.sizes.items()},
        "special_ids": vocab.special_ids,
        "settings": vocab.settings.model_dump(mode="json"),
        "lost": {category.value: asdict(lost) for category, lost in vocab.lost.items()} if vocab.lost else None,
        "files": {name: file_sha256(out_dir / name) for name in (VOCAB_TABLE_FILE, TOKENIZER_FILE)},
        "aliases": {category.value: dict(tag_of) for category, tag_of in vocab.aliases.items()},
        "implications": implications_text(vocab.implications),
        "tags": {category.value: vocab.tags_of(category) for category in CATEGORIES},
        "counts": {CATEGORIES[i].value: vocab.counts[vocab.categories == i].tolist() for i in every},
    }
    description["checksum"] = checksum(description)
    text = json.dumps(description, ensure_ascii=False, indent=1)
    (out_dir / VOCAB_FILE).write_text(text + "\n", encoding="utf-8")


def vocab_table(vocab: Vocab) -> pa.Table:
    """The tags as `VOCAB_SCHEMA`, a row each, by ascending id."""
    names = [category.value for category in CATEGORIES]
    columns = [
        np.arange(vocab.num_special, vocab.num_tokens, dtype=np.int32),
        pa.array([names[category_id] for category_id in vocab.categories.tolist()], pa.string()),
        pa.array(vocab.tags, pa.string()),
        vocab.counts,
        vocab.local_ids.astype(np.int32),
    ]
    return pa.table(columns, schema=VOCAB_SCHEMA)

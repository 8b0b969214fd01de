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
from booru_embed_core.json_files import content_checksum
from booru_embed_core.posts.arrow import joined, schema_of, strings
from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, UNKNOWN_TAGS, Category
from booru_embed_core.settings import VocabSettings
from booru_embed_core.tags.cut import cut_size, wide_category
from booru_embed_core.tags.frequency import read_frequencies
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.implied_tags import read_implied_tags
from booru_embed_core.tags.spelling import tokenizers_json, unique_spellings
from booru_embed_core.tags.vocab import (
    FORMAT_VERSION,
    IMPLICATIONS_FILE,
    TOKENIZER_FILE,
    VOCAB_FILE,
    VOCAB_TABLE_FILE,
    CutLoss,
    Vocab,
    VocabError,
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

IMPLICATIONS_SCHEMA: Final = schema_of(
    dict.fromkeys(("tag", "category", "implied_tag", "implied_category"), pa.string())
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
    return replace(vocab, aliases=kept_aliases, implications=_implications(vocab, read_implied_tags(freq_dir)))


def what_is_lost(vocab: Vocab) -> pa.Table:
    """What the cut of `vocab` lost, a row for each category as `LOST_SCHEMA`; no row where that is unknown."""
    return pa.Table.from_pylist(vocab.lost_rows(), schema=LOST_SCHEMA)


def _kept(tag_of: Mapping[str, str], vocab: Vocab, category: Category) -> dict[str, str]:
    tags = set(vocab.tags_of(category))
    return {alias: tag for alias, tag in tag_of.items() if tag in tags}


def _implications(vocab: Vocab, pairs: pa.Table) -> Implications:
    """The implications of `pairs`, as `IMPLIED_SCHEMA`, between tags of `vocab`.

    A chain may pass through tags that the cut has lost. A table of implications knows no categories: each tag with the
    name of an antecedent implies the most used one with that of its consequent.

    Raises:
        VocabError: the chains lead to too many pairs.
    """
    settings = vocab.settings
    num_posts, num_both = (joined(pairs[name]).to_numpy() for name in ("num_posts", "num_both"))
    is_counted = (num_posts >= settings.implied_min_count) & (num_both > settings.implied_threshold * num_posts)
    chosen = pairs.filter(pa.array(is_counted | (num_posts == 0)))
    nodes = _Nodes(vocab)
    causes: list[int] = []
    effects: list[int] = []
    for row in chosen.to_pylist():
        of_tag = nodes.of(row["tag"], row["category"] or None)
        causes += of_tag
        effects += nodes.of(row["implied_tag"], row["implied_category"] or None)[:1] * len(of_tag)
    try:
        closed = Implications.of_pairs(np.array(causes, np.int64), np.array(effects, np.int64), nodes.num_nodes)
    except ValueError as error:
        raise VocabError(f"{error}, or raise [vocab] implied_threshold") from None
    return closed.among(vocab.num_tags)


class _Nodes:
    """Numbers of tags: those of `vocab` by their index, others above."""

    def __init__(self, vocab: Vocab) -> None:
        self.num_nodes = vocab.num_tags
        self._of: dict[str, dict[str | None, int]] = {}
        known = np.flatnonzero(~vocab.is_unknown)
        for index in known[np.argsort(-vocab.counts[known], kind="stable")].tolist():
            category = CATEGORIES[int(vocab.categories[index])]
            self._of.setdefault(vocab.tags[index], {})[category.value] = index

    def of(self, tag: str, category: str | None) -> list[int]:
        """The number of `tag` in `category`; without a category, of all tags with this name, the most used first."""
        known = self._of.setdefault(tag, {})
        if category is None and known:
            return list(known.values())
        if category not in known:
            known[category] = self.num_nodes
            self.num_nodes += 1
        return [known[category]]


def _category_ids(sizes: Sequence[int]) -> NDArray[np.uint8]:
    return np.repeat(np.arange(NUM_CATEGORIES, dtype=np.uint8), sizes)


def save_vocab(vocab: Vocab, out_dir: Path) -> None:
    """Writes ``vocab.json``, which is all that loading needs, with the SHA-256 of itself and of the files beside it.

    These are ``vocab.parquet``, ``tokenizer.json`` and ``implications.parquet``, for other programs.
    """
    pq.write_table(implications_table(vocab), out_dir / IMPLICATIONS_FILE, compression="zstd")
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
        "files": {name: file_sha256(out_dir / name) for name in (VOCAB_TABLE_FILE, TOKENIZER_FILE, IMPLICATIONS_FILE)},
        "aliases": {category.value: dict(tag_of) for category, tag_of in vocab.aliases.items()},
        "implications": implications_text(vocab.implications),
        "tags": {category.value: vocab.tags_of(category) for category in CATEGORIES},
        "counts": {CATEGORIES[i].value: vocab.counts[vocab.categories == i].tolist() for i in every},
    }
    description["checksum"] = content_checksum(description)
    text = json.dumps(description, ensure_ascii=False, indent=1)
    (out_dir / VOCAB_FILE).write_text(text + "\n", encoding="utf-8")


def implications_table(vocab: Vocab) -> pa.Table:
    """The implications as `IMPLICATIONS_SCHEMA`, chains followed, by ascending index of the tag and the implied one."""
    causes, effects = vocab.implications.pairs.T
    columns = [_named(vocab, indices) for indices in (causes, effects)]
    return pa.table([*columns[0], *columns[1]], schema=IMPLICATIONS_SCHEMA)


def _named(vocab: Vocab, indices: NDArray[np.int64]) -> list[pa.Array[Any]]:
    names = [category.value for category in CATEGORIES]
    tags = pa.array([vocab.tags[index] for index in indices.tolist()], pa.string())
    return [tags, pa.array([names[category] for category in vocab.categories[indices].tolist()], pa.string())]


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

"""A packed file without a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PackedFile


def packed_of(
    rows: Sequence[Sequence[int]], num_tags: int, post_ids: NDArray[np.int64] | None = None, num_ratings: int = 1
) -> tuple[PackedFile, Vocab]:
    """A packed file that lives in memory; the second half of the tags are characters; ids descend within a field."""
    num_general = (num_tags + 1) // 2
    categories = np.where(np.arange(num_tags) < num_general, 0, 3).astype(np.uint8)
    vocab = Vocab(
        tags=tuple(f"tag_{tag}" for tag in range(num_tags)),
        categories=categories,
        counts=np.arange(num_tags, 0, -1, dtype=np.int64),
    )
    fields = [[sorted((t for t in row if categories[t] == c), reverse=True) for c in range(5)] for row in rows]
    token_ids = np.array([t for row in fields for field in row for t in field], dtype=np.int64) + vocab.num_special
    token_categories = np.array([c for row in fields for c, field in enumerate(row) for _ in field], dtype=np.int64)
    packed = PackedFile(
        path=Path("in-memory"),
        tokens=(token_ids - vocab.category_offsets[token_categories]).astype(np.uint16),
        offsets=np.concatenate(([0], np.cumsum([len(row) for row in rows]))).astype(np.uint64),
        field_lengths=np.array([[len(field) for field in row] for row in fields], np.uint16).reshape(
            -1, len(CATEGORIES)
        ),
        post_id=np.arange(len(rows), dtype=np.int64) if post_ids is None else post_ids,
        rating=(np.arange(len(rows)) % num_ratings).astype(np.uint8),
        score=np.zeros(len(rows), np.int32),
        vocab_hash=vocab.hash,
        split_settings=TokensSettings(validation_share=0.2, test_share=0.2),
    )
    return packed, vocab

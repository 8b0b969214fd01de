"""In-memory packed files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens.packed_file import PackedFile

RECORDS = st.lists(
    st.lists(st.lists(st.integers(0, 65_535), max_size=3), min_size=5, max_size=5), min_size=1, max_size=8
)


def packed_of(
    fields: list[list[list[int]]], ratings: list[int] | None = None, scores: list[int] | None = None
) -> PackedFile:
    """An in-memory packed file from local ids by record and category."""
    num = len(fields)
    lengths = [[len(field) for field in record] for record in fields]
    return PackedFile(
        path=Path("in-memory"),
        tokens=np.array([i for record in fields for field in record for i in field], np.uint16),
        offsets=np.cumsum([0, *(sum(record) for record in lengths)]).astype(np.uint64),
        field_lengths=np.array(lengths, np.uint16).reshape(num, NUM_CATEGORIES),
        post_id=np.arange(num, dtype=np.int64) * 11,
        rating=np.array(ratings or [0] * num, np.uint8),
        score=np.array(scores or [0] * num, np.int32),
        vocab_hash="",
        split_settings=TokensSettings(),
    )

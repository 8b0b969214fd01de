"""What becomes of each row of a batch: kept, invalid, filtered or duplicate."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.posts.parquet_parts import SeenIds
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN
from booru_embed_core.schema import RATINGS
from booru_embed_core.settings import PostsSettings


class RowStatus(IntEnum):
    """What becomes of a row."""

    KEPT = 0
    INVALID = 1
    FILTERED = 2
    DUPLICATE = 3


def row_status(batch: pa.RecordBatch, settings: PostsSettings, seen: SeenIds) -> NDArray[np.uint8]:
    """The `RowStatus` of each row of a reader's `batch`, uint8 `[rows]`; ids of kept rows are added to `seen`."""
    status = np.full(len(batch), RowStatus.KEPT, dtype=np.uint8)
    valid = _valid(batch)
    status[~valid] = RowStatus.INVALID
    hidden = batch.column(HIDDEN_COLUMN).fill_null(False).to_numpy(zero_copy_only=False)
    if settings.min_score is not None:
        hidden = hidden | (batch.column("score").fill_null(0).to_numpy(zero_copy_only=False) < settings.min_score)
    if set(settings.ratings) != set(RATINGS):
        wanted = pc.is_in(batch.column("rating"), value_set=pa.array(settings.ratings))
        hidden = hidden | ~wanted.to_numpy(zero_copy_only=False)
    status[valid & hidden] = RowStatus.FILTERED
    rows = np.flatnonzero(status == RowStatus.KEPT)
    ids = batch.column("id").fill_null(0).to_numpy(zero_copy_only=False)
    status[rows[~seen.add(ids[rows])]] = RowStatus.DUPLICATE
    return status


def up_to_limit(status: NDArray[np.uint8], room: int | None) -> tuple[NDArray[np.uint8], bool]:
    """`status` up to the row that fills the `room` (None: any number of posts), and whether a row fills it."""
    if room is None:
        return status, False
    kept = np.flatnonzero(status == RowStatus.KEPT)
    return (status[: kept[room - 1] + 1], True) if len(kept) >= room else (status, False)


def _valid(batch: pa.RecordBatch) -> NDArray[np.bool_]:
    """Which rows have all values; a reader gives null for each invalid one."""
    valid = np.ones(len(batch), dtype=np.bool_)
    for column in batch.columns:
        if column.null_count:
            valid &= column.is_valid().to_numpy(zero_copy_only=False)
    return valid

"""What becomes of a row, in a batch of one reader."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from booru_embed_core.posts.parquet_parts import SeenIds
from booru_embed_core.posts.readers.base import HIDDEN_COLUMN
from booru_embed_core.posts.row_status import RowStatus, row_status, up_to_limit
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import row

KEPT, INVALID, FILTERED, DUPLICATE = RowStatus


def batch_of(*rows: dict[str, object]) -> pa.RecordBatch:
    (batch,) = pa.Table.from_pylist([{HIDDEN_COLUMN: False, **post} for post in rows]).to_batches()
    return batch


def test_each_row_has_one_status_and_filtered_ids_are_not_seen() -> None:
    batch = batch_of(
        row(1, score=5),
        row(2, score=None),
        row(3, score=5) | {HIDDEN_COLUMN: True},
        row(3, score=5),
        row(4, rating="e", score=5),
        row(5, score=4),
        row(1, score=5),
        row(None, score=5) | {HIDDEN_COLUMN: True},
    )
    seen = SeenIds()
    settings = PostsSettings(ratings=["g", "s"], min_score=5)
    status = row_status(batch, settings, seen)
    assert status.tolist() == [KEPT, INVALID, FILTERED, KEPT, FILTERED, FILTERED, DUPLICATE, INVALID]
    assert seen.add(np.array([1, 3, 4, 5])).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("room", "expected"), [(None, (6, False)), (1, (2, True)), (2, (3, True)), (3, (6, True)), (4, (6, False))]
)
def test_a_batch_ends_with_the_row_that_fills_the_room(room: int | None, expected: tuple[int, bool]) -> None:
    status = np.array([DUPLICATE, KEPT, KEPT, FILTERED, INVALID, KEPT], dtype=np.uint8)
    cut, is_full = up_to_limit(status, room)
    assert (len(cut), is_full) == expected
    assert cut.tolist() == status[: len(cut)].tolist()

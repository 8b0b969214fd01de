"""Groups of tags with figures of their own: the categories, and the tail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import CATEGORIES

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab

TAIL: Final = "tail"
TAIL_BELOW: Final = 20
"""A tag with fewer training posts belongs to the tail."""


def groups_of_tags(vocab: Vocab, counts: NDArray[np.number[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Name → membership of each tag, bool[num_tags]: each category that has a tag, then `TAIL`, of any category.

    Unknown tokens are in no group.

    Args:
        vocab: the tags and their categories.
        counts: training posts that have each tag, [num_tags].
    """
    known = ~vocab.is_unknown
    of_category = {category.value: known & (vocab.categories == i) for i, category in enumerate(CATEGORIES)}
    groups = {name: members for name, members in of_category.items() if members.any()}
    return {**groups, TAIL: known & (counts < TAIL_BELOW)}

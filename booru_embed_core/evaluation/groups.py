"""Groups of tags that figures are also given for: the categories, and the tail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tokens.cooccurrence import CaptionMatrix

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab

TAIL: Final = "tail"
TAIL_BELOW: Final = 20
"""A tag of the tail has fewer training posts."""


def groups_of_tags(vocab: Vocab, train: CaptionMatrix) -> dict[str, NDArray[np.bool_]]:
    """Name → which tags are in it, bool[num_tags]: each category that has a tag, then `TAIL`, of any category.

    Unknown tokens are no tags and in no group.

    Args:
        vocab: says of which category a tag is.
        train: training captions, [num_posts, num_tags].
    """
    known = ~vocab.is_unknown
    of_category = {category.value: known & (vocab.categories == i) for i, category in enumerate(CATEGORIES)}
    groups = {name: members for name, members in of_category.items() if members.any()}
    return {**groups, TAIL: known & (train.getnnz(axis=0) < TAIL_BELOW)}

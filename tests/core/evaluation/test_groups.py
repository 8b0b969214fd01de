"""Groups of tags: categories and the tail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from booru_embed_core.evaluation.groups import TAIL_BELOW, groups_of_tags
from booru_embed_core.schema import UNKNOWN_TAGS, Category
from booru_embed_core.tokens.cooccurrence import count_tags
from tests.core.evaluation.evaluation_helpers import captions_of
from tests.core.in_memory_helpers import packed_of


def test_every_tag_is_in_its_category_and_rare_ones_in_the_tail() -> None:
    _, vocab = packed_of([[0, 1]], 6)  # 0, 1, 2 general; 3, 4, 5 characters
    train = captions_of([[0, 1, 4]] * (TAIL_BELOW - 1) + [[0, 4]], 6)
    groups = {
        name: np.flatnonzero(members).tolist() for name, members in groups_of_tags(vocab, count_tags(train)).items()
    }
    assert groups == {"general": [0, 1, 2], "character": [3, 4, 5], "tail": [1, 2, 3, 5]}


def test_unknown_tokens_are_in_no_group() -> None:
    _, vocab = packed_of([[0, 1]], 4)
    vocab = replace(vocab, tags=(*vocab.tags[:1], UNKNOWN_TAGS[Category.GENERAL], *vocab.tags[2:]))
    groups = groups_of_tags(vocab, count_tags(captions_of([[0, 1]], 4)))
    assert [np.flatnonzero(members).tolist() for members in groups.values()] == [[0], [2, 3], [0, 2, 3]]

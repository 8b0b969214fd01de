"""First suggestions that follow from the caption, against figures by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.evaluation import suggestions as module
from booru_embed_core.evaluation.suggestions import suggestions_of, suggestions_table
from booru_embed_core.evaluation.tasks import hold_out, keep_tags
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import CaptionMatrix
from booru_embed_core.training.parts import Parts
from tests.core.evaluation.evaluation_helpers import captions_of, rows_of

TAGS = ("a", "b", "c", "d", "unknown general")
"""a implies b."""


@dataclass
class Fixed:
    """Scores that do not depend on the caption: b is most probable, with half of everything, then c and d."""

    name: str = "booru-embed-head"

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        row = np.log(np.array([1, 4, 2, 1, 50], np.float32))
        return np.tile(row, (visible.shape[0], 1))


@pytest.fixture
def vocab() -> Vocab:
    plain = Vocab(TAGS, np.zeros(5, np.uint8), np.arange(5, 0, -1))
    return replace(plain, implications=Implications.of_pairs(np.array([0]), np.array([1]), 5))


def test_figures_are_those_by_hand(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POSTS_AT_A_TIME", 2)
    visible = captions_of([[0], [2], [0, 2]])[:, :5]
    found = module._figures(Fixed(), visible, vocab, Parts(), "suggested")
    # {a}: b 4/7, c 2/7, d 1/7, and b is implied. {c}: b 4/6. {a, c}: b 4/5, d 1/5, and b is implied.
    assert found.num_posts == 3
    assert found.first_is_implied == pytest.approx(2 / 3)
    assert found.implied_share == pytest.approx((4 / 7 + 0 + 4 / 5) / 3)
    assert found.first_probability == pytest.approx((2 / 7 + 4 / 6 + 1 / 5) / 3)
    assert found.first_probability_alone == pytest.approx((2 / 3 + 4 / 6 + 1) / 3)


def test_captions_are_parts_of_posts(vocab: Vocab, monkeypatch: pytest.MonkeyPatch) -> None:
    captions, ids = captions_of([[0, 1, 2, 3, 4], [2, 3], [1]])[:, :5], np.array([5, 6, 7])
    monkeypatch.setattr(module, "_VISIBLE_TAGS", 1)
    found = suggestions_of(Fixed(), captions, ids, vocab, 7)
    assert {name: one.num_posts for name, one in found.items()} == {"1 tags": 2, "half of the tags": 2}
    assert suggestions_of(Fixed(), captions, ids, replace(vocab, implications=Implications.none(5)), 7) == {}
    table = suggestions_table(found)
    assert len(table) == 4
    assert table[2].startswith("| 1 tags | 2 | ")


def test_kept_tags_are_those_that_are_hidden_last(vocab: Vocab) -> None:
    captions, ids = captions_of([[0, 1, 2, 3, 4], [2, 3, 0], [1, 2]])[:, :5], np.array([5, 6, 7])
    kept = keep_tags(captions, ids, 2, 7, vocab.is_unknown)
    halves = rows_of(hold_out(captions, ids, "half", 7, vocab.is_unknown).visible)
    assert rows_of(kept) == [[tag for tag in halves[0] if tag != 4], halves[1]]
    assert rows_of(keep_tags(captions, ids, 1, 8)) != rows_of(keep_tags(captions, ids, 1, 9))

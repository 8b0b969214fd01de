"""Tags that exclude each other, and those that lift it."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.tags.exclusions import ExclusiveTags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import captions_from_packed
from tests.core.export_helpers import Walked

NAMES = (
    "1boy 1girl 2girls 3girls aqua_eyes black_hair blonde_hair blue_eyes brown_hair closed_mouth comic cowboy_shot "
    "day full_body green_eyes grey_hair heterochromia indoors large_breasts long_hair lying multicolored_hair "
    "multiple_girls night no_humans open_mouth outdoors short_hair silver_hair sitting small_breasts solo standing "
    "sword very_long_hair wariza white_hair"
)
TAGS = tuple(NAMES.split())
INDEX = {tag: index for index, tag in enumerate(TAGS)}
EXCLUSIVE = ExclusiveTags(Vocab(TAGS, np.zeros(len(TAGS), np.uint8), np.ones(len(TAGS), np.int64)))


def indices(text: str) -> np.ndarray:
    return np.array([INDEX[tag] for tag in text.split()], dtype=np.int64)


def excluded(text: str) -> set[str]:
    return {TAGS[tag] for tag in EXCLUSIVE.excluded_by(indices(text)).tolist()}


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("solo black_hair", "blonde_hair"),
        ("blonde_hair", "brown_hair"),
        ("1girl blue_eyes", "green_eyes"),
        ("short_hair", "very_long_hair"),
        ("small_breasts", "large_breasts"),
        ("open_mouth", "closed_mouth"),
        ("standing", "wariza"),
        ("full_body", "cowboy_shot"),
        ("day", "night"),
        ("indoors", "outdoors"),
        ("1girl", "2girls"),
        ("2girls", "3girls"),
        ("solo", "multiple_girls"),
        ("solo 1girl", "1boy"),
        ("no_humans", "1girl"),
    ],
)
def test_one_excludes_the_other_and_back(caption: str, other: str) -> None:
    assert other in excluded(caption)
    *rest, last = caption.split()
    assert last in excluded(" ".join([*rest, other]))
    found = EXCLUSIVE.contradictions(indices(f"{caption} {other}")).tolist()
    assert found
    assert {TAGS[tag] for tag in found} <= {*caption.split(), other}


@pytest.mark.parametrize(
    ("caption", "other"),
    [
        ("solo black_hair multicolored_hair", "blonde_hair"),
        ("solo blue_eyes heterochromia", "green_eyes"),
        ("2girls black_hair", "blonde_hair"),
        ("1girl 1boy black_hair", "blonde_hair"),
        ("comic standing", "sitting"),
        ("grey_hair silver_hair", "white_hair"),
        ("blue_eyes", "aqua_eyes"),
        ("long_hair", "very_long_hair"),
        ("sitting", "wariza"),
        ("1girl", "1boy"),
        ("2girls", "1boy"),
        ("multiple_girls", "3girls"),
        ("sword", "lying"),
        ("1girl", "solo"),
    ],
)
def test_these_go_together(caption: str, other: str) -> None:
    assert other not in excluded(caption)
    assert EXCLUSIVE.contradictions(indices(f"{caption} {other}")).tolist() == []


def test_solo_does_not_follow_several_people() -> None:
    assert "solo" in excluded("2girls")
    assert "solo" in excluded("1girl 1boy")
    assert excluded("") == set()


def test_a_boy_alone_is_one_person_though_solo_may_seem_to_imply_a_girl() -> None:
    assert {"blonde_hair", "multiple_girls"} <= excluded("solo 1boy 1girl black_hair")
    assert "solo" not in excluded("solo 1boy 1girl")


def test_a_vocabulary_of_other_tags_excludes_nothing() -> None:
    exclusive = ExclusiveTags(Vocab(("oil", "canvas"), np.array([0, 4], np.uint8), np.ones(2, np.int64)))
    assert exclusive.excluded_by(np.array([0, 1])).tolist() == []


def test_the_samples_posts_of_one_person_seldom_contradict(sample: Walked) -> None:
    vocab, packed = sample.vocab, sample.packed
    posts = captions_from_packed(packed, vocab, np.arange(0, packed.num_posts, 20)).tolil().rows
    solo = vocab.tags.index("solo")
    exclusive = ExclusiveTags(vocab)
    alone = [np.array(row) for row in posts if solo in row]
    contradict = sum(len(exclusive.contradictions(row)) > 0 for row in alone)
    assert len(alone) > 500
    assert 0.02 < contradict / len(alone) < 0.12  # artists' two-coloured hair without its tag, and mistakes
    shuffled = np.random.default_rng(5).permutation(np.concatenate(alone))
    parts = np.array_split(shuffled, len(alone))
    by_chance = sum(len(exclusive.contradictions(np.unique([*part, solo]))) > 0 for part in parts)
    assert by_chance / len(alone) > 0.5

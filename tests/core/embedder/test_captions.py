"""Captions as text, lists and mappings are the same sets; what is no caption and no weight is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from booru_embed_core.embedder.captions import OnUnknown, check_on_unknown, each_caption, encode, tag_sets
from booru_embed_core.tags.emphasis import MAX_WEIGHT
from booru_embed_core.tags.tokenizer import Encoded, Tokenizer
from tests.core.model_helpers import Corpus


@pytest.fixture(scope="module")
def tokenizer(corpus: Corpus) -> Tokenizer:
    return Tokenizer(corpus.vocab)


def error_of(action: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the callers look at the message
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("captions", ["1girl, solo", "", {"1girl": 1}, {}])
def test_a_text_or_a_mapping_is_one_caption(captions: Any) -> None:
    assert list(each_caption(captions)) == [captions]


@pytest.mark.parametrize("captions", [[], ["1girl", "solo"], ("1girl",), [["1girl"], {"solo": 0.5}]])
def test_everything_else_is_many(captions: Any) -> None:
    assert list(each_caption(captions)) == list(captions)
    assert list(each_caption(one for one in captions)) == list(captions)
    assert list(each_caption(np.array(["1girl", "solo"]))) == ["1girl", "solo"]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        (5, "captions are int 5; give one caption or a list of captions"),
        (None, "captions are NoneType None; give one caption or a list of captions"),
        (b"1girl", "captions are bytes b'1girl'; give one caption or a list of captions"),
        ({"1girl", "solo"}, "captions in a set have no order; give a list of captions, or [tags] for one caption"),
    ],
)
def test_what_is_no_captions_is_named(captions: Any, message: str) -> None:
    assert error_of(lambda: each_caption(captions)) == message


@pytest.mark.parametrize(
    "caption",
    [
        ["1girl", "cat_ears", "tracer_(overwatch)"],
        ("1Girl", "cat ears", r"tracer \(overwatch\)"),
        {"cat ears", "1girl", "tracer_(overwatch)", "cat_ears"},
        {"1girl": 1, "cat_ears": 1.0, "tracer_(overwatch)": np.float32(1), "solo": 0},
        np.array(["1girl", "cat_ears", "tracer_(overwatch)"]),
    ],
)
def test_lists_and_mappings_are_the_tags_of_the_text(tokenizer: Tokenizer, caption: Any) -> None:
    expected = tokenizer.encode("1girl cat_ears tracer_(overwatch)")
    found = encode(tokenizer, caption)
    assert sorted(found.token_ids) == sorted(expected.token_ids)
    assert (found.unknown, found.weights) == ((), ())


def test_a_tag_of_a_list_is_one_tag_though_its_words_are_tags_too(tokenizer: Tokenizer) -> None:
    found = encode(tokenizer, ["no such tag", "cat ears"])
    assert found.unknown == ("no_such_tag",)
    assert found.token_ids == tokenizer.encode("cat_ears").token_ids


def test_weights_stand_beside_their_tags(tokenizer: Tokenizer) -> None:
    found = encode(tokenizer, {"tail": 0.25, "xyzzy": 0.5, "bell": 0, "1girl": 1, "cat ears": 2})
    assert found.token_ids == tokenizer.encode("tail 1girl cat_ears").token_ids
    assert found.weights == (0.25, 1, 2)
    assert found.unknown == ("xyzzy",)


def test_of_two_mentions_the_higher_weight_counts(tokenizer: Tokenizer) -> None:
    for mapping in ({"cat_ears": 0.3, "cat ears": 0.8}, {"Cat Ears": 0.8, "cat_ears": 0.3}):
        found = encode(tokenizer, mapping)
        assert (len(found.token_ids), found.weights) == (1, (0.8,))
        first, second = mapping.values()
        assert found.notes[-1] == f"{list(mapping)[1]}: mentioned with weights {first}, {second}; 0.8 counts"
    assert encode(tokenizer, ["tail", "tail"]).notes == ()


@pytest.mark.parametrize(
    "caption", [["1girl", "tail", "-tail"], ["(tail:0)", "1girl", "tail"], {"1girl": 1, "tail": 0.5, "-1::tail::": 1}]
)
def test_a_tag_that_one_of_the_list_excludes_is_excluded_as_in_a_text(tokenizer: Tokenizer, caption: Any) -> None:
    found, text = encode(tokenizer, caption), tokenizer.encode("1girl, tail, -tail")
    assert (found.token_ids, found.weights, found.excluded) == (text.token_ids, text.weights, text.excluded)
    assert found.excluded == tokenizer.encode("tail").token_ids


@pytest.mark.parametrize(
    "weight", [-0.1, -1, float("nan"), float("inf"), -float("inf"), MAX_WEIGHT + 1, None, "0.5", b"1", [1], 1e300]
)
def test_a_weight_out_of_bounds_is_named_with_its_tag(tokenizer: Tokenizer, weight: Any) -> None:
    message = error_of(lambda: encode(tokenizer, {"1girl": 1, "no such tag": weight}))
    assert message == f"'no such tag' has the weight {weight!r}; give a number from 0 to 100"


def test_weights_at_the_bounds_are_taken(tokenizer: Tokenizer) -> None:
    found = encode(tokenizer, {"1girl": MAX_WEIGHT, "tail": True, "bell": False, "cape": 1e-60})
    assert found.token_ids == tokenizer.encode("1girl tail").token_ids
    assert found.weights == (MAX_WEIGHT, 1)


@pytest.mark.parametrize(
    ("caption", "message"),
    [
        (3, "a caption is int 3; give text, a list of tags, or a mapping of tags to weights"),
        (b"1girl", "a caption is bytes b'1girl'; give text, a list of tags, or a mapping of tags to weights"),
        (float("nan"), "a caption is float nan; give text, a list of tags, or a mapping of tags to weights"),
        (["1girl", 3], "a tag of a caption is int 3; give text, a list of tags, or a mapping of tags to weights"),
        ({3: 0.5}, "a tag of a caption is int 3; give text, a list of tags, or a mapping of tags to weights"),
        ([["1girl"]], "a tag of a caption is list ['1girl']; give text, a list of tags, or a mapping of tags to"),
    ],
)
def test_what_is_no_caption_is_named(tokenizer: Tokenizer, caption: Any, message: str) -> None:
    assert error_of(lambda: encode(tokenizer, caption)).startswith(message)


def test_sets_have_weights_only_if_a_caption_has(tokenizer: Tokenizer) -> None:
    plain, weighted = Encoded((20, 21), ()), Encoded((22,), (), weights=(0.5,))
    assert tag_sets([plain, plain], 18, -1, -1).weights is None
    sets = tag_sets([plain, weighted, Encoded((), ())], 18, 2, 3)
    assert sets.weights is not None
    assert (sets.weights.dtype, sets.weights.tolist()) == (np.float32, [1, 1, 0.5])
    assert (sets.tags.tolist(), sets.lengths.tolist()) == ([2, 3, 4], [2, 1, 0])
    assert (sets.ratings.tolist(), sets.score_bins.tolist()) == ([2] * 3, [3] * 3)


@pytest.mark.parametrize("on_unknown", ["raise", "zero", "empty"])
def test_the_choices_for_unknown_captions(on_unknown: OnUnknown) -> None:
    check_on_unknown(on_unknown)
    assert error_of(lambda: check_on_unknown(on_unknown.upper())) == (
        f"on_unknown {on_unknown.upper()!r} is not one of raise, zero, empty"
    )


def test_known_tags_of_a_list_are_looked_up_at_once_and_read_as_one_by_one(tokenizer: Tokenizer) -> None:
    known = ["1girl", "cat_ears", "1girl"]
    assert encode(tokenizer, known) == tokenizer.encode("1girl cat_ears 1girl")
    mixed = encode(tokenizer, [*known, "nothing", "Tail", "-solo", "solo"])
    assert mixed.token_ids == tokenizer.encode("1girl cat_ears tail").token_ids
    assert (mixed.unknown, len(mixed.excluded)) == (("nothing",), 1)
    weighted = encode(tokenizer, {"cat_ears": 0.5, "cat ears": 0.25, "1girl": 1})
    assert weighted.weights == (0.5, 1.0)
    assert weighted.notes == ("cat ears: mentioned with weights 0.5, 0.25; 0.5 counts",)
    assert "list" in error_of(lambda: encode(tokenizer, ["1girl", ["solo"]]))  # type: ignore[list-item]

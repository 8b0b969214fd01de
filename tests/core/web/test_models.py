"""What the API's requests accept: the library's own limits and words, strictly typed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from booru_embed_core.schema import CATEGORIES, RATINGS
from booru_embed_core.web import models

REQUESTS = (models.EmbedRequest, models.CompleteRequest, models.SimilarRequest, models.SearchRequest)
SMALLEST: dict[type[BaseModel], dict[str, Any]] = {
    models.EmbedRequest: {"captions": [""]},
    models.CompleteRequest: {},
    models.FillRequest: {},
    models.SimilarRequest: {"tag": "a"},
    models.SearchRequest: {},
}


def is_accepted(request: type[BaseModel], **values: Any) -> bool:
    try:
        request.model_validate(SMALLEST[request] | values)
    except ValidationError:
        return False
    return True


@pytest.mark.parametrize("request_type", REQUESTS)
def test_a_field_that_there_is_not_is_refused(request_type: type[BaseModel]) -> None:
    assert is_accepted(request_type)
    assert not is_accepted(request_type, unheard_of=1)


@pytest.mark.parametrize("request_type", [models.EmbedRequest, models.CompleteRequest])
def test_ratings_are_those_of_the_schema(request_type: type[BaseModel]) -> None:
    for rating in RATINGS:
        assert is_accepted(request_type, rating=rating)
        assert is_accepted(models.SearchRequest, ratings=[rating])
    for rating in ("", "x", "gs", "G", "g\n", 1):
        assert not is_accepted(request_type, rating=rating)
        assert not is_accepted(models.SearchRequest, ratings=[rating])


@pytest.mark.parametrize("request_type", [models.CompleteRequest, models.SimilarRequest, models.SearchRequest])
def test_k_is_a_whole_number_from_1_to_200(request_type: type[BaseModel]) -> None:
    assert [k for k in (0, 1, 200, 201, True, "5", 2.5) if is_accepted(request_type, k=k)] == [1, 200]


def test_scores_are_32_bits() -> None:
    edges = (-(2**31) - 1, -(2**31), 2**31 - 1, 2**31)
    assert [score for score in edges if is_accepted(models.EmbedRequest, score=score)] == [-(2**31), 2**31 - 1]
    assert [score for score in edges if is_accepted(models.SearchRequest, min_score=score)] == [-(2**31), 2**31 - 1]


def test_captions_are_bounded_in_number_and_length() -> None:
    longest = "x" * models.MAX_CAPTION_LENGTH
    most = models.MAX_LETTERS // models.MAX_CAPTION_LENGTH
    assert is_accepted(models.EmbedRequest, captions=[longest] * most)
    assert is_accepted(models.EmbedRequest, captions=["x"] * models.MAX_CAPTIONS)
    assert not is_accepted(models.EmbedRequest, captions=[longest] * most + ["x"])
    assert not is_accepted(models.EmbedRequest, captions=["x"] * (models.MAX_CAPTIONS + 1))
    for request, field in ((models.CompleteRequest, "tags"), (models.SearchRequest, "tags")):
        assert is_accepted(request, **{field: longest})
        assert not is_accepted(request, **{field: longest + "x"})
    assert not is_accepted(models.SearchRequest, required=["x" * 201])
    assert not is_accepted(models.SearchRequest, excluded=["x"] * 51)


@pytest.mark.parametrize("request_type", [models.CompleteRequest, models.FillRequest])
def test_bans_are_bounded_between_commas_too(request_type: type[BaseModel]) -> None:
    assert is_accepted(request_type, banned=["a,b"] * 50)
    assert not is_accepted(request_type, banned=["a,b"] * 50 + ["c"])
    assert is_accepted(request_type, banned=["a*,b"] * 50)
    assert not is_accepted(request_type, banned=["a*,b"] * 49 + ["*,*"])


def test_categories_are_those_of_the_schema() -> None:
    assert is_accepted(models.CompleteRequest, categories=list(CATEGORIES))
    assert not is_accepted(models.CompleteRequest, categories=["species"])
    assert not is_accepted(models.SimilarRequest, category="species")

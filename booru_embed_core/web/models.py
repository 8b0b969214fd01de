"""Requests and answers of the HTTP API, as ``docs/reference/http-api.md`` describes them."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from booru_embed_core.schema import Category

MAX_CAPTIONS: Final = 256
MAX_CAPTION_LENGTH: Final = 10_000
MAX_K: Final = 200

# Strict: pydantic would otherwise accept true as a number.
Caption = Annotated[str, Field(max_length=MAX_CAPTION_LENGTH, strict=True)]
Count = Annotated[int, Field(ge=1, le=MAX_K, strict=True)]
Rating = Annotated[str, Field(pattern="^[gsqe]$", strict=True)]
Score = Annotated[int, Field(ge=-(2**31), lt=2**31, strict=True)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Metadata(_Request):
    rating: Rating | None = Field(None, description="Rating of the image; one that the model was trained with.")
    score: Score | None = Field(None, description="Score of the image; needs a rating.")


class EmbedRequest(_Metadata):
    captions: list[Caption] = Field(min_length=1, max_length=MAX_CAPTIONS)
    dim: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="Length of the vectors, a prefix of the whole; all numbers by default."
    )


class Embedding(BaseModel):
    caption: str
    unknown: list[str]
    vector: list[float]


class EmbedAnswer(BaseModel):
    dim: int
    embeddings: list[Embedding]


class CompleteRequest(_Metadata):
    tags: Caption = Field("", description='The caption so far, such as "1girl, cat ears" or "1girl cat_ears".')
    k: Count = 10
    categories: list[Category] | None = Field(None, max_length=5, description="Only tags of these categories.")
    prefix: Annotated[str, Field(max_length=200, strict=True)] = Field(
        "", description="Only tags that begin with it, by name or alias."
    )
    per_category: Annotated[bool, Field(strict=True)] = Field(False, description="k tags of each category.")


class Tag(BaseModel):
    tag: str
    category: Category


class CompletedTag(Tag):
    probability: float
    alias: str | None = None


class CompleteAnswer(BaseModel):
    completions: list[CompletedTag]
    unknown: list[str]
    known: list[Tag]
    notes: list[str]


class SimilarRequest(_Request):
    tag: Annotated[str, Field(min_length=1, max_length=200, strict=True)]
    k: Count = 10
    category: Category | None = None


class SimilarTag(Tag):
    similarity: float


class SimilarAnswer(BaseModel):
    tag: str
    neighbours: list[SimilarTag]


class SearchRequest(_Request):
    tags: Caption = Field("", description='A caption, or "a - b + c"; "rating:g" filters.')
    k: Count = 20
    ratings: list[Rating] | None = Field(None, max_length=4)
    min_score: Score | None = None
    required: list[Caption] = Field([], max_length=50, description="Tags that a post must have.")
    excluded: list[Caption] = Field([], max_length=50, description="Tags that a post must not have.")


class Post(BaseModel):
    post_id: int
    rating: str
    score: int
    similarity: float
    tags: list[Tag]


class SearchAnswer(BaseModel):
    posts: list[Post]
    unknown: list[str]


class LeftOut(BaseModel):
    what: str = Field(description='"map" or "posts".')
    reason: str


class Info(BaseModel):
    embedding_dim: int
    num_tags: int
    categories: dict[Category, int]
    ratings: list[str] = Field(description="Ratings that the model was trained with.")
    has_posts: bool
    has_map: bool
    checkpoint: str = Field(description="The name of its folder; in a warehouse, its version.")
    left_out: list[LeftOut] = Field(description="Products of the warehouse that do not belong to this checkpoint.")
    reload_error: str | None = Field(description="Why a newer checkpoint is not served; null if none failed.")


class TagMap(BaseModel):
    tags: list[str]
    categories: list[int] = Field(description="Indices into general, artist, copyright, character, meta.")
    counts: list[int]
    x: list[float]
    y: list[float]


class Status(BaseModel):
    status: str


class ErrorAnswer(BaseModel):
    error: str = Field(description="One line: the problem and the remedy.")
    field: str | None = Field(None, description="The invalid field of the request.")

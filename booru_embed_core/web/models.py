"""Requests and answers of the HTTP API, as ``docs/reference/http-api.md`` describes them."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from booru_embed_core.embedder.completion import Implied
from booru_embed_core.embedder.results import DEFAULT_TEMPERATURE, MAX_FILL_TAGS, MAX_SEED, MAX_TEMPERATURE, Origin
from booru_embed_core.schema import Category
from booru_embed_core.tags.prompts import Dialect
from booru_embed_core.web.prefix_index import Match

MAX_CAPTIONS: Final = 256
MAX_CAPTION_LENGTH: Final = 10_000
MAX_K: Final = 200
MAX_LETTERS: Final = 200_000
"""Of all captions of a request: reading them takes 1 s for usual ones, 4 s for the worst that were found."""
MAX_BANNED: Final = 100
MAX_BANNED_PATTERNS: Final = 50
"""Each is compared with all tags."""

# Strict: pydantic would otherwise accept true as a number.
Caption = Annotated[str, Field(max_length=MAX_CAPTION_LENGTH, strict=True)]
Name = Annotated[str, Field(max_length=200, strict=True)]
Count = Annotated[int, Field(ge=1, le=MAX_K, strict=True)]
Rating = Annotated[str, Field(pattern="^[gsqe]$", strict=True)]
Score = Annotated[int, Field(ge=-(2**31), lt=2**31, strict=True)]


def _few_letters(captions: list[str]) -> list[str]:
    if (letters := sum(map(len, captions))) > MAX_LETTERS:
        raise ValueError(f"has {letters:,} letters, more than {MAX_LETTERS:,}; send fewer captions at once")
    return captions


def _few_patterns(names: list[str]) -> list[str]:
    pieces = [piece for name in names for piece in name.split(",")]
    if len(pieces) > MAX_BANNED:
        raise ValueError(f"has {len(pieces):,} names between commas, more than {MAX_BANNED}; leave some out")
    if (patterns := sum("*" in piece for piece in pieces)) > MAX_BANNED_PATTERNS:
        raise ValueError(f"has {patterns:,} patterns, more than {MAX_BANNED_PATTERNS}; leave some out")
    return names


Captions = Annotated[list[Caption], Field(min_length=1, max_length=MAX_CAPTIONS), AfterValidator(_few_letters)]
Banned = Annotated[list[Name], Field(max_length=MAX_BANNED), AfterValidator(_few_patterns)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


_SCORE_NEEDS_RATING: Final[dict[str, Any]] = {
    "if": {"properties": {"score": {"type": "integer"}}, "required": ["score"]},
    "then": {"properties": {"rating": {"type": "string"}}, "required": ["rating"]},
}


class _Metadata(_Request):
    model_config = ConfigDict(json_schema_extra=_SCORE_NEEDS_RATING)

    rating: Rating | None = Field(None, description="Rating of the image; one that the model was trained with.")
    score: Score | None = Field(None, description="Score of the image; needs a rating.")


class EmbedRequest(_Metadata):
    captions: Captions = Field(description="At most 200,000 letters together.")
    dim: Annotated[int, Field(ge=1, strict=True)] | None = Field(
        None, description="Length of the vectors, a prefix of the whole; all numbers by default."
    )


class Embedding(BaseModel):
    caption: str
    unknown: list[str]
    notes: list[str] = Field(description="What was read differently from its spelling.")
    vector: list[float]


class EmbedAnswer(BaseModel):
    dim: int
    embeddings: list[Embedding]


class CompleteRequest(_Metadata):
    tags: Caption = Field("", description='The caption so far, such as "1girl, cat ears" or "1girl cat_ears".')
    k: Count = 10
    categories: list[Category] | None = Field(None, max_length=5, description="Only tags of these categories.")
    prefix: Name = Field(
        "",
        description="What is typed of the next tag, such as (cat, char:haku or -so: only tags that it matches.",
    )
    per_category: Annotated[bool, Field(strict=True)] = Field(False, description="k tags of each category.")
    implied: Implied = Field("drop", description="Whether to drop tags that the caption implies.")
    banned: Banned = Field([], description="Tags to leave out; * stands for any letters, in 50 of them at most.")


class Tag(BaseModel):
    tag: str
    category: Category


class KnownTag(Tag):
    weight: float


class CompletedTag(Tag):
    probability: float = Field(description="Its share among all tags that may follow.")
    alias: str | None = Field(None, description="The alias that matches the prefix, if the tag itself does not.")
    match: Match | None = Field(None, description="What of the tag matches the prefix; typo if it is corrected.")
    is_excluded: bool = Field(False, description="The prefix begins with a minus: the tag is to be excluded.")


class CompleteAnswer(BaseModel):
    completions: list[CompletedTag]
    unknown: list[str]
    known: list[KnownTag]
    implied: list[Tag] = Field(description="Tags that follow from the caption's.")
    notes: list[str]


class FillRequest(_Metadata):
    tags: Caption = Field("", description="The caption so far.")
    n: Annotated[int, Field(ge=0, le=MAX_FILL_TAGS, strict=True)] = Field(
        20, description="How many tags to add; 0 only writes the prompt."
    )
    temperature: Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, strict=True, allow_inf_nan=False)] = Field(
        DEFAULT_TEMPERATURE, description="Of the draws; 0 takes the most probable tag each time."
    )
    seed: Annotated[int, Field(ge=0, le=MAX_SEED, strict=True)] = Field(0, description="The same one, the same tags.")
    categories: list[Category] | None = Field(None, max_length=5, description="Add only tags of these categories.")
    limits: dict[Category, Annotated[int, Field(ge=0, le=MAX_FILL_TAGS, strict=True)]] = Field(
        {}, description="The most tags to add of a category."
    )
    implied: Implied = Field("drop", description="Whether to drop tags that others imply, or to add them.")
    banned: Banned = Field([], description="Tags never to add; * stands for any letters, in 50 of them at most.")
    dialect: Dialect = Field("a1111", description="The program that the prompt is for.")


class FilledTag(Tag):
    origin: Origin = Field(description="Whether the caption has it, it was drawn, or others imply it.")
    probability: float | None = Field(None, description="Of a drawn tag, its share among all that might have followed.")
    weight: float = 1.0


class FillAnswer(BaseModel):
    tags: list[FilledTag]
    prompt: str = Field(description="The whole caption in the chosen dialect.")
    unknown: list[str]
    notes: list[str]


class NormalizeRequest(_Request):
    tags: Caption = Field(description="The caption to read.")


class NormalizeAnswer(BaseModel):
    caption: str = Field(description="The known tags in their canonical spelling, separated by spaces.")
    known: list[KnownTag]
    unknown: list[str]
    excluded: list[Tag] = Field(description="Tags with a weight of 0 or less: no part of the caption.")
    ratings: list[str] = Field(description="Ratings that it names, of g s q e; they are no tags.")
    notes: list[str] = Field(description="What was read differently from its spelling.")


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
    tags: Caption = Field(
        "",
        description='Tags, or "a - b + c"; "-tag", "~tag", "*_ears", "( a or b )", "rating:g", "score:>10", '
        '"order:score".',
    )
    by: Literal["tags", "embedding"] = Field(
        "tags", description="Rank by how many of the tags a post has, or by the cosine alone."
    )
    k: Count = 20
    ratings: list[Rating] | None = Field(None, max_length=4)
    min_score: Score | None = None
    required: list[Name] = Field([], max_length=50, description="Tags that a post must have.")
    excluded: list[Name] = Field([], max_length=50, description="Tags that a post must not have.")


class Post(BaseModel):
    post_id: int
    rating: str
    score: int
    similarity: float
    tags: list[Tag]
    matched: list[str] = Field(description="Which of the tags that the query asks for the post has.")


class SearchAnswer(BaseModel):
    posts: list[Post]
    unknown: list[str]
    notes: list[str] = Field(description="What was read differently from its spelling.")


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
    practice: str = Field(description="A warning if the checkpoint is of a practice run; else empty.")
    left_out: list[LeftOut] = Field(description="Products of the warehouse that do not belong to this checkpoint.")
    reload_error: str | None = Field(description="Why a newer checkpoint is not served; null if none failed.")


class TagMap(BaseModel):
    tags: list[str]
    categories: list[int] = Field(description="Indices into general, artist, copyright, character, meta.")
    counts: list[int]
    x: list[float]
    y: list[float]


class MapPiece(BaseModel):
    """Some of the map's tags."""

    map: str = Field(description="Of which map this is a piece; all pieces of one have the same.")
    num_pieces: int
    num_tags: int = Field(description="In all pieces, which go from the most used tag to the least used one.")
    tags: list[str]
    categories: list[int] = Field(description="Indices into general, artist, copyright, character, meta.")
    counts: list[int]
    x: list[int] = Field(description="0 to 65535; the longer side of the map takes all of it.")
    y: list[int]


class Status(BaseModel):
    status: str


class ErrorAnswer(BaseModel):
    error: str = Field(description="One line: the problem and the remedy.")
    field: str | None = Field(None, description="The invalid field of the request.")

"""Requests of the API as queries, and what answers them as its models; the MCP server's tools share them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.fill import FillQuery
from booru_embed_core.embedder.results import Filled, Normalized
from booru_embed_core.schema import Category
from booru_embed_core.web import models
from booru_embed_core.web.completions import PrefixQuery, Suggestions

if TYPE_CHECKING:
    from booru_embed_core.search.post_search import PostSearch


def prefix_query(asked: models.CompleteRequest) -> PrefixQuery:
    """The query of a request for completions."""
    return PrefixQuery(
        asked.tags,
        asked.k,
        asked.categories,
        asked.rating,
        asked.score,
        asked.prefix,
        asked.per_category,
        asked.implied,
        asked.banned,
    )


def complete_answer(found: Suggestions) -> models.CompleteAnswer:
    """The answer with the completions `found`."""
    return models.CompleteAnswer(
        completions=[models.CompletedTag(**one._asdict()) for one in found.completions],
        unknown=list(found.unknown),
        known=known_tags(found.known, found.weights),
        implied=[models.Tag(tag=tag, category=category) for category, tag in found.implied],
        notes=list(found.notes),
    )


def known_tags(tags: tuple[tuple[Category, str], ...], weights: tuple[float, ...]) -> list[models.KnownTag]:
    """The known tags of a caption with their weights."""
    return [
        models.KnownTag(tag=tag, category=category, weight=weight)
        for (category, tag), weight in zip(tags, weights, strict=True)
    ]


def fill_query(asked: models.FillRequest) -> FillQuery:
    """The query of a request for a whole caption."""
    return FillQuery(
        caption=asked.tags,
        n=asked.n,
        temperature=asked.temperature,
        seed=asked.seed,
        categories=asked.categories,
        limits=asked.limits,
        rating=asked.rating,
        score=asked.score,
        implied=asked.implied,
        banned=asked.banned,
    )


def fill_answer(found: Filled, asked: models.FillRequest) -> models.FillAnswer:
    """The answer with the caption `found`, in the dialect that was `asked` for."""
    return models.FillAnswer(
        tags=[models.FilledTag(**one._asdict()) for one in found.tags],
        prompt=found.prompt(asked.dialect),
        unknown=list(found.unknown),
        notes=list(found.prompt_notes(asked.dialect)),
    )


def normalize_answer(read: Normalized) -> models.NormalizeAnswer:
    """The answer with how a caption was `read`."""
    return models.NormalizeAnswer(
        caption=read.caption,
        known=known_tags(read.tags, read.weights),
        unknown=list(read.unknown),
        excluded=[models.Tag(tag=tag, category=category) for category, tag in read.excluded],
        ratings=list(read.ratings),
        notes=list(read.notes),
    )


def similar_answer(embedder: BooruEmbedder, asked: models.SimilarRequest) -> models.SimilarAnswer:
    """The tags nearest to the one that was `asked` for.

    Raises:
        UnknownTagsError, ValueError: as in `BooruEmbedder.similar_tags`.
    """
    found = embedder.similar_tags(asked.tag, asked.k, asked.category)
    return models.SimilarAnswer(tag=asked.tag, neighbours=[models.SimilarTag(**one._asdict()) for one in found])


def search_answer(posts: PostSearch, embedder: BooruEmbedder, asked: models.SearchRequest) -> models.SearchAnswer:
    """The posts that a query finds.

    Raises:
        UnknownTagsError, SearchError, ValueError: as in `PostSearch.search`.
    """
    from booru_embed_core.search.parser import parse_query

    query = parse_query(asked.tags, embedder.tokenizer)
    filters = (asked.ratings, asked.min_score, asked.required, asked.excluded)
    found = posts.search(embedder, query, asked.k, *filters, by=asked.by)
    return models.SearchAnswer(
        posts=[
            models.Post(**post._asdict() | {"tags": [models.Tag(**tag._asdict()) for tag in post.tags]})
            for post in found
        ],
        unknown=list(query.unknown()),
        notes=list(query.notes),
    )

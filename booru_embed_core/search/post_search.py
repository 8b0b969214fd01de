"""Posts that have the tags of a query, or whose embeddings are nearest to it, among those that pass filters.

`booru-embed index` and the asset `post_embeddings` write a folder for search (see ``build.py``). Searching needs that
folder and the embedder that made it. Filters are exact: tags, ratings and scores are looked up in the posts table.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, Self
from weakref import WeakSet

import numpy as np
import pyarrow as pa

from booru_embed_core.embedder.captions import Caption
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import Neighbour, UnknownTagsError, UnknownTagsWarning
from booru_embed_core.errors import first_line, shown
from booru_embed_core.filesystem import followed
from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.search.filters import (
    MAX_MASKS,
    Every,
    Filter,
    HasAny,
    Mask,
    Not,
    Order,
    RatingIs,
    Within,
    num_masks,
    passing,
)
from booru_embed_core.search.folder import REMEDY, IndexMetadata, check_sizes, read_metadata, verify_files
from booru_embed_core.search.held_parts import HeldParts
from booru_embed_core.search.metatags import MAX_NUMBER
from booru_embed_core.search.parser import as_query
from booru_embed_core.search.posts_table import PostsTable
from booru_embed_core.search.query import MAX_TERMS, Query, Term
from booru_embed_core.search.ranking import Rows, ranked
from booru_embed_core.search.stored_vectors import Float32
from booru_embed_core.search.unknown import NOT_STORED, unknown_message
from booru_embed_core.search.vector_index import INDEX_FILE, SearchError, VectorIndex
from booru_embed_core.vectors import top_k, unit_vectors

_SAME_COSINE: Final = 0.98
"""The same model gives the same caption a cosine above this, in bf16 and int8 too; two trainings give one near 0."""
_CANDIDATE_ROWS: Final = 1000
_MAX_WANTED: Final = 64
"""Tags of filters that a query without plain tags is near to; embedding them takes some milliseconds."""
RANKINGS: Final = ("tags", "embedding")


class PostTag(NamedTuple):
    """A tag of a post."""

    tag: str
    category: Category


class FoundPost(NamedTuple):
    """A post that a query found; `tags` are those in the vocabulary."""

    post_id: int
    rating: str
    score: int
    similarity: float
    """The cosine of its embedding with the query's."""
    tags: tuple[PostTag, ...]
    matched: tuple[str, ...] = ()
    """Which of the tags that the query asks for it has; a pattern asks for all tags that it matches."""


class PostSearch:
    """Searches the posts of a folder. Threads may share an instance.

    A query is a string as people type it, or the `Query` that `parse_query` made of it. Its plain tags rank posts,
    ``-tag``, ``~tag``, ``*_ears``, ``rating:g``, ``score:>10`` and groups filter them, ``hatsune_miku - twintails``
    adds and subtracts, and ``id:123`` stands for the embedding of that post and excludes the post.
    """

    def __init__(
        self, folder: Path, metadata: IndexMetadata, table: PostsTable, index: VectorIndex, parts: HeldParts
    ) -> None:
        self.folder = folder
        self.metadata = metadata
        self.table = table
        self.index = index
        self._parts = parts
        self._checked: WeakSet[BooruEmbedder] = WeakSet()

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """The posts of `folder`, such as ``data/warehouse/post_embeddings/current``, mmapped.

        They stay those that were opened, also when a link in `folder` moves or the folder is removed.

        Raises:
            SearchError: the folder is not one for search, has another format, or a file is missing or was changed.
        """
        folder = followed(Path(folder))
        metadata = read_metadata(folder)
        check_sizes(folder, metadata)
        is_verified = verify_files(folder, metadata)
        try:
            table = PostsTable.open(folder, metadata.num_posts, is_verified=is_verified)
            parts = HeldParts.open(folder, metadata)
        except (OSError, ValueError, LookupError, pa.ArrowException) as error:
            raise SearchError(f"{folder}: cannot be searched ({first_line(error)}); {REMEDY}") from None
        shape = (metadata.num_posts, metadata.dim)
        return cls(folder, metadata, table, VectorIndex.open(folder / INDEX_FILE, metadata.nprobe, shape), parts)

    @property
    def num_posts(self) -> int:
        """Number of posts in the index."""
        return self.metadata.num_posts

    def search(
        self,
        embedder: BooruEmbedder,
        query: Query | str,
        k: int = 20,
        ratings: Collection[str] | None = None,
        min_score: int | None = None,
        required: Sequence[str] = (),
        excluded: Sequence[str] = (),
        by: str = "tags",
    ) -> list[FoundPost]:
        """The best `k` posts that pass the filters, the best first; fewer only where fewer pass.

        By tags, a post ranks by how many of the query's plain tags it has, then by its cosine with the query. What is
        subtracted excludes, and of posts with equally many tags those come first that have more from before the first
        sign. With ``order:score`` posts need all plain tags and come in that order.

        Args:
            embedder: the embedder whose model embedded the posts.
            query: plain tags, filters, captions with signs, ids of posts.
            k: maximal number of posts.
            ratings: letters of `RATINGS` of which a post must have one; None accepts all.
            min_score: minimal score of a post.
            required: captions; a post must have every tag in them.
            excluded: captions; a post must have no tag in them.
            by: ``tags``, or ``embedding`` for the order of the cosines alone, where subtracting excludes nothing.

        Raises:
            UnknownTagsError: a tag of a filter is not in the vocabulary, or no plain tag is.
            SearchError: no such post, or another model embedded the posts.
            ValueError: unknown rating, `k` below 1, or a query that cannot be read or answered.
        """
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one post")
        if by not in RANKINGS:
            raise ValueError(f"by {by!r} is not one of {', '.join(RANKINGS)}")
        self._check(embedder)
        query = as_query(query, embedder.tokenizer)
        if query.order and by != "tags":
            raise ValueError(f"{shown(query.text)}: has an order, and by {by} is another; leave one of them out")
        filters = [*query.filters, *_argument_filters(embedder, ratings, min_score, required, excluded)]
        if by == "tags":
            filters += _tag_filters(embedder, query)
        if num_masks(filters) > MAX_MASKS:
            raise ValueError(f"{shown(query.text)}: has more than {MAX_MASKS:,} conditions; leave some out")
        mask = passing(filters, self.table)
        if query.post_ids:
            mask = np.ones(self.num_posts, np.bool_) if mask is None else mask
            mask[self._rows(query.post_ids)] = False
        vector = self.query_vector(embedder, query)
        plain, first = _tags(embedder, query.token_ids(1)), _tags(embedder, query.first_token_ids())
        if query.order:
            rows, similarities = self._ordered(query.order, vector, k, mask)
        else:
            rows, similarities = ranked(self.table, self.index, vector, k, plain if by == "tags" else (), first, mask)
        asked = _places([*plain, *Every(query.filters).wanted()])
        return [
            self._found(embedder, row, similarity, asked)
            for row, similarity in zip(rows.tolist(), similarities.tolist(), strict=True)
        ]

    def near_tags(self, embedder: BooruEmbedder, query: Query | str, k: int = 20) -> list[Neighbour]:
        """The `k` tags whose own embeddings are nearest to that of `query`, without the tags in it.

        A similarity is a cosine after the mean of the tags is subtracted, as in `BooruEmbedder.similar_tags`.

        Args:
            embedder: as in `search`.
            query: plain tags, captions with signs, ids of posts.
            k: maximal number of tags.

        Raises:
            UnknownTagsError, SearchError, ValueError: as in `search`; or the query filters or orders posts.
        """
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one tag")
        query = as_query(query, embedder.tokenizer)
        if query.filters or query.order:
            raise ValueError(f"{shown(query.text)}: filters and orders choose posts, not tags; leave them out")
        self._check(embedder)
        tags = embedder.centred_tags
        signs, vectors = self._signed_vectors(embedder, query)
        if not vectors:
            signs, vectors = [1], [self._filters_vector(embedder, query)]
        similarity = tags.cosines(_sum(query, signs, [vector - tags.mean for vector in vectors]))
        candidates = ~embedder.vocab.is_unknown
        candidates[_tags(embedder, query.token_ids())] = False
        return [
            Neighbour(*_tag(embedder, index), float(similarity[index]))
            for index in top_k(similarity, np.flatnonzero(candidates), k)
        ]

    def post(self, embedder: BooruEmbedder, post_id: int) -> FoundPost:
        """The post `post_id`, with a similarity of 1.

        Raises:
            SearchError: no such post, or another model embedded the posts.
        """
        self._check(embedder)
        return self._found(embedder, self._rows([post_id])[0], 1.0, {})

    def query_vector(self, embedder: BooruEmbedder, query: Query | str) -> Float32:
        """The embedding of a query, float32 ``[E]`` of unit length; the empty query means "anything".

        Terms are added and subtracted. A query of filters alone is the mean of the tags that they want.

        Raises:
            UnknownTagsError, SearchError, ValueError: as in `search`; or the terms cancel out.
        """
        self._check(embedder)
        query = as_query(query, embedder.tokenizer)
        signs, vectors = self._signed_vectors(embedder, query)
        return unit_vectors(_sum(query, signs, vectors)) if vectors else self._filters_vector(embedder, query)

    def _signed_vectors(self, embedder: BooruEmbedder, query: Query) -> tuple[list[int], list[Float32]]:
        """The sign and the embedding of each caption and each post in the terms of `query`."""
        if query.num_parts > MAX_TERMS:
            raise ValueError(f"{shown(query.text)}: has more than {MAX_TERMS} terms; leave some out")
        signed = [(term.sign, caption) for term in query.terms if (caption := _caption(embedder, query, term))]
        signs = [sign for sign, _ in signed]
        vectors = list(embedder.embed([caption for _, caption in signed]) if signed else ())
        if query.post_ids:
            signs += [term.sign for term in query.terms for _ in term.post_ids]
            vectors += list(self.vectors(self._rows(query.post_ids)))
        return signs, vectors

    def _filters_vector(self, embedder: BooruEmbedder, query: Query) -> Float32:
        """The mean embedding of the most used tags that the filters want; that of the empty caption without any."""
        counts = embedder.vocab.counts
        wanted = sorted(Every(query.filters).wanted(), key=lambda tag: -int(counts[tag]))[:_MAX_WANTED]
        captions = [embedder.tokenizer.spellings[tag] for tag in wanted] or [""]
        return unit_vectors(embedder.embed(captions).mean(axis=0, dtype=np.float32))

    def _ordered(self, order: Order, vector: Float32, k: int, mask: Mask | None) -> tuple[Rows, Float32]:
        """The first `k` rows that pass by `order`, and their cosines."""
        every = np.arange(self.num_posts) if mask is None else np.flatnonzero(mask)
        rows = order.first(self.table, every, k)
        found, cosines = self.index.search(vector, len(rows), np.sort(rows))
        by_row = dict(zip(found.tolist(), cosines.tolist(), strict=True))
        return rows, np.array([by_row[row] for row in rows.tolist()], np.float32)

    def vectors(self, rows: Sequence[int] | Rows) -> Float32:
        """The embeddings of the posts in `rows`, float32 ``[n, E]``; reads each Parquet part that holds one whole."""
        return self._parts.vectors(np.asarray(rows, np.int64), self.metadata.dim)

    def _rows(self, post_ids: Sequence[int]) -> list[int]:
        """The row of each of `post_ids`."""
        rows = np.flatnonzero(np.isin(self.table.post_id, post_ids))
        row_of = dict(zip(self.table.post_id[rows].tolist(), rows.tolist(), strict=True))
        for post_id in post_ids:
            if post_id not in row_of:
                raise SearchError(f"post {post_id} is not among the {self.num_posts:,} of this index; check the id")
        return [row_of[post_id] for post_id in post_ids]

    def _found(self, embedder: BooruEmbedder, row: int, similarity: float, asked: Mapping[int, int]) -> FoundPost:
        vocab, indices = embedder.vocab, self.table.tags[row].tolist()
        # A pattern may ask for most of the vocabulary: the post's few tags are looked up, not the asked ones.
        matched = sorted((index for index in indices if index in asked), key=asked.__getitem__)
        return FoundPost(
            post_id=int(self.table.post_id[row]),
            rating=RATINGS[self.table.rating[row]],
            score=int(self.table.score[row]),
            similarity=similarity,
            tags=tuple(PostTag(*_tag(embedder, index)) for index in indices if not vocab.is_unknown[index]),
            matched=tuple(vocab.tags[index] for index in matched),
        )

    def _check(self, embedder: BooruEmbedder) -> None:
        """Raises for an `embedder` that gives other embeddings, tested on one post; tests each embedder once."""
        if embedder in self._checked:
            return
        if embedder.vocab.hash != self.metadata.vocab_hash:
            raise SearchError(
                f"{self.folder}: made with the vocab {self.metadata.vocab_hash[:16]}, but the model has "
                f"{embedder.vocab.hash[:16]}; give the checkpoint that made it, or {REMEDY}"
            )
        records = [self.table.tags[row] for row in range(min(self.num_posts, _CANDIDATE_ROWS))]
        nameable = [row for row, tags in enumerate(records) if len(tags) and not embedder.vocab.is_unknown[tags].any()]
        if nameable:
            row = max(nameable, key=lambda row: len(records[row]))
            caption = " ".join(embedder.tokenizer.spellings[index] for index in records[row].tolist())
            cosine = float(embedder.embed(caption)[0] @ self.vectors([row])[0])
            if not cosine > _SAME_COSINE:  # also raises for nan
                raise SearchError(
                    f"{self.folder}: made by another model (cosine {cosine:.2f} for post {self.table.post_id[row]}); "
                    f"give the checkpoint that made it, or {REMEDY}"
                )
        self._checked.add(embedder)


def _argument_filters(
    embedder: BooruEmbedder,
    ratings: Collection[str] | None,
    min_score: int | None,
    required: Iterable[str],
    excluded: Iterable[str],
) -> list[Filter]:
    """The filters that are no part of the query.

    Raises:
        UnknownTagsError: a tag is not in the vocabulary, so no post is known to have it or not.
        ValueError: unknown rating.
    """
    found: list[Filter] = []
    if ratings is not None:
        for rating in ratings:
            if rating not in RATINGS:
                raise ValueError(f"rating {rating!r} is not one of {', '.join(RATINGS)}")
        found.append(RatingIs(frozenset(RATINGS.index(rating) for rating in ratings)))
    if min_score is not None:
        found.append(Within("score", ((min_score, MAX_NUMBER),)))
    found += [HasAny((tag,)) for caption in required for tag in _filtering_tags(embedder, caption)]
    return found + [Not(HasAny((tag,))) for caption in excluded for tag in _filtering_tags(embedder, caption)]


def _filtering_tags(embedder: BooruEmbedder, caption: str) -> list[int]:
    encoded = embedder.tokenizer.encode(caption)
    if encoded.unknown:
        raise UnknownTagsError(unknown_message(embedder.tokenizer, shown(caption), encoded.unknown, NOT_STORED))
    return _tags(embedder, encoded.token_ids)


def _tag_filters(embedder: BooruEmbedder, query: Query) -> list[Filter]:
    """The filters that a ranking by tags adds: none of the subtracted tags; all plain ones where `query` has an order.

    Raises:
        UnknownTagsError: one of these tags is not in the vocabulary.
    """
    found: list[Filter] = []
    for sign in (-1, 1) if query.order else (-1,):
        if unknown := query.unknown(sign):
            raise UnknownTagsError(unknown_message(embedder.tokenizer, shown(query.text), unknown, NOT_STORED))
        tags = [HasAny((tag,)) for tag in _tags(embedder, query.token_ids(sign))]
        found += tags if sign > 0 else [Not(tag) for tag in tags]
    return found


def _sum(query: Query, signs: list[int], vectors: list[Float32]) -> Float32:
    total: Float32 = (np.array(signs, np.float32)[:, None] * np.stack(vectors)).sum(axis=0)
    if np.linalg.norm(total) < 1e-3:
        raise ValueError(f"{shown(query.text)}: what is added and subtracted cancels out; change a term")
    return total


def _places(tags: Iterable[int]) -> dict[int, int]:
    """The place of each of `tags` in their order."""
    return {tag: place for place, tag in enumerate(dict.fromkeys(tags))}


def _tags(embedder: BooruEmbedder, token_ids: Iterable[int]) -> list[int]:
    """The tag index of each of `token_ids`."""
    return [token_id - embedder.vocab.num_special for token_id in token_ids]


def _caption(embedder: BooruEmbedder, query: Query, term: Term) -> Caption | None:
    """The known tags of `term` and their weights; None where it has only ids of posts.

    Raises:
        UnknownTagsError: it has tags, and none is known.
    """
    if not term.captions:
        return None
    tokenizer = embedder.tokenizer
    unknown = [word for caption in term.captions for word in caption.unknown]
    weights: dict[str, float] = {}
    for caption in term.captions:
        spellings = [tokenizer.spellings[tag] for tag in _tags(embedder, caption.token_ids)]
        for spelling, weight in zip(spellings, caption.weights or [1.0] * len(spellings), strict=True):
            weights[spelling] = max(weight, weights.get(spelling, 0.0))
    if unknown and not weights:
        raise UnknownTagsError(unknown_message(tokenizer, shown(query.text), unknown, "no known tag is left"))
    if unknown:
        message = unknown_message(tokenizer, shown(query.text), unknown, "left out")
        warnings.warn(message, UnknownTagsWarning, stacklevel=4)
    return weights


def _tag(embedder: BooruEmbedder, index: int) -> tuple[str, Category]:
    return embedder.vocab.tags[index], CATEGORIES[int(embedder.vocab.categories[index])]

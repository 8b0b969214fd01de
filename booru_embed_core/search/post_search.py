"""Posts whose embeddings are nearest to a query's, among those that pass filters.

`booru-embed index` and the asset `post_embeddings` write a folder for search (see ``build.py``). Searching needs that
folder and the embedder that made it. Filters are exact: tags, ratings and scores are looked up in the posts table.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple, Self
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import Neighbour, UnknownTagsError
from booru_embed_core.errors import first_line
from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.search.posts_table import PostsTable
from booru_embed_core.search.query import Query, as_query
from booru_embed_core.search.vector_index import INDEX_FILE, Float16, Float32, SearchError, VectorIndex
from booru_embed_core.vectors import top_k, unit_vectors

FORMAT_VERSION: Final = 1
METADATA_FILE: Final = "search.json"
PART_FILES: Final = "part-*.parquet"
_SAME_COSINE: Final = 0.98
"""The same model gives the same caption a cosine above this, in bf16 and int8 too; two trainings give one near 0."""
_CANDIDATE_ROWS: Final = 1000
_REMEDY: Final = "rebuild it with `booru-embed index`"


@dataclass(frozen=True)
class IndexMetadata:
    """The content of ``search.json``.

    Attributes:
        format_version: version of the folder's format.
        num_posts: number of posts in the Parquet parts and in the index.
        dim: length of a vector.
        vocab_hash: hash of the vocabulary whose tag indices are stored.
        part_posts: posts in each Parquet part but the last.
        nprobe: inverted lists that a query reads.
        recall: recall@10 of the index on the queries that it was tuned on.
        index: kind of index, and the version of faiss.
        file_bytes: the size of each file.
    """

    format_version: int
    num_posts: int
    dim: int
    vocab_hash: str
    part_posts: int
    nprobe: int
    recall: float
    index: str
    file_bytes: dict[str, int]

    def write(self, folder: Path) -> None:
        """Writes ``search.json`` into `folder`."""
        (folder / METADATA_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class PostTag(NamedTuple):
    """A tag of a post."""

    tag: str
    category: Category


class FoundPost(NamedTuple):
    """A post and its cosine with the query; `tags` are those in the vocabulary."""

    post_id: int
    rating: str
    score: int
    similarity: float
    tags: tuple[PostTag, ...]


class PostSearch:
    """Searches the posts of a folder. Threads may share an instance.

    A query is a string as people type it, or the `Query` that `parse_query` made of it. It holds tags as for
    `BooruEmbedder.embed`, or captions with signs between them (``hatsune_miku - twintails + short_hair``).
    ``rating:g`` filters; ``id:123`` stands for the embedding of that post and excludes the post.
    """

    def __init__(self, folder: Path, metadata: IndexMetadata, table: PostsTable, index: VectorIndex) -> None:
        self.folder = folder
        self.metadata = metadata
        self.table = table
        self.index = index
        self._checked: WeakSet[BooruEmbedder] = WeakSet()

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """The posts of `folder`, such as ``data/warehouse/post_embeddings/current``, mmapped.

        Raises:
            SearchError: the folder is not one for search, has another format, or a file is missing or truncated.
        """
        folder = Path(folder)
        metadata = read_metadata(folder)
        _check_sizes(folder, metadata)
        try:
            table = PostsTable.open(folder)
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise SearchError(f"{folder}: cannot be searched ({first_line(error)}); {_REMEDY}") from None
        return cls(folder, metadata, table, VectorIndex.open(folder / INDEX_FILE, metadata.nprobe))

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
    ) -> list[FoundPost]:
        """The `k` posts nearest to `query` that pass the filters, nearest first; fewer only where fewer pass.

        Args:
            embedder: the embedder whose model embedded the posts.
            query: tags, captions with signs, ``rating:g`` and ``id:123``.
            k: maximal number of posts.
            ratings: letters of `RATINGS` of which a post must have one; None accepts all.
            min_score: minimal score of a post.
            required: captions; a post must have every tag in them.
            excluded: captions; a post must have no tag in them.

        Raises:
            UnknownTagsError: a tag of a filter is not in the vocabulary, or no tag of a caption is.
            SearchError: no such post, or another model embedded the posts.
            ValueError: unknown rating, `k` below 1, or a query that cannot be parsed.
        """
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one post")
        query = as_query(query)
        wanted = _both(query.ratings, _checked_ratings(ratings))
        passing = self.table.passing(
            None if wanted is None else [RATINGS.index(rating) for rating in wanted],
            min_score,
            _tag_indices(embedder, required),
            _tag_indices(embedder, excluded),
        )
        vector = self.query_vector(embedder, query)
        if query.post_ids:
            passing = np.ones(self.num_posts, np.bool_) if passing is None else passing
            passing[[self._row(post_id) for post_id in query.post_ids]] = False
        rows, similarities = self.index.search(vector, k, passing)
        return [self._found(embedder, row, s) for row, s in zip(rows.tolist(), similarities.tolist(), strict=True)]

    def near_tags(self, embedder: BooruEmbedder, query: Query | str, k: int = 20) -> list[Neighbour]:
        """The `k` tags whose own embeddings are nearest to that of `query`, without the tags in it.

        Args:
            embedder: as in `search`.
            query: as in `search`; its filters have no effect.
            k: maximal number of tags.

        Raises:
            UnknownTagsError, SearchError, ValueError: as in `search`.
        """
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one tag")
        query = as_query(query)
        similarity = embedder.tag_embeddings() @ self.query_vector(embedder, query)
        candidates = ~embedder.vocab.is_unknown
        candidates[[index for _, term in query.terms for index in _encoded(embedder, term)]] = False
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
        return self._found(embedder, self._row(post_id), 1.0)

    def query_vector(self, embedder: BooruEmbedder, query: Query | str) -> Float32:
        """The embedding of a query, float32 ``[E]`` of unit length; the empty query means "anything".

        Raises:
            UnknownTagsError, SearchError, ValueError: as in `search`; or the terms cancel out.
        """
        self._check(embedder)
        query = as_query(query)
        vectors = list(self.vectors([self._row(post_id) for post_id in query.post_ids]))
        if query.terms or not vectors:
            terms = query.terms or ((1, ""),)
            embedded = embedder.embed([term for _, term in terms])
            vectors += [sign * vector for (sign, _), vector in zip(terms, embedded, strict=True)]
        total = np.stack(vectors).sum(axis=0, dtype=np.float32)
        if np.linalg.norm(total) < 1e-3:
            raise ValueError(f"{query.text!r}: what is added and subtracted cancels out; change a term")
        return unit_vectors(total)

    def vectors(self, rows: Sequence[int]) -> Float32:
        """The embeddings of the posts in `rows`, float32 ``[n, E]``; reads each Parquet part that holds one whole."""
        found = np.empty((len(rows), self.metadata.dim), np.float32)
        part_of, row_in_part = np.divmod(np.asarray(rows, np.int64), self.metadata.part_posts)
        for part in np.unique(part_of).tolist():
            vectors = part_vectors(self.folder / part_name(part))
            found[part_of == part] = vectors[row_in_part[part_of == part]]
        return found

    def _row(self, post_id: int) -> int:
        rows = np.flatnonzero(self.table.post_id == post_id)
        if not len(rows):
            raise SearchError(f"post {post_id} is not among the {self.num_posts:,} of {self.folder}; check the id")
        return int(rows[0])

    def _found(self, embedder: BooruEmbedder, row: int, similarity: float) -> FoundPost:
        indices = self.table.tags[row].tolist()
        tags = tuple(PostTag(*_tag(embedder, i)) for i in indices if not embedder.vocab.is_unknown[i])
        rating = RATINGS[self.table.rating[row]]
        return FoundPost(int(self.table.post_id[row]), rating, int(self.table.score[row]), similarity, tags)

    def _check(self, embedder: BooruEmbedder) -> None:
        """Raises for an `embedder` that gives other embeddings, tested on one post; tests each embedder once."""
        if embedder in self._checked:
            return
        if embedder.vocab.hash != self.metadata.vocab_hash:
            raise SearchError(
                f"{self.folder}: made with the vocab {self.metadata.vocab_hash[:16]}, but the model has "
                f"{embedder.vocab.hash[:16]}; give the checkpoint that made it, or {_REMEDY}"
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
                    f"give the checkpoint that made it, or {_REMEDY}"
                )
        self._checked.add(embedder)


def unknown_tags(embedder: BooruEmbedder, query: Query) -> list[str]:
    """The tags in the terms of `query` that the vocabulary does not hold."""
    return [tag for _, term in query.terms for tag in embedder.tokenizer.encode(term).unknown]


def read_metadata(folder: Path) -> IndexMetadata:
    """The metadata in ``search.json`` of `folder`.

    Raises:
        SearchError: the file is missing or has another format.
    """
    file = folder / METADATA_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise SearchError(f"{file}: format_version {version!r} instead of {FORMAT_VERSION}; {_REMEDY}")
        if "probes" in values:  # its name in folders of booru-embed 0.1
            values["nprobe"] = values.pop("probes")
        return IndexMetadata(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise SearchError(
            f"{file}: no such file; make it with `booru-embed index` or materialize post_embeddings"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise SearchError(f"{file}: not the metadata of an index ({first_line(error)}); {_REMEDY}") from None


def _check_sizes(folder: Path, metadata: IndexMetadata) -> None:
    # Reading beyond the end of a truncated mmapped file would kill the process.
    for name, num_bytes in metadata.file_bytes.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != num_bytes:
            raise SearchError(f"{folder / name}: has {size} bytes instead of {num_bytes}; {_REMEDY}")


def read_vectors(folder: Path) -> Float16:
    """All vectors of the Parquet parts in `folder`, float16 ``[N, E]``, in the order of the packed file."""
    files = sorted(folder.glob(PART_FILES))
    num_posts = sum(int(pq.read_metadata(file).num_rows) for file in files)
    vectors = np.empty((num_posts, pq.read_schema(files[0]).field("vector").type.list_size), np.float16)
    start = 0
    for file in files:
        part = part_vectors(file)
        vectors[start : start + len(part)] = part
        start += len(part)
    return vectors


def part_vectors(file: Path) -> Float16:
    """The vectors of one Parquet part, float16 ``[n, E]``."""
    table = read_parquet(file, ["vector"])
    flat: NDArray[np.float16] = pc.list_flatten(table["vector"]).to_numpy()
    return flat.reshape(table.num_rows, -1)


def part_name(number: int) -> str:
    """The file name of Parquet part `number`, counted from 0."""
    return f"part-{number:05d}.parquet"


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    return other if one is None else one if other is None else one & other


def _checked_ratings(ratings: Collection[str] | None) -> frozenset[str] | None:
    for rating in ratings or ():
        if rating not in RATINGS:
            raise ValueError(f"rating {rating!r} is not one of {', '.join(RATINGS)}")
    return None if ratings is None else frozenset(ratings)


def _encoded(embedder: BooruEmbedder, caption: str) -> list[int]:
    return [token_id - embedder.vocab.num_special for token_id in embedder.tokenizer.encode(caption).token_ids]


def _tag_indices(embedder: BooruEmbedder, captions: Iterable[str]) -> list[int]:
    """The tag indices of all `captions`.

    Raises:
        UnknownTagsError: a tag is not in the vocabulary, so no post is known to have it or not.
    """
    for caption in captions:
        if unknown := embedder.tokenizer.encode(caption).unknown:
            raise UnknownTagsError(
                f"{caption!r}: cannot filter by tags that are not in the vocabulary: {', '.join(unknown)}; "
                "`booru-embed inspect vocab` lists the known tags"
            )
    return [index for caption in captions for index in _encoded(embedder, caption)]


def _tag(embedder: BooruEmbedder, index: int) -> tuple[str, Category]:
    return embedder.vocab.tags[index], CATEGORIES[int(embedder.vocab.categories[index])]

"""Posts by what they show: those whose embeddings are nearest to a query's, among those that pass filters.

A folder that can be searched is made by `booru-embed index` or the asset `post_embeddings` (see `post_vectors.py`). It
needs nothing else but the embedder that it was made with. Filters hold exactly: they are looked up, never guessed from
vectors.
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

from booru_embed_core.embedder.embedder import BooruEmbedder, Neighbour, UnknownTagsError
from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.search.posts_table import PostsTable
from booru_embed_core.search.query import parse_query
from booru_embed_core.search.vector_index import INDEX_FILE, Float16, Float32, SearchError, VectorIndex

FORMAT_VERSION: Final = 1
FACTS_FILE: Final = "search.json"
PART_FILES: Final = "part-*.parquet"
_SAME_COSINE: Final = 0.98
"""Of the same caption by the same model, in bf16 or int8 too; two trainings give one near 0."""
_LOOKED_AT: Final = 1000
_REMEDY: Final = "make it again with `booru-embed index`"


@dataclass(frozen=True)
class IndexMetadata:
    """What ``search.json`` says of the folder.

    Attributes:
        format_version: of the folder.
        num_posts: rows of the parts and of the index.
        dim: numbers of a vector.
        vocab_hash: of the vocabulary, in whose terms tags are stored.
        part_posts: posts of each part but the last.
        probes: lists of the index that a query reads.
        recall: recall@10 of the index on the queries that it was tuned on.
        index: its kind, and faiss' version.
        file_bytes: the size of each file.
    """

    format_version: int
    num_posts: int
    dim: int
    vocab_hash: str
    part_posts: int
    probes: int
    recall: float
    index: str
    file_bytes: dict[str, int]

    def write(self, folder: Path) -> None:
        """Writes it into `folder`."""
        (folder / FACTS_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


class PostTag(NamedTuple):
    """A tag that a post has."""

    tag: str
    category: Category


class FoundPost(NamedTuple):
    """A post, and the cosine of its embedding and the query's; `tags` are those of the vocabulary."""

    post_id: int
    rating: str
    score: int
    similarity: float
    tags: tuple[PostTag, ...]


class PostSearch:
    """Searches the posts of a folder. Threads may share an instance."""

    def __init__(self, folder: Path, facts: IndexMetadata, table: PostsTable, index: VectorIndex) -> None:
        self.folder = folder
        self.facts = facts
        self.table = table
        self.index = index
        self._checked: WeakSet[BooruEmbedder] = WeakSet()

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """The posts of `folder`, such as ``data/warehouse/post_embeddings/current``, mmapped.

        Raises:
            SearchError: it is no such folder, of another format, or a file of it is missing or cut short.
        """
        folder = Path(folder)
        facts = read_facts(folder)
        _check_sizes(folder, facts)
        try:
            table = PostsTable.open(folder)
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise SearchError(f"{folder}: cannot be searched ({error}); {_REMEDY}") from None
        return cls(folder, facts, table, VectorIndex.open(folder / INDEX_FILE, facts.probes))

    @property
    def num_posts(self) -> int:
        """Posts that can be found."""
        return self.facts.num_posts

    def search(
        self,
        embedder: BooruEmbedder,
        caption: str,
        k: int = 20,
        ratings: Collection[str] | None = None,
        min_score: int | None = None,
        required: Sequence[str] = (),
        excluded: Sequence[str] = (),
    ) -> list[FoundPost]:
        """The `k` posts nearest to `caption` of those that pass, the nearest first; fewer only where fewer pass.

        Args:
            embedder: the one whose model embedded the posts.
            caption: tags as for `BooruEmbedder.embed`, or captions with signs between, ``hatsune_miku - twintails +
                short_hair``; ``rating:g`` in it filters, ``id:123`` stands for that post's embedding and leaves it out.
            k: at most so many.
            ratings: letters of `RATINGS`, one of which a post must have; None is any.
            min_score: a post must have it or more.
            required: captions, of which a post must have every tag.
            excluded: captions, of which it must have none.

        Raises:
            UnknownTagsError: a tag of a filter is not in the vocabulary, so that no post is known to have it or not;
                or no tag of a caption is.
            SearchError: no such post, or the posts were embedded by another model.
            ValueError: an unknown rating, k below 1, or a query that cannot be read.
        """
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one post")
        query = parse_query(caption)
        wanted = _both(query.ratings, _checked_ratings(ratings))
        passing = self.table.passing(
            None if wanted is None else [RATINGS.index(rating) for rating in wanted],
            min_score,
            _tag_indices(embedder, required),
            _tag_indices(embedder, excluded),
        )
        vector = self.query_vector(embedder, caption)
        if query.post_ids:
            passing = np.ones(self.num_posts, np.bool_) if passing is None else passing
            passing[[self._row(post_id) for post_id in query.post_ids]] = False
        rows, similarities = self.index.search(vector, k, passing)
        return [self._found(embedder, row, s) for row, s in zip(rows.tolist(), similarities.tolist(), strict=True)]

    def near_tags(self, embedder: BooruEmbedder, caption: str, k: int = 20) -> list[Neighbour]:
        """The `k` tags whose own embeddings are nearest to that of `caption`, without the tags in it.

        Args:
            embedder: as in `search`.
            caption: as in `search`; filters in it change nothing.
            k: at most so many.

        Raises:
            UnknownTagsError, SearchError, ValueError: as in `search`.
        """
        similarity = embedder.tag_embeddings() @ self.query_vector(embedder, caption)
        named = [index for _, term in parse_query(caption).terms for index in _encoded(embedder, term)]
        similarity[named] = -np.inf
        similarity[embedder.vocab.is_unknown] = -np.inf
        best = np.argsort(-similarity, kind="stable")[:k]
        return [
            Neighbour(*_tag(embedder, index), float(similarity[index]))
            for index in best.tolist()
            if similarity[index] > -np.inf
        ]

    def post(self, embedder: BooruEmbedder, post_id: int) -> FoundPost:
        """The post `post_id`, with a similarity of 1.

        Raises:
            SearchError: there is none, or the posts were embedded by another model.
        """
        self._check(embedder)
        return self._found(embedder, self._row(post_id), 1.0)

    def query_vector(self, embedder: BooruEmbedder, caption: str) -> Float32:
        """The embedding of a query as `search` reads it, float32 ``[E]`` of unit length; the empty one is "anything".

        Raises:
            UnknownTagsError, SearchError, ValueError: as in `search`; or the terms cancel each other out.
        """
        self._check(embedder)
        query = parse_query(caption)
        parts = list(self.vectors([self._row(post_id) for post_id in query.post_ids]))
        if query.terms or not parts:
            terms = query.terms or ((1, ""),)
            embedded = embedder.embed([term for _, term in terms])
            parts += [sign * vector for (sign, _), vector in zip(terms, embedded, strict=True)]
        vector = np.sum(parts, axis=0, dtype=np.float32)
        length = float(np.linalg.norm(vector))
        if length < 1e-3:
            raise ValueError(f"{caption!r}: what is added and subtracted cancels out; change a term")
        return np.asarray(vector / length, np.float32)

    def vectors(self, rows: Sequence[int]) -> Float32:
        """The embeddings of the posts in `rows`, float32 ``[n, E]``; each part that holds one is read as a whole."""
        found = np.empty((len(rows), self.facts.dim), np.float32)
        parts = np.asarray(rows) // self.facts.part_posts
        for part in np.unique(parts).tolist():
            vectors = part_vectors(self.folder / part_name(part))
            found[parts == part] = vectors[np.asarray(rows)[parts == part] - part * self.facts.part_posts]
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
        """Refuses an `embedder` that would embed the posts otherwise, told from one of them; looks once at each."""
        if embedder in self._checked:
            return
        if embedder.vocab.hash != self.facts.vocab_hash:
            raise SearchError(
                f"{self.folder}: made with the vocab {self.facts.vocab_hash[:16]}, not with the model's, "
                f"{embedder.vocab.hash[:16]}; give the checkpoint that it was made with, or {_REMEDY}"
            )
        records = [self.table.tags[row] for row in range(min(self.num_posts, _LOOKED_AT))]
        nameable = [row for row, tags in enumerate(records) if len(tags) and not embedder.vocab.is_unknown[tags].any()]
        if nameable:
            row = max(nameable, key=lambda row: len(records[row]))
            caption = " ".join(embedder.tokenizer.spellings[index] for index in records[row].tolist())
            cosine = float(embedder.embed(caption)[0] @ self.vectors([row])[0])
            if not cosine > _SAME_COSINE:  # nan is no better
                raise SearchError(
                    f"{self.folder}: made by another model (cosine {cosine:.2f} for post {self.table.post_id[row]}); "
                    f"give the checkpoint that it was made with, or {_REMEDY}"
                )
        self._checked.add(embedder)


def read_facts(folder: Path) -> IndexMetadata:
    """What ``search.json`` of `folder` says.

    Raises:
        SearchError: it is missing or of another format.
    """
    file = folder / FACTS_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        found = values.get("format_version")
        if found != FORMAT_VERSION:
            raise SearchError(f"{file}: format_version {found!r} instead of {FORMAT_VERSION}; {_REMEDY}")
        facts = IndexMetadata(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise SearchError(
            f"{file}: no such file; make it with `booru-embed index` or materialize post_embeddings"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise SearchError(f"{file}: not the facts of a search ({error}); {_REMEDY}") from None
    return facts


def _check_sizes(folder: Path, facts: IndexMetadata) -> None:
    # A mapped file that is too short would end the process when it is read.
    for name, num_bytes in facts.file_bytes.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != num_bytes:
            raise SearchError(f"{folder / name}: has {size} bytes instead of {num_bytes}; {_REMEDY}")


def read_vectors(folder: Path) -> Float16:
    """All vectors of the parts in `folder`, float16 ``[N, E]``, in their order: 2 bytes a number in memory."""
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
    """The vectors of one part, float16 ``[n, E]``."""
    table = pq.read_table(file, columns=["vector"])
    flat: NDArray[np.float16] = pc.list_flatten(table["vector"]).to_numpy()
    return flat.reshape(table.num_rows, -1)


def part_name(number: int) -> str:
    """The file of the part `number`, from 0."""
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
    """The tag indices of all `captions`, which are known in full."""
    for caption in captions:
        if unknown := embedder.tokenizer.encode(caption).unknown:
            raise UnknownTagsError(
                f"{caption!r}: cannot filter by what is not in the vocabulary: {', '.join(unknown)}; "
                "`booru-embed inspect vocab` lists what is known"
            )
    return [index for caption in captions for index in _encoded(embedder, caption)]


def _tag(embedder: BooruEmbedder, index: int) -> tuple[str, Category]:
    return embedder.vocab.tags[index], CATEGORIES[int(embedder.vocab.categories[index])]

"""Caption matrices and tag co-occurrence counts, for initial vectors and baselines."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from booru_embed_core.tokens.batches import read_batch
from booru_embed_core.tokens.restored import whole_tags

if TYPE_CHECKING:
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

CaptionMatrix: TypeAlias = "sparse.csr_matrix[np.float32]"
"""float32 ones, [num_posts, num_tags]; column = ``tag_index`` = ``token_id - num_special``, ascending in a row."""
Float32: TypeAlias = NDArray[np.float32]
Float64: TypeAlias = NDArray[np.float64]

_CHUNK_POSTS: Final = 65_536
_CHUNK_TAGS: Final = 512
"""Rows of a matrix of pairs that are computed at once."""
_CONTEXT_EXPONENT: Final = 0.75
_SVD_SEED: Final = 7


def captions_from_packed(
    packed: PackedFile, vocab: Vocab, post_index: NDArray[np.int64], *, is_restored: bool = True
) -> CaptionMatrix:
    """CaptionMatrix [len(post_index), num_tags] of the rows `post_index` of the packed file, in that order.

    `is_restored`: whether tags that were dropped because others imply them are put back; training does without.

    Raises:
        PackedFileError: the file was made with another vocabulary or other implications, or a post has a local id
            outside it.
    """
    packed.check_vocab(vocab)
    if is_restored and packed.implications_sha256 is not None:
        tags, lengths = whole_tags(packed, vocab, post_index)
        return caption_matrix(tags, np.concatenate(([0], np.cumsum(lengths))), vocab.num_tags)
    batch = read_batch(packed, post_index)
    sizes = tuple(vocab.sizes.values())
    packed.check_local_ids(batch.tokens.numpy(), batch.field_lengths.numpy(), vocab)
    return caption_matrix(batch.tag_indices(sizes).numpy(), batch.cu_seqlens.numpy(), vocab.num_tags)


@dataclass(frozen=True, eq=False)
class PackedCaptions:
    """The captions of some rows of a packed file, read a part at a time: all of 4.9 million posts would take 1.3 GB.

    Attributes:
        packed: the file.
        vocab: its vocabulary.
        rows: int64[num_posts], rows of the file.
        is_restored: see `captions_from_packed`.
    """

    packed: PackedFile
    vocab: Vocab
    rows: NDArray[np.int64]
    is_restored: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """Posts and tags, as of a `CaptionMatrix`."""
        return len(self.rows), self.vocab.num_tags

    def __getitem__(self, index: slice | NDArray[np.int64]) -> CaptionMatrix:
        """CaptionMatrix of some of the posts, by their places in `rows`; the file's pages stay in the cache alone."""
        captions = captions_from_packed(self.packed, self.vocab, self.rows[index], is_restored=self.is_restored)
        self._give_back()
        return captions

    def _give_back(self) -> None:
        mapped: Any = self.packed.tokens
        while mapped is not None and not isinstance(mapped, mmap.mmap):
            mapped = getattr(mapped, "base", None)
        if mapped is not None and sys.platform != "win32":
            mapped.madvise(mmap.MADV_DONTNEED)


Captions: TypeAlias = "CaptionMatrix | PackedCaptions"


def take_captions(captions: Captions, index: NDArray[np.int64]) -> CaptionMatrix:
    """CaptionMatrix of the posts `index` (int64) of `captions`, in that order."""
    taken: Any = captions[index]  # to scipy's types it may be a single number
    return cast("CaptionMatrix", taken)


def caption_chunks(captions: Captions) -> Iterator[CaptionMatrix]:
    """`captions` in parts of 65,536 posts."""
    for start in range(0, captions.shape[0], _CHUNK_POSTS):
        yield captions[start : start + _CHUNK_POSTS]


def count_tags(captions: Captions) -> NDArray[np.int64]:
    """Posts that have each tag, int64[num_tags]."""
    counts = np.zeros(captions.shape[1], np.int64)
    for chunk in caption_chunks(captions):
        counts += np.bincount(chunk.indices, minlength=len(counts))
    return counts


def caption_matrix(tags: NDArray[np.integer], indptr: NDArray[np.integer], num_tags: int) -> CaptionMatrix:
    """CaptionMatrix of packed tag indices `tags`, caption i at ``indptr[i]:indptr[i + 1]``."""
    ones = np.ones(len(tags), dtype=np.float32)
    captions = sparse.csr_matrix((ones, tags.astype(np.int32), indptr), shape=(len(indptr) - 1, num_tags))
    captions.sort_indices()
    return captions


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """Counts of tags and of pairs of tags in training captions.

    Attributes:
        counts: posts that have the tag, float64[num_tags].
        num_posts: posts counted.
        fitted: indices of the tags whose pairs are counted, int64[m], ascending.
        together: posts that have both tags, int32[m, m]; the diagonal is ``counts[fitted]``.
    """

    counts: Float64
    num_posts: int
    fitted: NDArray[np.int64]
    together: NDArray[np.int32]

    @property
    def shares(self) -> Float64:
        """P(tag), smoothed by one extra post with the tag and one without it; float64[num_tags], each in (0, 1)."""
        return (self.counts + 1) / (self.num_posts + 2)

    def select(self, visible: CaptionMatrix) -> CaptionMatrix:
        """The fitted tags of `visible`, [n, m]."""
        selected: CaptionMatrix = visible if len(self.fitted) == len(self.counts) else visible[:, self.fitted]
        return selected

    def expand(self, scores: Float32) -> Float32:
        """Scores [n, num_tags] from `scores` [n, m] of the fitted tags; other tags rank below, by popularity."""
        if len(self.fitted) == len(self.counts):
            return scores
        lowest = scores.min(axis=1, keepdims=True)
        scale = np.maximum(np.abs(lowest), 1)  # smaller steps would be lost in float32
        expanded: Float32 = (lowest - scale * (2 - self.shares)).astype(np.float32)
        expanded[:, self.fitted] = scores
        return expanded


def count_cooccurrence(train: Captions, max_tags: int, counts: NDArray[np.int64] | None = None) -> Cooccurrence:
    """Counts of the captions `train` [num_posts, num_tags]; pairs among the `max_tags` most used tags.

    Ties in use are broken by tag index. Memory: 4 · m² bytes, and 200 MB at most while counting.

    Args:
        train: the captions.
        max_tags: m at most.
        counts: `count_tags` of them, if known.
    """
    counts = count_tags(train) if counts is None else counts
    order = np.lexsort((np.arange(len(counts)), -counts))
    fitted = np.sort(order[:max_tags]).astype(np.int64)
    together = np.zeros((len(fitted), len(fitted)), np.int32)
    for chunk in caption_chunks(train):
        posts = chunk[:, fitted].astype(np.int32)
        of_tags = posts.T.tocsr()
        for first in range(0, len(fitted), _CHUNK_TAGS):
            block = slice(first, first + _CHUNK_TAGS)
            together[block] += (of_tags[block] @ posts).toarray()
    return Cooccurrence(counts.astype(np.float64), train.shape[0], fitted, together)


def ppmi_factors(pairs: Cooccurrence, dim: int) -> tuple[Float64, Float64, Float64]:
    """U [m, dim], S [dim], V [m, dim] of PPMI_ab = max(0, log [P(a, b) / (P(a) P'(b))]) ≈ U S Vᵀ, P' ∝ P^.75, a ≠ b.

    P is over pairs of different tags (Levy, Goldberg, Dagan 2015, "Improving Distributional Similarity with Lessons
    Learned from Word Embeddings", sections 2.1 and 3.2). The randomized SVD has a fixed seed and fixed signs, so the
    same counts give the same factors.
    """
    uses = (pairs.together.sum(axis=1) - pairs.together.diagonal()).astype(np.float64)
    contexts = uses**_CONTEXT_EXPONENT
    contexts = contexts / max(1.0, float(contexts.sum()))
    ppmi = np.zeros(pairs.together.shape)
    for start in range(0, len(uses), _CHUNK_TAGS):
        rows = slice(start, start + _CHUNK_TAGS)
        together = pairs.together[rows].astype(np.float64)
        together[np.arange(len(together)), np.arange(start, start + len(together))] = 0
        expected = np.outer(uses[rows], contexts)
        seen = together > 0
        ppmi[rows][seen] = np.maximum(0, np.log(together[seen] / expected[seen]))
    return truncated_svd(ppmi, dim)


def truncated_svd(matrix: Float64, dim: int) -> tuple[Float64, Float64, Float64]:
    """U [m, dim], S [dim], V [m, dim] of `matrix` [m, m]; deterministic, and at most m factors."""
    from sklearn.utils.extmath import randomized_svd  # it takes a second to import, and most of the package needs none

    left, singular, right = randomized_svd(matrix, n_components=min(dim, len(matrix)), n_iter=7, random_state=_SVD_SEED)
    return left, singular, right.T

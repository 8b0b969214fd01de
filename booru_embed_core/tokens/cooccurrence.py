"""Caption matrices and tag co-occurrence counts, for initial vectors and baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

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
        together: posts that have both tags, float64[m, m]; the diagonal is ``counts[fitted]``.
    """

    counts: Float64
    num_posts: int
    fitted: NDArray[np.int64]
    together: Float64

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


def count_cooccurrence(train: CaptionMatrix, max_tags: int) -> Cooccurrence:
    """Counts of the captions `train` [num_posts, num_tags]; pairs among the `max_tags` most used tags.

    Ties in use are broken by tag index. Memory: 8 · m² bytes, and about as much while counting.
    """
    counts = train.getnnz(axis=0).astype(np.float64)
    order = np.lexsort((np.arange(len(counts)), -counts))
    fitted = np.sort(order[:max_tags]).astype(np.int64)
    together = np.zeros((len(fitted), len(fitted)))
    for start in range(0, train.shape[0], _CHUNK_POSTS):
        posts = train[start : start + _CHUNK_POSTS][:, fitted]
        pairs = sparse.coo_matrix(posts.T @ posts)
        together[pairs.row, pairs.col] += pairs.data
    return Cooccurrence(counts=counts, num_posts=train.shape[0], fitted=fitted, together=together)


def ppmi_factors(pairs: Cooccurrence, dim: int) -> tuple[Float64, Float64, Float64]:
    """U [m, dim], S [dim], V [m, dim] of PPMI_ab = max(0, log [P(a, b) / (P(a) P'(b))]) ≈ U S Vᵀ, P' ∝ P^.75, a ≠ b.

    P is over pairs of different tags (Levy, Goldberg, Dagan 2015, "Improving Distributional Similarity with Lessons
    Learned from Word Embeddings", sections 2.1 and 3.2). The randomized SVD has a fixed seed and fixed signs, so the
    same counts give the same factors.
    """
    together = pairs.together.copy()
    np.fill_diagonal(together, 0)
    uses = together.sum(axis=1)
    contexts = uses**_CONTEXT_EXPONENT
    expected = np.outer(uses, contexts / max(1.0, float(contexts.sum())))
    seen = together > 0
    ppmi = np.zeros_like(together)
    ppmi[seen] = np.maximum(0, np.log(together[seen] / expected[seen]))
    return truncated_svd(ppmi, dim)


def truncated_svd(matrix: Float64, dim: int) -> tuple[Float64, Float64, Float64]:
    """U [m, dim], S [dim], V [m, dim] of `matrix` [m, m]; deterministic, and at most m factors."""
    from sklearn.utils.extmath import randomized_svd  # it takes a second to import, and most of the package needs none

    left, singular, right = randomized_svd(matrix, n_components=min(dim, len(matrix)), n_iter=7, random_state=_SVD_SEED)
    return left, singular, right.T

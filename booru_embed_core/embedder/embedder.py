"""The library's face: tags as people write them in, vectors and tags out."""

from __future__ import annotations

import itertools
import threading
import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import Network, TagSets
from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.tags.tokenizer import Encoded, Tokenizer
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.vectors import unit_vectors

if TYPE_CHECKING:
    from booru_embed_core.training.checkpoint_config import CheckpointConfig

_PRECISIONS: Final = ("auto", "fp32", "bf16", "int8")
_LISTED: Final = "`booru-embed inspect vocab` lists what is known"


class UnknownTagsError(ValueError):
    """A caption has tags, but none of them is in the vocabulary."""


class UnknownTagsWarning(UserWarning):
    """Some tags of a caption are not in the vocabulary and were left out."""


class Completion(NamedTuple):
    """A tag that may follow; `probability` is its share among all tags that the input does not have."""

    tag: str
    category: Category
    probability: float


class Neighbour(NamedTuple):
    """A tag whose embedding lies near; `similarity` is the cosine."""

    tag: str
    category: Category
    similarity: float


class Normalized(NamedTuple):
    """What a caption was understood as; see ``docs/reference/captions.md``."""

    caption: str
    """Its known tags, each in the one spelling that is read as itself, separated by spaces."""
    tags: tuple[tuple[Category, str], ...]
    unknown: tuple[str, ...]
    """Its tags that the vocabulary does not hold."""
    notes: tuple[str, ...]
    """What was read otherwise than it stands, a line each: weights, other names, categories, what was left out."""
    ratings: tuple[str, ...]
    """Those that it names, of ``g s q e``: they are no tags, and the model is not told."""


class BooruEmbedder:
    """A trained model, ready to embed captions, complete them and compare tags.

    A caption is a string as people type it (``"1girl, (cat ears:1.2), tracer_\\(overwatch\\)"``) or as an export has it
    (``"1girl cat_ears"``); `normalize` shows what is understood. Tags that the vocabulary does not hold are left out
    with an `UnknownTagsWarning`; a caption of nothing but such tags is an `UnknownTagsError`. The empty caption is
    allowed: it stands for "anything". Any number of threads may use one embedder.
    """

    def __init__(self, network: Network, config: CheckpointConfig, vocab: Vocab) -> None:
        self.network = network
        self.config = config
        self.vocab = vocab
        self.tokenizer = Tokenizer(vocab)
        self._tag_embeddings: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, checkpoint: Path | str, device: str = "auto", precision: str = "auto") -> Self:
        """The embedder of a checkpoint.

        Args:
            checkpoint: its folder, such as ``data/warehouse/checkpoint/current``; the asset's folder or the warehouse
                that it is the current one of; or ``owner/name``, a model in the Hub's local cache.
            device: ``cpu``, ``cuda``, or ``auto``: the GPU where there is one.
            precision: ``fp32``, ``bf16``, or ``auto``: bf16 where the hardware multiplies it natively. It takes half
                the time; a vector then differs in its third digit. A folder of ONNX files takes ``fp32``, which is its
                ``auto``, or ``int8``.

        Raises:
            CheckpointError: a file is missing, damaged, or does not belong to the vocabulary beside it.
            ValueError: an unknown precision, or no such device.
        """
        if precision not in _PRECISIONS:
            raise ValueError(f"precision {precision!r} is not one of {', '.join(_PRECISIONS)}")
        from booru_embed_core.embedder.locate import find_checkpoint
        from booru_embed_core.training.checkpoint_config import read_checkpoint

        folder = find_checkpoint(checkpoint)
        config, vocab = read_checkpoint(folder)
        return cls(_load_network(folder, config, device, precision), config, vocab)

    @property
    def embedding_dim(self) -> int:
        """E: numbers of a whole embedding."""
        return self.config.model.embedding_dim

    def embed(
        self,
        captions: str | Sequence[str],
        rating: str | None = None,
        score: int | None = None,
        dim: int | None = None,
    ) -> NDArray[np.float32]:
        """The embeddings, float32 ``[n, dim]``, each of unit length.

        Args:
            captions: one or many.
            rating: one of ``g s q e``, for all captions; None withholds it.
            score: for all captions; needs a rating, since scores are compared within one. None withholds it.
            dim: a Matryoshka prefix of 1 to E numbers; None takes all.

        Raises:
            UnknownTagsError: a caption has tags and none is known.
            ValueError: an unknown rating, one that was never given in training, a score without a rating, or a `dim`
                out of range.
        """
        dim = self._dim(dim)
        sets = self._sets([captions] if isinstance(captions, str) else captions, rating, score)
        return unit_vectors(self.network.embeddings(sets)[:, :dim])

    def embed_stream(
        self,
        captions: Iterable[str],
        batch_size: int = 1024,
        rating: str | None = None,
        score: int | None = None,
        dim: int | None = None,
    ) -> Iterator[NDArray[np.float32]]:
        """The embeddings of any number of captions, float32 ``[batch_size, dim]`` after another, the last one shorter.

        `captions` are taken as they are needed, `batch_size` at a time; never more of them are held.

        Raises:
            ValueError: as in `embed`, or `batch_size` below 1.
            UnknownTagsError: as in `embed`, when its batch is reached; it ends the stream.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1; embed at least one caption at a time")
        dim, metadata = self._dim(dim), self._metadata(rating, score)
        every = iter(captions)

        def batches() -> Iterator[NDArray[np.float32]]:
            while batch := list(itertools.islice(every, batch_size)):
                yield unit_vectors(self.network.embeddings(self._read(batch, *metadata))[:, :dim])

        return batches()

    def normalize(self, caption: str) -> Normalized:
        """What `caption` is understood as: its tags, what is unknown, and what was read otherwise than it stands."""
        encoded = self.tokenizer.encode(caption)
        tags = tuple(self.tokenizer.decode(encoded.token_ids))
        return Normalized(self.tokenizer.normalized(encoded), tags, encoded.unknown, encoded.notes, encoded.ratings)

    def complete(
        self,
        caption: str,
        k: int = 10,
        category: Category | str | None = None,
        rating: str | None = None,
        score: int | None = None,
    ) -> list[Completion]:
        """The `k` most probable further tags, the most probable first; never one of the input's.

        Args:
            caption: what is there already; may be empty.
            k: at most so many.
            category: only tags of this one; their probabilities are still shares among all tags.
            rating: as in `embed`.
            score: as in `embed`.

        Raises:
            UnknownTagsError, ValueError: as in `embed`; or no such category, or k below 1.
        """
        allowed = self._tags_of(category, k)
        sets = self._sets([caption], rating, score)
        probabilities = self.probabilities_of(sets)[0]
        allowed[sets.tags] = False
        best = top_k(probabilities, np.flatnonzero(allowed), k)
        return [Completion(self.vocab.tags[i], self._category(i), float(probabilities[i])) for i in best]

    def probabilities(self, caption: str, rating: str | None = None, score: int | None = None) -> NDArray[np.float32]:
        """How probable each tag is as a further one, float32 ``[num_tags]``: `complete` before anything is chosen.

        They sum to 1; 0 is what the caption has already, and the unknown tokens.

        Raises:
            UnknownTagsError, ValueError: as in `embed`.
        """
        return self.probabilities_of(self._sets([caption], rating, score)).reshape(-1)

    def probabilities_of(self, sets: TagSets) -> NDArray[np.float32]:
        """`probabilities` of many at once, float32 ``[n, num_tags]``, of `sets` as `read_caption` reads them."""
        scores = self.network.tag_scores(sets)
        scores[:, self.vocab.is_unknown] = -np.inf
        scores[np.repeat(np.arange(len(scores)), sets.lengths), sets.tags] = -np.inf
        greatest_scores = scores.max(1, keepdims=True)
        scores -= np.where(np.isneginf(greatest_scores), np.float32(0), greatest_scores)
        np.exp(scores, out=scores)
        scores /= np.maximum(scores.sum(1, keepdims=True), np.finfo(np.float32).tiny)  # 0 where nothing is left
        return scores

    def read_caption(
        self, caption: str, rating: str | None = None, score: int | None = None
    ) -> tuple[Normalized, TagSets]:
        """What a caption is understood as, and its tags as the network reads them; unknown ones are left out.

        Raises:
            ValueError: as in `embed`.
        """
        metadata = self._metadata(rating, score)
        read = self.normalize(caption)
        return read, self._read([read.caption], *metadata)

    def similar_tags(self, tag: str, k: int = 10, category: Category | str | None = None) -> list[Neighbour]:
        """The `k` tags whose embeddings are nearest to that of `tag` by cosine, the nearest first, without `tag`.

        Raises:
            UnknownTagsError: `tag`, or a part of it, is not in the vocabulary.
            ValueError: not one tag, no such category, or k below 1.
        """
        allowed = self._tags_of(category, k)
        encoded = self.tokenizer.encode(tag)
        if encoded.unknown:  # with a comma, spaces within a tag are underscores
            encoded = self.tokenizer.encode(f"{tag},")
        if encoded.unknown:  # also beside a known one: half of what was asked for is no answer
            names = ", ".join(encoded.unknown)
            raise UnknownTagsError(f"{tag!r}: not in the vocabulary: {names}; {_LISTED}")
        if len(encoded.token_ids) != 1:
            raise ValueError(f"{tag!r} is {len(encoded.token_ids)} tags, not one; use `embed` for sets of tags")
        index = encoded.token_ids[0] - self.vocab.num_special
        vectors = self.tag_embeddings()
        similarity = vectors @ vectors[index]
        allowed[index] = False
        return [
            Neighbour(self.vocab.tags[i], self._category(i), float(similarity[i]))
            for i in top_k(similarity, np.flatnonzero(allowed), k)
        ]

    def tag_embeddings(self) -> NDArray[np.float32]:
        """The embedding of each tag alone, float32 ``[num_tags, E]``, unit length: the same space as captions'.

        Row ``tag_index`` is that of ``vocab.tags[tag_index]``, unknown tokens (``vocab.is_unknown``) included.
        """
        with self._lock:
            if self._tag_embeddings is None:
                every = np.arange(self.vocab.num_tags, dtype=np.int64)
                nothing = np.full(len(every), -1, dtype=np.int64)
                sets = TagSets(every, np.ones_like(every), nothing, nothing)
                self._tag_embeddings = unit_vectors(self.network.embeddings(sets))
            return self._tag_embeddings

    def hidden_states(
        self, captions: str | Sequence[str], rating: str | None = None, score: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """A state for every token, for cross-attention: float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``.

        The tokens of caption ``i`` are the rows ``cu_seqlens[i]:cu_seqlens[i + 1]``: first the summary token, then
        rating and score where given, then the caption's tags.
        """
        sets = self._sets([captions] if isinstance(captions, str) else captions, rating, score)
        return self.network.token_states(sets)

    def padded_hidden_states(
        self, captions: str | Sequence[str], rating: str | None = None, score: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`hidden_states` as a batch: float32 ``[n, L, d]``, and which are tokens, bool ``[n, L]``; the others are 0.

        L is the longest caption's number of tokens.
        """
        sets = self._sets([captions] if isinstance(captions, str) else captions, rating, score)
        states, cu_seqlens = self.network.token_states(sets)
        lengths = np.diff(cu_seqlens)
        is_token = np.arange(lengths.max(initial=0)) < lengths[:, None]
        padded = np.zeros((*is_token.shape, states.shape[1]), dtype=np.float32)
        padded[is_token] = states
        return padded, is_token

    def _dim(self, dim: int | None) -> int:
        dim = self.embedding_dim if dim is None else dim
        if not 1 <= dim <= self.embedding_dim:
            raise ValueError(f"dim {dim} is not between 1 and {self.embedding_dim}, the embedding's length")
        return dim

    def _sets(self, captions: Sequence[str], rating: str | None, score: int | None) -> TagSets:
        return self._read(captions, *self._metadata(rating, score), stacklevel=4)

    def _read(self, captions: Sequence[str], rating_id: int, score_bin: int, stacklevel: int = 3) -> TagSets:
        encoded = [self.tokenizer.encode(caption) for caption in captions]
        for caption, one in zip(captions, encoded, strict=True):
            if one.unknown and not one.token_ids:
                raise UnknownTagsError(_unknown_message(caption, one))
            if one.unknown:
                warnings.warn(_unknown_message(caption, one), UnknownTagsWarning, stacklevel)
        ids = [token_id - self.vocab.num_special for one in encoded for token_id in one.token_ids]
        return TagSets(
            tags=np.array(ids, dtype=np.int64),
            lengths=np.array([len(one.token_ids) for one in encoded], dtype=np.int64),
            ratings=np.full(len(encoded), rating_id, dtype=np.int64),
            score_bins=np.full(len(encoded), score_bin, dtype=np.int64),
        )

    def _metadata(self, rating: str | None, score: int | None) -> tuple[int, int]:
        if rating is not None and rating not in RATINGS:
            raise ValueError(f"rating {rating!r} is not one of {', '.join(RATINGS)}")
        if score is not None and rating is None:
            raise ValueError(f"score {score} needs a rating: scores are compared among posts of one rating")
        trained = self.config.trained_ratings
        if rating is not None and rating not in trained:
            # Its token has the vector that it started with: completions would move, and mean nothing.
            raise ValueError(
                f"rating '{rating}' was never given in training, which knew {', '.join(trained) or 'none'}; leave "
                "rating and score out, or train on posts of it with [training] metadata_keep_share above 0"
            )
        rating_id = -1 if rating is None else RATINGS.index(rating)
        if score is None:
            return rating_id, -1
        return rating_id, bisect_right(self.config.score_bin_edges[rating_id], score)

    def _tags_of(self, category: Category | str | None, k: int) -> NDArray[np.bool_]:
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one tag")
        if category is None:
            return ~self.vocab.is_unknown
        names = [known.value for known in CATEGORIES]
        if category not in names:
            raise ValueError(f"category {category!r} is not one of {', '.join(names)}")
        return np.asarray((self.vocab.categories == names.index(category)) & ~self.vocab.is_unknown)

    def _category(self, tag_index: int) -> Category:
        return CATEGORIES[int(self.vocab.categories[tag_index])]


def _load_network(checkpoint_dir: Path, config: CheckpointConfig, device: str, precision: str) -> Network:
    """The network by onnxruntime where the folder holds ONNX files, else by torch.

    Raises:
        ValueError: it is not installed, or has no such device or precision.
    """
    is_onnx = (checkpoint_dir / "model.onnx").exists()
    package, extra = ("onnxruntime", "onnx") if is_onnx else ("torch", "torch")
    if find_spec(package) is None:
        raise ValueError(f"{checkpoint_dir}: nothing to run the network with; install booru-embed[{extra}]")
    if is_onnx:
        from booru_embed_core.embedder.onnx_network import OnnxNetwork

        return OnnxNetwork.load(checkpoint_dir, config, device, precision)
    if precision == "int8":
        raise ValueError(f"{checkpoint_dir}: precision 'int8' is for a folder that `booru-embed export onnx` wrote")
    from booru_embed_core.embedder.torch_network import TorchNetwork

    return TorchNetwork.load(checkpoint_dir, config, device, precision)


def top_k(values: NDArray[np.float32], candidates: NDArray[np.int64], k: int) -> list[int]:
    """The `k` of `candidates` (ascending places in `values`) with the top_k values, of equals the first first."""
    if k < len(candidates):  # sorting all of a large vocabulary would take longer than a small network
        least = np.partition(values[candidates], -k)[-k]
        candidates = candidates[values[candidates] >= least]
    order = np.argsort(-values[candidates], kind="stable")[:k]
    return [int(i) for i in candidates[order]]


def _unknown_message(caption: str, encoded: Encoded) -> str:
    what = "left out" if encoded.token_ids else "no known tag remains"
    return f"{caption!r}: not in the vocabulary: {', '.join(encoded.unknown)}; {what}. {_LISTED}"

"""`BooruEmbedder`: captions in, vectors and tags out."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.backend import find_and_read, load_network
from booru_embed_core.embedder.captions import (
    UNKNOWN_REMEDY,
    Caption,
    OnUnknown,
    check_on_unknown,
    each_caption,
    encode,
    tag_sets,
    warn_of_unknown,
)
from booru_embed_core.embedder.completion import Implied, NextTags, ban_note, check_implied, renormalize, shares
from booru_embed_core.embedder.fill import FillQuery, fill_all, read_fill
from booru_embed_core.embedder.metadata import rating_and_score_bin
from booru_embed_core.embedder.neighbours import Centred, Vectors, embeddings_of_tags
from booru_embed_core.embedder.network import Network, TagSets, padded
from booru_embed_core.embedder.reduced_network import as_trained
from booru_embed_core.embedder.results import (
    DEFAULT_TEMPERATURE,
    Completion,
    Filled,
    Neighbour,
    Normalized,
    UnknownTagsError,
    UnknownTagsWarning,
)
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.tokenizer import Encoded, Tokenizer
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.vectors import top_k, unit_vectors

if TYPE_CHECKING:
    from booru_embed_core.training.checkpoint_config import CheckpointConfig


class BooruEmbedder:
    """A trained model that embeds captions, completes them and compares tags.

    A caption is a string as people type it (``"1girl, (cat ears:1.2), tracer_\\(overwatch\\)"``) or as an export has it
    (``"1girl cat_ears"``); `normalize` shows how it is read. It may also be a list of tags, or a mapping of tags to
    weights. Unknown tags are left out with an `UnknownTagsWarning`; a caption of only unknown tags raises an
    `UnknownTagsError`. The empty caption is allowed and means "anything".

    A tag of weight w counts as w copies of it: 1 is the plain tag, 0 its absence. Any number of threads may share one
    embedder, and it can be pickled for other processes.
    """

    def __init__(self, network: Network, config: CheckpointConfig, vocab: Vocab) -> None:
        self.network = as_trained(network, config, vocab)
        self.config = config
        self.vocab = vocab
        self.tokenizer = Tokenizer(vocab)
        self._tag_vectors: Vectors | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles what it was made from; the copy builds its own caches."""
        return type(self), (self.network, self.config, self.vocab)

    @classmethod
    def load(
        cls,
        checkpoint: Path | str,
        device: str = "auto",
        precision: str = "auto",
        backend: str = "auto",
        num_captions: int | None = None,
    ) -> Self:
        """The embedder of a checkpoint.

        Args:
            checkpoint: its folder, such as ``data/warehouse/checkpoint/current``; a warehouse or its asset folder, for
                the current checkpoint; or ``owner/name``, a model in the Hub's local cache.
            device: ``cpu``, ``cuda``, or ``auto``: the GPU if there is one.
            precision: ``fp32``, ``bf16``, or ``auto``: bf16 if the hardware multiplies it natively, which takes half
                the time and changes the third digit of a vector. A folder of ONNX files takes ``fp32`` (its ``auto``)
                or ``int8``.
            backend: ``numpy``, in float32; ``torch``; ``onnx``, for a folder of ONNX files; or ``auto``: numpy, until a
                large call imports torch if that is installed; where it is imported already, it computes everything.
            num_captions: about how many captions you will embed, for ``auto`` to choose at once; None if unknown.

        Raises:
            CheckpointError: a file is missing, damaged, or does not match the vocabulary beside it.
            ValueError: unknown precision or backend, or it is not installed or has no such device.
        """
        folder, config, vocab = find_and_read(checkpoint)
        return cls(load_network(folder, config, device, precision, backend, num_captions), config, vocab)

    @property
    def embedding_dim(self) -> int:
        """E, the length of a whole embedding."""
        return self.config.model.embedding_dim

    def embed(
        self,
        captions: Caption | Iterable[Caption],
        rating: str | None = None,
        score: int | None = None,
        dim: int | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> NDArray[np.float32]:
        """The embeddings, float32 ``[n, dim]``, each of unit length.

        Args:
            captions: one caption, as text or as a mapping of tags to weights (``{"cat_ears": 0.83}``); or many, each a
                text, a mapping or a list of tags.
            rating: one of ``g s q e``, for all captions; None withholds it.
            score: for all captions; needs a rating, since scores are compared within one. None withholds it.
            dim: length of a Matryoshka prefix, 1 to E; None takes all E numbers.
            on_unknown: what a caption becomes that has tags of which none is known: an error (``raise``), a vector of
                zeros (``zero``), or the empty caption (``empty``).

        Raises:
            UnknownTagsError: a caption has tags and none is known, and `on_unknown` is ``raise``.
            ValueError: a weight that is negative, above `MAX_WEIGHT` or no number; a rating that is unknown or was
                never given in training; a score without a rating; or a `dim` out of range.
        """
        dim, metadata = self._dim(dim), rating_and_score_bin(self.config, rating, score)
        check_on_unknown(on_unknown)
        return self.embed_encoded(self._read(each_caption(captions), on_unknown), metadata, dim, on_unknown)

    def embed_stream(
        self,
        captions: Iterable[Caption],
        batch_size: int = 1024,
        rating: str | None = None,
        score: int | None = None,
        dim: int | None = None,
        on_unknown: OnUnknown = "raise",
    ) -> Iterator[NDArray[np.float32]]:
        """The embeddings of any number of captions, in arrays float32 ``[batch_size, dim]``; the last may be shorter.

        Reads `batch_size` of `captions` at a time and never holds more.

        Raises:
            ValueError: as in `embed`, or `batch_size` below 1.
            UnknownTagsError: as in `embed`, at the batch of that caption; it ends the stream.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is below 1; embed at least one caption at a time")
        dim, metadata = self._dim(dim), rating_and_score_bin(self.config, rating, score)
        check_on_unknown(on_unknown)
        remaining = iter(each_caption(captions))

        def batches() -> Iterator[NDArray[np.float32]]:
            while batch := list(itertools.islice(remaining, batch_size)):
                yield self.embed_encoded(self._read(batch, on_unknown), metadata, dim, on_unknown)

        return batches()

    def normalize(self, caption: Caption) -> Normalized:
        """How `caption` is read: its tags, its unknown tags, and what is read differently from its spelling."""
        return self._normalized(encode(self.tokenizer, caption))

    def _normalized(self, encoded: Encoded) -> Normalized:
        tags = tuple(self.tokenizer.decode(encoded.token_ids))
        weights = encoded.weights or (1.0,) * len(tags)
        spelled, excluded = self.tokenizer.normalized(encoded), tuple(self.tokenizer.decode(encoded.excluded))
        return Normalized(spelled, tags, encoded.unknown, encoded.notes, encoded.ratings, weights, excluded)

    def complete(
        self,
        caption: Caption,
        k: int = 10,
        category: Category | str | None = None,
        rating: str | None = None,
        score: int | None = None,
        implied: Implied = "drop",
        banned: Sequence[str] = (),
    ) -> list[Completion]:
        """The `k` most probable further tags, the most probable first, without those of the caption.

        Args:
            caption: the tags so far; may be empty.
            k: maximal number of tags.
            category: only tags of this category; probabilities remain shares among the tags of all categories.
            rating: as in `embed`.
            score: as in `embed`.
            implied: ``drop`` leaves out the tags that follow from the caption's, such as ``hat`` from ``witch_hat``;
                ``keep`` offers them too. `Vocab.implications` has them.
            banned: names of tags, and patterns such as ``*_hair``, to leave out, also where a tag implies one of them.

        Raises:
            UnknownTagsError, ValueError: as in `embed`; or no such category, k below 1, or no such `implied`.
        """
        allowed = self.next_tags.allowed(category, k)
        check_implied(implied)
        sets, banned_tags = self._read_one(caption, rating, score, banned)
        left_out = self.next_tags.left_out(sets.tags, implied, banned_tags)
        probabilities = self.probabilities_of(sets)[0]
        renormalize(probabilities, left_out)
        allowed[sets.tags] = False
        allowed[left_out] = False
        best = top_k(probabilities, np.flatnonzero(allowed), k)
        return [Completion(self.vocab.tags[i], self._category(i), float(probabilities[i])) for i in best]

    def fill(
        self,
        caption: Caption,
        n: int = 20,
        temperature: float = DEFAULT_TEMPERATURE,
        seed: int = 0,
        categories: Collection[str] | None = None,
        limits: Mapping[Category, int] | Mapping[str, int] | None = None,
        rating: str | None = None,
        score: int | None = None,
        implied: Implied = "drop",
        banned: Sequence[str] = (),
    ) -> Filled:
        """`caption` completed: tags are drawn one after another by the probabilities that those before them leave.

        No drawn tag is implied by others or excludes one: a picture of one person gets one colour of hair and one
        posture, unless ``multicolored_hair`` or ``2girls`` allows more. `tags.exclusions` has the groups.

        Args:
            caption: the tags so far; may be empty.
            n: number of tags to add, 0 to `MAX_FILL_TAGS`; there are fewer only if no more may follow.
            temperature: of the draws, 0 to 10; 0 takes the most probable tag each time.
            seed: the same caption, options and seed give the same tags.
            categories: add only tags of these; None allows all.
            limits: the most tags to add of a category, such as ``{"artist": 0, "character": 1}``.
            rating: as in `embed`.
            score: as in `embed`.
            implied: ``drop`` adds no implied tags; ``keep`` adds those that each tag implies after it, at no cost.
            banned: as in `complete`.

        Raises:
            UnknownTagsError, ValueError: as in `embed`; or a value out of range.
        """
        self._read_one(caption, rating, score, banned)  # for its warnings
        query = FillQuery(
            caption=caption, n=n, temperature=temperature, seed=seed, categories=categories, limits=limits or {},
            rating=rating, score=score, implied=implied, banned=banned
        )  # fmt: skip
        return fill_all(self, [read_fill(self, query)])[0]

    @cached_property
    def next_tags(self) -> NextTags:
        """What may follow a caption."""
        return NextTags(self.tokenizer)

    def probabilities(
        self, caption: Caption, rating: str | None = None, score: int | None = None
    ) -> NDArray[np.float32]:
        """The probability of each tag as a further one, float32 ``[num_tags]``, which sum to 1.

        Tags of the caption and unknown tokens have 0; tags that the caption implies have theirs.

        Raises:
            UnknownTagsError, ValueError: as in `embed`.
        """
        return self.probabilities_of(self._sets([caption], rating, score)).reshape(-1)

    def probabilities_of(self, sets: TagSets) -> NDArray[np.float32]:
        """`probabilities` of many captions, float32 ``[n, num_tags]``; `sets` are as `read_caption` returns them."""
        scores = self.network.tag_scores(sets)
        scores[:, self.vocab.is_unknown] = -np.inf
        scores[np.repeat(np.arange(len(scores)), sets.lengths), sets.tags] = -np.inf
        return shares(scores)

    def read_caption(
        self, caption: Caption, rating: str | None = None, score: int | None = None
    ) -> tuple[Normalized, TagSets]:
        """How a caption is read, and its known tags as the network takes them.

        Raises:
            ValueError: as in `embed`.
        """
        metadata, encoded = rating_and_score_bin(self.config, rating, score), encode(self.tokenizer, caption)
        return self._normalized(encoded), tag_sets([encoded], self.vocab.num_special, *metadata)

    def similar_tags(self, tag: str, k: int = 10, category: Category | str | None = None) -> list[Neighbour]:
        """The `k` tags whose embeddings are nearest to that of `tag`, nearest first, without `tag`.

        A similarity is the cosine after the mean is subtracted (see ``neighbours``): 0 for unrelated tags.

        Raises:
            UnknownTagsError: `tag`, or a part of it, is not in the vocabulary.
            ValueError: `tag` is not one tag, no such category, or k below 1.
        """
        allowed = self.next_tags.allowed(category, k)
        encoded = self.tokenizer.encode(tag)
        if encoded.unknown:  # with a comma, spaces inside a tag are read as underscores
            encoded = self.tokenizer.encode(f"{tag},")
        if encoded.unknown:  # an error even beside a known tag: neighbours of half the input would mislead
            names = ", ".join(encoded.unknown)
            raise UnknownTagsError(f"{tag!r}: not in the vocabulary: {names}; {UNKNOWN_REMEDY}")
        if len(encoded.token_ids) != 1:
            raise ValueError(f"{tag!r} is {len(encoded.token_ids)} tags, not one; use `embed` for sets of tags")
        index = encoded.token_ids[0] - self.vocab.num_special
        tags = self.centred_tags
        similarity, allowed[index] = tags.cosines(tags.vectors[index] - tags.mean), False
        return [
            Neighbour(self.vocab.tags[i], self._category(i), float(similarity[i]))
            for i in top_k(similarity, np.flatnonzero(allowed), k)
        ]

    def tag_embeddings(self) -> NDArray[np.float32]:
        """The embedding of each tag as a caption of its own, float32 ``[num_tags, E]``, unit length.

        Row ``tag_index`` belongs to ``vocab.tags[tag_index]``; unknown tokens have rows too.
        """
        return self.tag_vectors().astype(np.float32, copy=False)

    def tag_vectors(self, dtype: type[np.floating] = np.float32) -> Vectors:
        """`tag_embeddings` as they are kept; in `dtype`, float32 or float16, where none are yet."""
        with self._lock:
            if self._tag_vectors is None:
                self._tag_vectors = embeddings_of_tags(self.network, np.arange(self.vocab.num_tags), dtype)
            return self._tag_vectors

    def take_tag_embeddings(self, vectors: Vectors) -> None:
        """Takes `vectors` for `tag_embeddings`: a table has them, and computing those of all tags takes seconds.

        In half precision, which changes the fourth digit of a similarity, they take half of the memory.
        """
        self._tag_vectors = vectors

    @cached_property
    def centred_tags(self) -> Centred:
        """`tag_embeddings` seen from their mean by use, as `similar_tags` compares them."""
        return Centred.of(self.tag_vectors(), np.where(self.vocab.is_unknown, 0, self.vocab.counts))

    def hidden_states(
        self, captions: Caption | Iterable[Caption], rating: str | None = None, score: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The state of every token, for cross-attention: float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``.

        The tokens of caption ``i`` are the rows ``cu_seqlens[i]:cu_seqlens[i + 1]``: the summary token, rating and
        score if given, then the caption's tags, in the order of `normalize`. The weight of a tag moves the states of
        the caption's other tokens.
        """
        return self.network.token_states(self._sets(captions, rating, score))

    def padded_hidden_states(
        self, captions: Caption | Iterable[Caption], rating: str | None = None, score: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`hidden_states` padded with zeros: float32 ``[n, L, d]``, and a mask of the tokens, bool ``[n, L]``.

        L is the number of tokens of the longest caption.
        """
        return padded(*self.network.token_states(self._sets(captions, rating, score)))

    def _dim(self, dim: int | None) -> int:
        dim = self.embedding_dim if dim is None else dim
        if not 1 <= dim <= self.embedding_dim:
            raise ValueError(f"dim {dim} is not between 1 and {self.embedding_dim}, the length of the embedding")
        return dim

    def embed_encoded(
        self, encoded: Sequence[Encoded], metadata: tuple[int, int], dim: int, on_unknown: OnUnknown
    ) -> NDArray[np.float32]:
        """`embed` of captions that were read; `metadata` is what `rating_and_score_bin` returns."""
        sets = tag_sets(encoded, self.vocab.num_special, *metadata)
        vectors = unit_vectors(self.network.embeddings(sets)[:, :dim])
        if on_unknown == "zero":
            vectors[[bool(one.unknown and not one.token_ids) for one in encoded]] = 0
        return vectors

    def _sets(self, captions: Caption | Iterable[Caption], rating: str | None, score: int | None) -> TagSets:
        metadata = rating_and_score_bin(self.config, rating, score)
        return tag_sets(self._read(each_caption(captions), "raise", 4), self.vocab.num_special, *metadata)

    def _read(self, captions: Iterable[Caption], on_unknown: OnUnknown, stacklevel: int = 3) -> list[Encoded]:
        """The tags of `captions`; warns of unknown ones."""
        encoded = []
        for caption in captions:
            encoded.append(encode(self.tokenizer, caption))
            warn_of_unknown(caption, encoded[-1], on_unknown, stacklevel)
        return encoded

    def _read_one(
        self, caption: Caption, rating: str | None, score: int | None, banned: Sequence[str]
    ) -> tuple[TagSets, NDArray[np.int64]]:
        """The set of `caption` and the banned tags; warns of unknown ones; call it from one frame below the caller."""
        metadata, encoded = rating_and_score_bin(self.config, rating, score), encode(self.tokenizer, caption)
        warn_of_unknown(caption, encoded, "raise", stacklevel=3)
        found = self.next_tags.banned(banned, self.tokenizer.decode(encoded.excluded))
        for name in found.unknown:
            warnings.warn(f"{ban_note(name)}. {UNKNOWN_REMEDY}", UnknownTagsWarning, stacklevel=3)
        return tag_sets([encoded], self.vocab.num_special, *metadata), found.tags

    def _category(self, tag_index: int) -> Category:
        return CATEGORIES[int(self.vocab.categories[tag_index])]

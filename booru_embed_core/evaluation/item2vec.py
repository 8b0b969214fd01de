"""item2vec: skip-gram with negative sampling over shuffled captions, by the optional package gensim.

Barkan, Koenigstein 2016, "Item2Vec: Neural Item Embedding for Collaborative Filtering", section 3. Captions are
reshuffled each epoch and frequent tags are dropped at random, so a window is a random sample of the set's pairs.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from typing import Final

import numpy as np

from booru_embed_core.evaluation.tag_vectors import TagVectors, tag_vectors
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, Cooccurrence, Float32
from booru_embed_core.vectors import unit_vectors

NAME: Final = "item2vec"
GENSIM_IS_MISSING: Final = "item2vec is left out: gensim is not installed; pip install 'booru-embed[item2vec]'"

ITEM2VEC_DIM: Final = 64
ITEM2VEC_EPOCHS: Final = 5

_SEED: Final = 7
_WINDOW: Final = 20
_NEGATIVES: Final = 5
_SAMPLE: Final = 1e-4
"""gensim's frequency threshold; without it, or at 1e-3, training is slower and recall on the sample is lower."""
_NEGATIVE_EXPONENT: Final = 1.0
"""Negatives in proportion to use make in · out tend to pointwise mutual information; word2vec uses .75."""
_LEARNING_RATE: Final = 0.05


class ShuffledCaptions:
    """Captions as lists of tags, in a new order at each iteration; the orders depend only on the seed."""

    def __init__(self, captions: CaptionMatrix, seed: int) -> None:
        self._captions = captions
        self._numbers = np.random.default_rng(seed)
        self._words = np.array([str(tag) for tag in range(captions.shape[1])], dtype=object)

    def __iter__(self) -> Iterator[list[str]]:
        indices, indptr = self._captions.indices, self._captions.indptr
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        order = np.lexsort((self._numbers.random(len(indices)), rows))
        words = self._words[indices[order]].tolist()
        bounds = indptr.tolist()
        for start, stop in itertools.pairwise(bounds):
            yield words[start:stop]


def is_installed() -> bool:
    """Whether gensim is installed."""
    return importlib.util.find_spec("gensim") is not None


class Item2Vec:
    """Trained input and output vectors, float32[m, dim] each.

    Input vectors are centred over all uses of tags. The component that all captions share encodes the shift by the
    number of negatives. Rare tags have not learned that shift and would otherwise rank above all others.
    """

    def __init__(self, pairs: Cooccurrence, inputs: Float32, outputs: Float32) -> None:
        self.pairs = pairs
        uses = pairs.counts[pairs.fitted]
        self.inputs = inputs - (uses @ inputs / max(1.0, float(uses.sum()))).astype(np.float32)
        self.outputs = outputs

    def cosine_scorer(self) -> TagVectors:
        """Captions are means of unit input vectors; scores are their cosines with the tags' input vectors."""
        unit = unit_vectors(self.inputs)
        return tag_vectors(NAME, self.pairs, unit, unit)

    def scorer(self, damping: float) -> TagVectors:
        """s_t = log P(t) + d · Σ_{v visible} in_v · out_t, d = `damping`.

        This has the form of damped naive Bayes, because in_v · out_t is trained towards log P(t | v) / P(t) minus a
        constant (Levy, Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization", section 3).
        """
        prior = np.log(self.pairs.shares[self.pairs.fitted])
        return tag_vectors(NAME, self.pairs, self.inputs, self.outputs * np.float32(damping), prior)


def train_item2vec(pairs: Cooccurrence, train: CaptionMatrix, dim: int, num_epochs: int) -> Item2Vec:
    """Trains vectors of the fitted tags; deterministic, because gensim runs with one worker.

    Args:
        pairs: counts, which also name the fitted tags.
        train: training captions, [num_posts, num_tags].
        dim: numbers per vector.
        num_epochs: passes over the captions.

    Raises:
        ImportError: gensim is not installed.
    """
    from gensim.models import Word2Vec  # an optional extra

    captions = ShuffledCaptions(pairs.select(train).tocsr(), _SEED)
    model = Word2Vec(
        captions,
        sg=1,
        hs=0,
        vector_size=dim,
        window=_WINDOW,
        negative=_NEGATIVES,
        ns_exponent=_NEGATIVE_EXPONENT,
        min_count=1,
        sample=_SAMPLE,
        alpha=_LEARNING_RATE,
        epochs=num_epochs,
        workers=1,
        seed=_SEED,
    )
    shape = (len(pairs.fitted), dim)
    inputs, outputs = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    indices = [int(word) for word in model.wv.index_to_key]
    inputs[indices], outputs[indices] = model.wv.vectors, model.syn1neg
    return Item2Vec(pairs, inputs, outputs)

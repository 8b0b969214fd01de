"""item2vec: skip-gram with negative sampling over shuffled captions, by gensim, which is optional.

Barkan, Koenigstein 2016, "Item2Vec: Neural Item Embedding for Collaborative Filtering", section 3. CaptionMatrix are
shuffled anew each epoch, and frequent tags left out at random, so that a window is a draw of the set's pairs.
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
"""gensim's threshold of frequency: without it, or at 1e-3, it is slower and finds less on the sample."""
_NEGATIVE_EXPONENT: Final = 1.0
"""Negatives in proportion to use, for which in · out tends to pointwise mutual information; word2vec has .75."""
_LEARNING_RATE: Final = 0.05


class ShuffledCaptions:
    """Lists of tags, each caption in a new order whenever it is read from the start; the orders depend on the seed."""

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
    """Whether gensim is there."""
    return importlib.util.find_spec("gensim") is not None


class Item2Vec:
    """Trained vectors: as part of a caption (`inputs`) and as answers (`outputs`), float32[m, dim] each.

    Inputs are centred over all uses of tags: what all captions have in common holds the shift by the number of
    negatives, which rare tags have not learned yet, so that they would stand above all others.
    """

    def __init__(self, pairs: Cooccurrence, inputs: Float32, outputs: Float32) -> None:
        self.pairs = pairs
        uses = pairs.counts[pairs.fitted]
        self.inputs = inputs - (uses @ inputs / max(1.0, float(uses.sum()))).astype(np.float32)
        self.outputs = outputs

    def cosine_scorer(self) -> TagVectors:
        """CaptionMatrix are means of unit input vectors, scores their cosines with the tags' input vectors."""
        unit = unit_vectors(self.inputs)
        return tag_vectors(NAME, self.pairs, unit, unit)

    def scorer(self, damping: float) -> TagVectors:
        """s_t = log P(t) + d · Σ_{v visible} in_v · out_t, d = `damping`: as damped naive Bayes, since in_v · out_t is
        trained towards log P(t | v) / P(t) less a constant (Levy, Goldberg 2014, "Neural Word Embedding as Implicit
        Matrix Factorization", section 3).
        """
        prior = np.log(self.pairs.shares[self.pairs.fitted])
        return tag_vectors(NAME, self.pairs, self.inputs, self.outputs * np.float32(damping), prior)


def train_item2vec(pairs: Cooccurrence, train: CaptionMatrix, dim: int, num_epochs: int) -> Item2Vec:
    """Vectors of the fitted tags from the captions `train` [num_posts, num_tags]; one worker, so that they are the same
    every time.

    Args:
        pairs: says which tags are fitted.
        train: training captions.
        dim: of a vector.
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
    places = [int(word) for word in model.wv.index_to_key]
    inputs[places], outputs[places] = model.wv.vectors, model.syn1neg
    return Item2Vec(pairs, inputs, outputs)

"""Which mechanism should give tags weights, and what do a tagger's confidences gain as weights over a threshold?

Mechanisms: log w added to a tag's score as a key (w copies of the tag), its value scaled by w, or both; in every block
and in the pool. The tries: one tag of a caption gets weights from .01 to 10 while the others keep 1. For each tag, the
cosine to the caption without it must fall all the way; the cosine to the caption with it must rise up to 1 and fall
after it. The gap at weight 0 is the cosine distance between the limit of small weights and the caption without the tag.

The tagger is simulated on posts of the test split. A tag of the post gets a score from `TRUE`, or from `MISSED` with
probability `MISS_SHARE`. Other tags, `NUM_FALSE` of them on average, drawn by how often they occur beside those of the
post, get scores from `FALSE`. The vector of the tagger's tags is compared with the vectors of the clean captions of all
test posts, equal captions counted once. R@1: the post's own is the nearest; MRR: mean reciprocal rank of its own.

Everything that is fitted (best threshold, calibration, exponent) is fitted on validation posts, whose scores have a
seed of their own.

``BOORU_EMBED_WAREHOUSE`` names the warehouse; the default is ``data/warehouse``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from benchmarks._encoders import pad
from benchmarks._results import write
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.evaluation.tasks import sample_posts
from booru_embed_core.model.encoder import SUMMARY_ID, Attention, FeedForward, SetEncoder
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, captions_from_packed
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.vectors import unit_vectors

Mechanism: TypeAlias = Literal["log weight", "scaled value", "both"]
MECHANISMS: Final[tuple[Mechanism, ...]] = ("log weight", "scaled value", "both")
WEIGHTS: Final = (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0)
NUM_TRIES: Final = 1000
MAX_POSTS: Final = 3000
EXPONENTS: Final = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
SEEDS: Final = (1, 2, 3)
VALIDATION_SEED: Final = 1000

TRUE: Final = (5.0, 1.6)
"""Parameters of the Beta distribution of a found tag's score: mean .76."""
MISSED: Final = (1.5, 5.0)
FALSE: Final = (1.5, 6.0)
MISS_SHARE: Final = 0.15
NUM_FALSE: Final = 30
THRESHOLD: Final = 0.35
FLOOR: Final = 0.05
_NUM_BINS: Final = 20

Scores: TypeAlias = NDArray[np.float32]
"""Float32 ``[n, num_tags]``: a tagger's score of each tag, or the weight of each; 0 for tags that are not named."""
Reading: TypeAlias = Callable[[Scores], Scores]


@torch.inference_mode()
def weighted_forward(model: SetEncoder, sets: TagSets, mechanism: Mechanism) -> NDArray[np.float32]:
    """The embeddings of `sets`, unit length, float32 ``[n, E]``, by plain dense attention over a padded batch."""
    table = torch.cat([model.tokens.weight[: model.config.num_special], model.tag_vectors()])
    starts = np.cumsum(sets.lengths) - sets.lengths
    ids = torch.from_numpy(np.insert(sets.tags + model.config.num_special, starts, SUMMARY_ID))
    lengths = torch.from_numpy(sets.lengths + 1)
    padded, mask = pad(ids, lengths)
    given = torch.from_numpy(np.insert(sets.tag_weights(), starts, 1))
    weights = torch.zeros(mask.shape).masked_scatter_(mask, given)
    log_weights = weights.log() if mechanism != "scaled value" else mask.float().log()
    factors = weights if mechanism != "log weight" else torch.ones_like(weights)

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],))

    def attention(layer: Attention, queries: Tensor, states: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], layer.num_heads, layer.head_dim).transpose(1, 2)

        q = norm(heads(layer.query(queries))) * layer.log_scale.exp()[:, None, None]
        k, v = layer.key_value(states).chunk(2, dim=-1)
        scores = q @ norm(heads(k)).transpose(2, 3) * layer.head_dim**-0.5 + log_weights[:, None, None]
        mixed = scores.softmax(-1) @ (heads(v) * factors[:, None, :, None])
        return layer.output(mixed.transpose(1, 2).reshape(queries.shape))  # type: ignore[no-any-return]

    def feed_forward(layer: FeedForward, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(x).chunk(2, dim=-1)
        return layer.down(F.silu(gate) * up)  # type: ignore[no-any-return]

    x = norm(F.embedding(padded, table))
    for block in model.blocks:
        x = block.before_attention(x)  # type: ignore[operator]
        x = x + attention(block.attention, norm(x), norm(x))  # type: ignore[arg-type]
        x = block.after_attention(x)  # type: ignore[operator]
    assert model.pool.attention is not None, "the mechanisms differ in attention only"
    summary = x[:, :1] + attention(model.pool.attention, norm(x[:, :1]), norm(x))
    pooled = norm((summary + feed_forward(model.pool.feed_forward, norm(summary)))[:, 0])
    return F.normalize(model.embed(pooled), dim=-1).numpy()


def weighted_sets(weights: Scores) -> TagSets:
    """A set for each row: its tags of a weight above 0."""
    rows, tags = np.nonzero(weights)
    lengths = np.bincount(rows, minlength=len(weights)).astype(np.int64)
    plain = TagSets.without_metadata(tags.astype(np.int64), lengths)
    return TagSets(plain.tags, lengths, plain.ratings, plain.score_bins, weights[rows, tags].astype(np.float32))


def embedded(model: SetEncoder, weights: Scores, mechanism: Mechanism | None) -> NDArray[np.float32]:
    """The embeddings of the rows of `weights`, by `weighted_forward`, or by the library if `mechanism` is None."""
    if mechanism is None:
        return unit_vectors(TorchNetwork(model, torch.float32).embeddings(weighted_sets(weights)))
    parts = np.array_split(weights, max(1, len(weights) // 200))
    return np.concatenate([weighted_forward(model, weighted_sets(part), mechanism) for part in parts])


def monotone_shares(model: SetEncoder, captions: Scores, mechanism: Mechanism) -> dict[str, float]:
    """How a growing weight of one random tag moves the embedding of each row of `captions`.

    The shares of rows whose cosines are monotone within 1e-6, and the mean gap at weight 0.
    """
    numbers = np.random.default_rng(SEEDS[0])
    tags = np.array([numbers.choice(np.flatnonzero(row)) for row in captions])
    rows = np.arange(len(captions))

    def at(weight: float) -> NDArray[np.float32]:
        changed = captions.copy()
        changed[rows, tags] = weight
        return embedded(model, changed, mechanism)

    without, whole = at(0.0), at(1.0)
    path = [at(weight) for weight in WEIGHTS]
    to_without, to_whole = (np.array([(vectors * end).sum(1) for vectors in path]) for end in (without, whole))
    one = WEIGHTS.index(1.0)
    falls, rises, leaves = (
        np.diff(to_without, axis=0),
        np.diff(to_whole[: one + 1], axis=0),
        np.diff(to_whole[one:], axis=0),
    )
    limit = at(1e-6)
    return {
        "from without, up to weight 1": float((falls[:one] < 1e-6).all(0).mean()),
        "towards with, up to weight 1": float((rises > -1e-6).all(0).mean()),
        "from with, above weight 1": float((leaves < 1e-6).all(0).mean()),
        "all of them": float(((falls[:one] < 1e-6).all(0) & (rises > -1e-6).all(0) & (leaves < 1e-6).all(0)).mean()),
        "gap at weight 0": float((1 - (limit * without).sum(1)).mean()),
        "distance without to with": float((1 - (whole * without).sum(1)).mean()),
    }


def simulated_scores(captions: Scores, beside: NDArray[np.float32], seed: int) -> Scores:
    """A tagger's scores for posts with the tags `captions`.

    Args:
        captions: ones and zeros.
        beside: float32 ``[num_tags, num_tags]``, the share of posts with tag i that have tag j.
        seed: determines all draws.
    """
    numbers = np.random.default_rng(seed)
    is_true = captions > 0
    found = np.where(
        numbers.random(captions.shape) < MISS_SHARE,
        numbers.beta(*MISSED, captions.shape),
        numbers.beta(*TRUE, captions.shape),
    )
    plausible = captions @ beside / np.maximum(captions.sum(1, keepdims=True), 1)
    with np.errstate(divide="ignore"):
        drawn = np.where(is_true, -np.inf, np.log(plausible) + numbers.gumbel(size=captions.shape))
    num = np.minimum(numbers.poisson(NUM_FALSE, len(captions)), np.isfinite(drawn).sum(1))
    ranks = np.argsort(np.argsort(-drawn, axis=1), axis=1)
    false = np.where(ranks < num[:, None], numbers.beta(*FALSE, captions.shape), 0)
    return np.where(is_true, found, false).astype(np.float32)


def ranks_of_own(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], own: NDArray[np.int64]
) -> NDArray[np.int64]:
    """int64 ``[n]``: the rank, from 1, of row ``own[i]`` of `gallery` for query i, by cosine."""
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), 1000):
        rows = slice(start, start + 1000)
        similarity = queries[rows] @ gallery.T
        own_similarity = np.take_along_axis(similarity, own[rows, None], axis=1)
        ranks[rows] = 1 + (similarity > own_similarity).sum(1)
    return ranks


class Retrieval:
    """Finds the clean caption of each post among those of all posts."""

    def __init__(self, model: SetEncoder, captions: Scores, mechanism: Mechanism | None = None) -> None:
        self._model, self._mechanism = model, mechanism
        gallery, self._own = np.unique(captions, axis=0, return_inverse=True)
        self._gallery = embedded(model, gallery, mechanism)

    def __call__(self, weights: Scores) -> dict[str, float]:
        """R@1 and MRR of the rows of `weights` as queries."""
        ranks = ranks_of_own(embedded(self._model, weights, self._mechanism), self._gallery, self._own.reshape(-1))
        return {"R@1": float((ranks == 1).mean()), "MRR": float((1 / ranks).mean())}


def threshold(at: float) -> Reading:
    """Tags above `at`, with weight 1."""
    return lambda scores: (scores > at).astype(np.float32)


def powers(exponent: float, floor: float = FLOOR) -> Reading:
    """Tags above `floor`, with the power of their score as weight."""
    return lambda scores: np.where(scores > floor, scores**exponent, 0).astype(np.float32)


def calibrated(scores: Scores, captions: Scores, exponent: float = 1.0, floor: float = FLOOR) -> Reading:
    """Tags above `floor`, with a power of the share of true tags among those of such a score as weight."""
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    named = scores > 0
    bins = np.clip(np.digitize(scores[named], edges) - 1, 0, _NUM_BINS - 1)
    num, num_true = np.bincount(bins, minlength=_NUM_BINS), np.bincount(bins, captions[named], minlength=_NUM_BINS)
    centres = (edges[1:] + edges[:-1]) / 2
    shares = np.maximum.accumulate(num_true / np.maximum(num, 1))

    def read(given: Scores) -> Scores:
        share = np.interp(given, centres, shares)
        return np.where(given > floor, share**exponent, 0).astype(np.float32)

    return read


def fitted_readings(
    retrieval: Retrieval, scores: Scores, captions: Scores
) -> tuple[dict[str, Reading], dict[str, float]]:
    """The ways to read a tagger's scores, and the parameters that do best on these posts by MRR."""

    def best(tries: Mapping[float, Reading]) -> float:
        return max(tries, key=lambda value: retrieval(tries[value](scores))["MRR"])

    cut = best({at: threshold(at) for at in np.arange(0.1, 0.75, 0.05).round(2).tolist()})
    exponent = best({at: powers(at) for at in EXPONENTS})
    exponent_above = best({at: powers(at, THRESHOLD) for at in EXPONENTS})
    calibrated_exponent = best({at: calibrated(scores, captions, at) for at in EXPONENTS})
    readings = {
        f"score > {THRESHOLD}, weight 1": threshold(THRESHOLD),
        "score > best threshold, weight 1": threshold(cut),
        f"score > {THRESHOLD}, weight = score": powers(1.0, THRESHOLD),
        f"score > {THRESHOLD}, weight = score ^ exponent": powers(exponent_above, THRESHOLD),
        f"score > {FLOOR}, weight = score": powers(1.0),
        f"score > {FLOOR}, weight = score ^ exponent": powers(exponent),
        f"score > {FLOOR}, weight = P(true)": calibrated(scores, captions),
        f"score > {FLOOR}, weight = P(true) ^ exponent": calibrated(scores, captions, calibrated_exponent),
    }
    fitted = {
        "best threshold": cut,
        f"exponent above {THRESHOLD}": exponent_above,
        f"exponent above {FLOOR}": exponent,
        f"exponent of P(true) above {FLOOR}": calibrated_exponent,
    }
    return readings, fitted


def precision_and_recall(scores: Scores, captions: Scores) -> dict[str, float]:
    """Of the simulated tagger at `THRESHOLD`."""
    named, is_true = scores > THRESHOLD, captions > 0
    hits = float((named & is_true).sum())
    return {"precision": hits / float(named.sum()), "recall": hits / float(is_true.sum())}


def measure(warehouse: Path, max_posts: int = MAX_POSTS, num_tries: int = NUM_TRIES) -> dict[str, Any]:
    """All figures, from the current checkpoint and packed file of `warehouse`."""
    model, _, vocab = load_checkpoint(warehouse / "checkpoint" / "current")
    packed = PackedFile.open(warehouse / "packed_tokens" / "current" / PACKED_FILE)

    def captions_of(split: str) -> CaptionMatrix:
        rows = rows_of_split(packed, split)
        return captions_from_packed(packed, vocab, rows[sample_posts(packed.post_id[rows], max_posts, SEEDS[0])])

    train = captions_from_packed(packed, vocab, rows_of_split(packed, "train"))
    beside = (train.T @ train).toarray().astype(np.float32)
    beside /= np.maximum(beside.diagonal()[:, None], 1)
    validation, test = (
        dense[dense.sum(1) >= 2] for dense in (captions_of(s).toarray() for s in ("validation", "test"))
    )

    mechanisms = {}
    for mechanism in MECHANISMS:
        mechanisms[mechanism] = monotone_shares(model, test[:num_tries], mechanism)
        retrieval = Retrieval(model, test[:num_tries], mechanism)
        scores = simulated_scores(test[:num_tries], beside, SEEDS[0])
        by_exponent = {exponent: retrieval(powers(exponent)(scores))["MRR"] for exponent in EXPONENTS[1:5]}
        mechanisms[mechanism] |= {f"MRR, score ^ {exponent:g}": mrr for exponent, mrr in by_exponent.items()}
        print(mechanism, mechanisms[mechanism], flush=True)

    fitting = simulated_scores(validation, beside, VALIDATION_SEED)
    readings, fitted = fitted_readings(Retrieval(model, validation), fitting, validation)
    retrieval = Retrieval(model, test)
    by_seed = [{name: retrieval(read(s)) for name, read in readings.items()} for s in
               (simulated_scores(test, beside, seed) for seed in SEEDS)]  # fmt: skip
    found = {
        name: {metric: [round(one[name][metric], 4) for one in by_seed] for metric in ("R@1", "MRR")}
        for name in readings
    }
    for name, figures in found.items():
        print(name, figures, flush=True)
    return {
        "num_tags": vocab.num_tags,
        "num_tries": min(num_tries, len(test)),
        "mechanisms": {name: {key: round(x, 5) for key, x in one.items()} for name, one in mechanisms.items()},
        "tagger": precision_and_recall(simulated_scores(test, beside, SEEDS[0]), test),
        "num_validation_posts": len(validation),
        "num_test_posts": len(test),
        "seeds": SEEDS,
        "fitted": fitted,
        "readings": found,
    }


def main() -> None:
    """Prints the figures and writes them to ``results/weights.json``."""
    warehouse = Path(os.environ.get("BOORU_EMBED_WAREHOUSE", "data/warehouse"))
    if not (warehouse / "checkpoint" / "current").exists():
        print(f"{warehouse}: no checkpoint, nothing measured; train one or set BOORU_EMBED_WAREHOUSE")
        return
    write("weights", measure(warehouse))

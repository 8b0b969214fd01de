"""Do suggestions say something, and do whole captions contradict themselves?

Suggestions: of posts of the test split, 6 tags drawn by `SEED` are visible. How often does the first suggestion follow
from them, and which share of the probability do implied tags take, with and without them?

Fills: captions start with 3 tags of posts of one person of the test split, and 20 are added. How often do two tags of a
caption exclude each other, and how many pairs are there that posts avoid (a fifth or less of what chance would give,
counted in the training posts of one person)? Plain draws, which take every tag as it comes, are the baseline.

``BOORU_EMBED_WAREHOUSE`` names the warehouse; the default is ``data/warehouse``. A vocabulary without implications
takes those of the evaluation: a → b if over 98% of the training posts with a, at least 20, have b.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks._results import write
from booru_embed_core.embedder.completion import renormalize
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.fill import FillQuery, fill_all, read_fill
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.evaluation.implied import implied_pairs
from booru_embed_core.tags.exclusions import ExclusiveTags
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, captions_from_packed
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile

SEED: Final = 7
NUM_POSTS: Final = 2_000
NUM_FILLS: Final = 1_000
VISIBLE: Final = 6
STARTED: Final = 3
ADDED: Final = 20
TEMPERATURES: Final = (0.0, 0.7, 1.0)
_BATCH: Final = 64
_AVOIDED: Final = 0.2
_EXPECTED: Final = 15.0
"""Posts that chance would give a pair before its absence tells something."""


def main() -> None:
    """Prints and writes both parts."""
    warehouse = Path(os.environ.get("BOORU_EMBED_WAREHOUSE", "data/warehouse"))
    embedder = BooruEmbedder.load(warehouse / "checkpoint/current", "cpu", "fp32")
    packed = PackedFile.open(warehouse / "packed_tokens/current" / PACKED_FILE)
    train, test = (
        captions_from_packed(packed, embedder.vocab, rows_of_split(packed, split)) for split in ("train", "test")
    )
    if not embedder.vocab.implications.num_pairs:
        causes, effects = implied_pairs(train, 0.98, 20).nonzero()
        mined = Implications.of_pairs(causes, effects, embedder.vocab.num_tags)
        embedder = BooruEmbedder(embedder.network, embedder.config, replace(embedder.vocab, implications=mined))
    found = {"suggestions": suggestions(embedder, test), "fills": fills(embedder, train, test)}
    for part, figures in found.items():
        for name, values in figures.items():
            print(f"{part}: {name}: {values}", flush=True)
    write("completions", {"seed": SEED, "num_implications": embedder.vocab.implications.num_pairs, **found})


def suggestions(embedder: BooruEmbedder, test: CaptionMatrix) -> dict[str, Any]:
    """Figures of first suggestions, with implied tags kept and dropped."""
    numbers = np.random.default_rng(SEED)
    rows = [row for row in _posts(test, numbers) if len(row) > VISIBLE][:NUM_POSTS]
    visible = [numbers.permutation(row)[:VISIBLE] for row in rows]
    halves = [numbers.permutation(row)[: len(row) // 2] for row in rows]
    rules = embedder.next_tags
    share = np.mean([
        p[rules.implied_by(half)].sum() for half, p in zip(halves, _probabilities(embedder, halves), strict=True)
    ])  # fmt: skip
    figures: dict[str, Any] = {"num_posts": len(rows), "implied_share_at_half": round(float(share), 4)}
    for how in ("keep", "drop"):
        is_implied, is_hit, bars, num_real = [], [], [], []
        for row, given, p in zip(rows, visible, _probabilities(embedder, visible), strict=True):
            implied = rules.implied_by(given)
            renormalize(p, rules.left_out(given, how))  # type: ignore[arg-type]
            best = np.argsort(-p, kind="stable")[:10]
            real = best[~np.isin(best, implied)]
            is_implied.append(best[0] in implied)
            is_hit.append(best[0] in row and best[0] not in implied)
            bars.append(p[real[0]] if len(real) else 0)
            num_real.append(len(real))
        figures[how] = {
            "first_is_implied": round(float(np.mean(is_implied)), 4),
            "first_is_hidden_and_not_implied": round(float(np.mean(is_hit)), 4),
            "not_implied_among_ten": round(float(np.mean(num_real)), 2),
            "median_probability_of_first_not_implied": round(float(np.median(bars)), 4),
        }
    return figures


def fills(embedder: BooruEmbedder, train: CaptionMatrix, test: CaptionMatrix) -> dict[str, Any]:
    """Contradictions of posts, plain draws and fills, per 1,000 captions."""
    vocab, numbers = embedder.vocab, np.random.default_rng(SEED)
    solo = vocab.tags.index("solo")
    avoided = _avoided(train[np.flatnonzero(train[:, [solo]].toarray().ravel())])
    posts = [row for row in _posts(test, numbers) if solo in row][:NUM_FILLS]
    starts = [np.append(numbers.permutation(row[row != solo])[: STARTED - 1], solo) for row in posts]
    texts = [" ".join(embedder.tokenizer.spellings[tag] for tag in start.tolist()) for start in starts]
    figures: dict[str, Any] = {
        "num_captions": len(posts),
        "posts": _odd(vocab, avoided, posts),
        "given": _odd(vocab, avoided, starts),
    }
    for temperature in TEMPERATURES:
        started = time.perf_counter()
        plain = _plain(embedder, starts, temperature)
        seconds = time.perf_counter() - started
        filled = []
        for first in range(0, len(texts), _BATCH):
            queries = [
                FillQuery(caption=text, n=ADDED, temperature=temperature, seed=SEED, row=first + row)
                for row, text in enumerate(texts[first : first + _BATCH])
            ]
            for one in fill_all(embedder, [read_fill(embedder, query) for query in queries]):
                ids = embedder.tokenizer.encode(one.caption).token_ids
                filled.append(np.array(ids) - vocab.num_special)
        figures[f"temperature {temperature:g}"] = {
            "plain": _odd(vocab, avoided, plain) | {"seconds": round(seconds, 1)},
            "fill": _odd(vocab, avoided, filled) | {"seconds": round(time.perf_counter() - started - seconds, 1)},
        }
    return figures


def _posts(captions: CaptionMatrix, numbers: np.random.Generator) -> list[NDArray[np.int64]]:
    """The tags of each post, in an order drawn by `numbers`."""
    rows = np.split(captions.indices.astype(np.int64), captions.indptr[1:-1])
    return [rows[row] for row in numbers.permutation(len(rows))]


def _probabilities(embedder: BooruEmbedder, sets: Sequence[NDArray[np.int64]]) -> NDArray[np.float32]:
    tags, lengths = np.concatenate(sets), np.array([len(one) for one in sets])
    return embedder.probabilities_of(TagSets.without_metadata(tags, lengths))


def _plain(embedder: BooruEmbedder, starts: Sequence[NDArray[np.int64]], temperature: float) -> list[NDArray[np.int64]]:
    """The baseline: every tag as the model gives it."""
    numbers, sets = np.random.default_rng(SEED), list(starts)
    for _ in range(ADDED):
        drawn = _probabilities(embedder, sets).astype(np.float64)
        if temperature:
            drawn **= 1 / temperature
            chosen = (numbers.random((len(drawn), 1)) * drawn.sum(1, keepdims=True) > drawn.cumsum(1)).sum(1)
        else:
            chosen = drawn.argmax(1)
        sets = [np.append(one, tag) for one, tag in zip(sets, chosen, strict=True)]
    return sets


def _avoided(captions: CaptionMatrix) -> NDArray[np.bool_]:
    """Which pairs of tags `captions` avoid, bool ``[num_tags, num_tags]``."""
    together = (captions.T @ captions).toarray()
    counts = np.diag(together)
    expected = np.outer(counts, counts) / captions.shape[0]
    return (expected >= _EXPECTED) & (together <= _AVOIDED * expected)


def _odd(vocab: Vocab, avoided: NDArray[np.bool_], captions: Sequence[NDArray[np.int64]]) -> dict[str, float]:
    exclusive, rules = ExclusiveTags(vocab), vocab.implications
    num = len(captions)
    num_odd = sum(len(exclusive.contradictions(one)) > 0 for one in captions)
    num_avoided = sum(avoided[np.ix_(one, one)].sum() / 2 for one in captions)
    num_implied = sum(len(np.intersect1d(rules.implied_by(one), one)) for one in captions)
    return {
        "contradict_per_1000": round(1000 * num_odd / num, 1),
        "avoided_pairs_a_caption": round(float(num_avoided / num), 3),
        "implied_tags_a_caption": round(num_implied / num, 2),
        "tags_a_caption": round(sum(map(len, captions)) / num, 1),
    }


if __name__ == "__main__":
    main()

"""How many records and tokens per CPU second do random batches give, compared with peer loaders and memcpy?

It reads all records of the packed file in ``BOORU_EMBED_PACKED``, or of a random one (see `_packed`); loaders alternate
in one run. booru-embed returns everything a training step needs (tokens as int32, field lengths, ratings, scores), and
its permutation counts. Peers return less, and their work before the first batch does not count (see `_peers`). CPU
seconds are those of all threads. The extra ``bench`` installs the peers; missing ones are left out with a message.
"""

from __future__ import annotations

import importlib.metadata
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch

from benchmarks._packed import random_packed
from benchmarks._peers import PEERS, Batches, Way
from benchmarks._results import BOORU_EMBED, display_name, write
from booru_embed_core.tokens.batches import EpochBatches
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.prefetch import prefetch

ROUNDS: Final = 5
BATCH_POSTS: Final = (1_024, 4_096, 8_192)
BUDGET_SECONDS: Final = 0.5
"""CPU seconds after which a peer is stopped within an epoch."""
PACKED_VARIABLE: Final = "BOORU_EMBED_PACKED"
DISTRIBUTIONS: Final = ("torch", "datasets", "webdataset", "litdata", "mosaicml-streaming")


def booru_embed_ways(packed: PackedFile) -> list[Way]:
    """booru-embed's batches: drawn in this thread, prefetched, bounded by tokens, and as tag indices."""
    rows = np.arange(packed.num_posts)
    epochs = iter(range(1_000_000))  # each start is a new epoch, whose order has to be drawn

    def drawn(batch_posts: int) -> Batches:
        batches, epoch = EpochBatches(packed, rows, batch_posts, seed=0), next(epochs)
        return ((len(b.post_index), len(b.tokens)) for b in batches.read_from(epoch, 0, epoch + 1))

    def ahead(batch_posts: int) -> Batches:
        batches, epoch = EpochBatches(packed, rows, batch_posts, seed=0), next(epochs)
        with prefetch(batches.read_from(epoch, 0, epoch + 1)) as read:
            yield from ((len(b.post_index), len(b.tokens)) for b in read)

    def tag_indices(batch_posts: int) -> Batches:
        batches, epoch = EpochBatches(packed, rows, batch_posts, seed=0), next(epochs)
        for batch in batches.read_from(epoch, 0, epoch + 1):
            yield len(batch.post_index), len(batch.tag_indices([1 << 16] * 5))

    def by_tokens(batch_posts: int) -> Batches:
        mean = packed.num_tokens / packed.num_posts
        batches, epoch = EpochBatches(packed, rows, None, 0, int(batch_posts * mean)), next(epochs)
        return ((len(b.post_index), len(b.tokens)) for b in batches.read_from(epoch, 0, epoch + 1))

    ways = {
        BOORU_EMBED: drawn,
        f"{BOORU_EMBED}, a thread ahead": ahead,
        f"{BOORU_EMBED}, by as many tokens": by_tokens,
        f"{BOORU_EMBED}, as tag indices": tag_indices,
    }
    return [Way(name, packed.num_posts, start, starts_on_the_clock=True) for name, start in ways.items()]


def floors(packed: PackedFile) -> list[Way]:
    """Lower bounds: memcpy of as many token bytes, and the same batches gathered token by token in numpy."""

    def memcpy(batch_posts: int) -> Batches:
        for first in range(0, packed.num_posts, batch_posts):
            last = min(first + batch_posts, packed.num_posts)
            copied = packed.tokens[int(packed.offsets[first]) : int(packed.offsets[last])].copy()
            yield last - first, len(copied)

    def numpy_take(batch_posts: int) -> Batches:
        order = np.random.default_rng(0).permutation(packed.num_posts).astype(np.uint32)
        for first in range(0, len(order), batch_posts):
            rows = order[first : first + batch_posts]
            starts = packed.offsets[rows].astype(np.int32)
            lengths = packed.offsets[rows + np.uint32(1)].astype(np.int32) - starts
            ends = np.cumsum(lengths, dtype=np.int32)
            positions = np.repeat(starts - (ends - lengths), lengths)
            positions += np.arange(ends[-1], dtype=np.int32)
            tokens = torch.from_numpy(packed.tokens.take(positions).astype(np.int32))
            yield len(torch.from_numpy(packed.field_lengths[rows])), len(tokens)

    return [Way("memcpy", packed.num_posts, memcpy), Way("numpy, token by token", packed.num_posts, numpy_take)]


def peers(packed: PackedFile, folder: Path) -> tuple[list[Way], list[str]]:
    """The peer loaders that are installed, and the names of those that are not."""
    ways, missing = [], []
    for prepare in PEERS:
        try:
            ways.append(prepare(packed, folder))
        except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision does not match torch
            print(f"  without {prepare.__name__}: {error}; pip install -e '.[bench]'", flush=True)
            missing.append(prepare.__name__)
    return ways, missing


def measure(way: Way, batch_posts: int) -> tuple[float, float]:
    """Records and tokens per CPU second of one epoch, or of the part that the budget allows."""
    batches = way.start(batch_posts)
    if not way.starts_on_the_clock:
        next(batches)
    num_records = num_tokens = 0
    started = time.process_time()
    for records, tokens in batches:
        num_records, num_tokens = num_records + records, num_tokens + tokens
        if not way.starts_on_the_clock and time.process_time() - started > BUDGET_SECONDS:
            break
    seconds = time.process_time() - started
    assert num_records <= way.num_records
    assert not way.starts_on_the_clock or num_records == way.num_records
    return num_records / seconds, num_tokens / seconds


def table(ways: list[Way], batch_posts: int) -> dict[str, Any]:
    """Figures of each way: medians over alternating rounds, and booru-embed's rate divided by its rate."""
    rates: dict[str, list[tuple[float, float]]] = {way.name: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            rates[way.name].append(measure(way, batch_posts))
    figures: dict[str, Any] = {}
    print(f"batches of {batch_posts:,}: millions per CPU second", flush=True)
    for way in ways:
        records, tokens = (statistics.median(column) for column in zip(*rates[way.name], strict=True))
        pairs = zip(rates[BOORU_EMBED], rates[way.name], strict=True)
        ratios = [own_rate / way_rate for (own_rate, _), (way_rate, _) in pairs]
        figures[way.name] = {
            "records_drawn_from": way.num_records,
            "by_hand": way.by_hand,
            "records_per_cpu_second": round(records),
            "tokens_per_cpu_second": round(tokens),
            "ours_over_it": round(statistics.median(ratios), 4),
            "ratios": [round(ratio, 4) for ratio in ratios],
        }
        print(
            f"  {display_name(way.name):42} {records / 1e6:9.3f} records {tokens / 1e6:9.2f} tokens   "
            f"booru-embed ÷ it: {statistics.median(ratios):8.3f} ({min(ratios):.3f} to {max(ratios):.3f})",
            flush=True,
        )
    return figures


def versions() -> dict[str, str]:
    """Versions of the installed peers."""
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions()}
    return {name: installed[name] for name in DISTRIBUTIONS if name in installed}


def fastest(figures: dict[str, Any], names: list[str]) -> dict[str, float | None]:
    """By batch size, booru-embed's rate over that of the fastest of `names`; None without any of them."""
    return {
        size: min((of_size[name]["ours_over_it"] for name in names), default=None) for size, of_size in figures.items()
    }


def main() -> None:
    """Prints one table per batch size and writes the figures."""
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    load_before, named = os.getloadavg()[0], os.environ.get(PACKED_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        packed = PackedFile.open(Path(named)) if named else random_packed(Path(folder))
        print(f"{packed.num_posts:,} records of {packed.num_tokens / packed.num_posts:.1f} tokens", flush=True)
        peer_ways, missing = peers(packed, Path(folder))
        ways = [*booru_embed_ways(packed), *floors(packed), *peer_ways]
        figures = {str(batch_posts): table(ways, batch_posts) for batch_posts in BATCH_POSTS}
        as_shipped, by_hand = ([way.name for way in peer_ways if way.by_hand is by_hand] for by_hand in (False, True))
        content = {
            "load_average_before": round(load_before, 2),
            "packed_file": "made by the pipeline" if named else "random",
            "num_posts": packed.num_posts,
            "num_tokens": packed.num_tokens,
            "rounds": ROUNDS,
            "versions": versions(),
            "not_installed": missing,
            "ours_over_fastest_peer": fastest(figures, as_shipped),
            "ours_over_fastest_by_hand": fastest(figures, by_hand),
        }
    write("batches", {**content, "figures": figures})


if __name__ == "__main__":
    main()

"""What share of a training step on a GPU goes into its batch, read on the host or drawn on the device?

Forward and backward of the default network, three ways alternated in one run: one batch over and over, which costs
nothing to draw; batches read from the mapped file and sent over, a thread ahead; and batches that a `DeviceCorpus`
draws. Wall time, the device waited for: on a GPU the host's seconds are not the point. Without a GPU it says so and
measures nothing.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import numpy as np
import torch

from benchmarks._packed import random_packed
from benchmarks._results import write
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import objective
from booru_embed_core.schema import NUM_CATEGORIES, SPECIAL_TOKENS
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.tokens.batches import Batch, EpochBatches
from booru_embed_core.tokens.device_corpus import DeviceCorpus
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.prefetch import prefetch
from booru_embed_core.training.hardware import pick_dtype
from booru_embed_core.training.step import captions_of

ROUNDS: Final = 5
STEPS: Final = 50
BATCH_POSTS: Final = (256, 4_096)
TAGS_OF_A_CATEGORY: Final = 4_096
"""Few enough for the scores of a large batch to fit; what a batch costs to draw does not depend on it."""
WITHOUT: Final = "the same batch"


class Bench:
    """Training steps on `device` over the records of `packed`, whose ids are below `num_tags` in each category."""

    def __init__(self, packed: PackedFile, device: torch.device, num_tags: int) -> None:
        self.packed = packed
        self.device = device
        self.drawn = DeviceCorpus(packed, device)
        sizes = (num_tags,) * NUM_CATEGORIES
        config = EncoderConfig(settings=ModelSettings(), num_special=len(SPECIAL_TOKENS), category_sizes=sizes)
        self.model = SetEncoder(config).to(device)
        self.settings = TrainingSettings()
        self.dtype = pick_dtype("auto", device)

    def batches(self, way: str, batch_posts: int, epoch: int) -> Iterator[Batch]:
        """Endless batches, or as many as an epoch has."""
        rows = np.arange(self.packed.num_posts)
        read = self.drawn.read if way == "drawn on the device" else None
        every = EpochBatches(self.packed, rows, batch_posts, 0, read_rows=read).read_from(epoch, 0, epoch + 1)
        return (batch for _, _, batch in every) if way != WITHOUT else cycle([next(every)[2]])

    def seconds(self, way: str, batch_posts: int, epoch: int, num_steps: int) -> float:
        """Seconds a step, over `num_steps` after a first one."""
        with prefetch(islice(self.batches(way, batch_posts, epoch), num_steps + 1)) as batches:
            self._step(next(batches))
            started = time.perf_counter()
            for batch in batches:
                self._step(batch)
            return (time.perf_counter() - started) / num_steps

    def _step(self, batch: Batch) -> None:
        bins = torch.zeros_like(batch.scores)
        captions = captions_of(batch, self.model.config.category_sizes, bins, self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        losses = objective(self.model, captions, self.settings, generator, self.dtype)
        losses.total.backward()  # type: ignore[no-untyped-call]
        losses.total.item()  # waits for the device


WAYS: Final = (WITHOUT, "read on the host", "drawn on the device")


def shares(bench: Bench, batch_posts: int, rounds: int, num_steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds of a step in each way, and which share of them the same batch over and over saves; medians."""
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for round_ in range(rounds):
        for way in WAYS:
            seconds[way].append(bench.seconds(way, batch_posts, round_, num_steps))
    return {
        way: {
            "milliseconds_a_step": round(1e3 * statistics.median(of_way), 4),
            "share_of_its_batch": round(
                statistics.median(1 - least / own for least, own in zip(seconds[WITHOUT], of_way, strict=True)), 4
            ),
        }
        for way, of_way in seconds.items()
    }


def main() -> None:
    """Prints and writes the shares, where there is a GPU."""
    if not torch.cuda.is_available():
        print("  needs a CUDA device: nothing measured, the results stay as they are")
        return
    with tempfile.TemporaryDirectory() as folder:
        packed = random_packed(Path(folder))
        packed = dataclasses.replace(packed, tokens=packed.tokens % np.uint16(TAGS_OF_A_CATEGORY))
        bench = Bench(packed, torch.device("cuda"), TAGS_OF_A_CATEGORY)
        figures = {str(size): shares(bench, size, ROUNDS, STEPS) for size in BATCH_POSTS}
    for size, ways in figures.items():
        for way, figure in ways.items():
            print(f"  {size:>5} {way:20} {figure['milliseconds_a_step']:8.2f} ms, {figure['share_of_its_batch']:6.1%}")
    write("loader_share", {"num_posts": packed.num_posts, "rounds": ROUNDS, "steps": STEPS, "figures": figures})


if __name__ == "__main__":
    main()

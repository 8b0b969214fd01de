"""How long does a training step take on a CPU, compared with padded batches?

It measures the whole step (split, forward, loss, backward, optimizer) of the default network in four ways, alternating
in one run: booru-embed; the same network on a batch padded to its longest set, with torch's own attention, RMSNorm and
SwiGLU; and Hugging Face's BertModel and ModernBertModel of the same size, also padded (see `_encoders`). All read the
same sets and share objective and optimizer. Each runs in float32 and in bf16.

A round is one step of each way, on the same captions with a new split; the first one warms up. Tokens are the
captions' tags.
``BOORU_EMBED_THREADS`` is the number of threads (2).
"""

from __future__ import annotations

import gzip
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from benchmarks._encoders import PEERS, installed_peers, pad, padded_forward, peer
from benchmarks._results import BOORU_EMBED, display_name, write
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import CaptionBatch, objective, split_captions
from booru_embed_core.schema import SPECIAL_TOKENS
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training.optimizer import Optimizer

ROUNDS: Final = 3
SAMPLE: Final = Path(__file__).parent.parent / "data/sample/danbooru2017_sfw_posts.csv.gz"
NUM_TAGS: Final = 494
"""Tags of the sample's vocabulary."""
TARGETS: Final = {"sample": 3, "log-normal": 4}
"""Target speed-up over padded Hugging Face classes, by distribution of lengths."""
DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
PADDED: Final = f"{BOORU_EMBED}, padded"
_MAX_TAGS: Final = 255


@dataclass(frozen=True)
class Way:
    """A network, its optimizer, and a replacement of its `forward`, if any."""

    model: SetEncoder
    optimizer: Optimizer
    encode: Callable[..., Tensor] | None = None


def sample_lengths(num: int) -> Tensor:
    """int64 ``[num]``: numbers of general tags of the sample's first posts."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as stream:
        next(stream)
        return torch.tensor([len(next(stream).split(",")[4].split(" ")) for _ in range(num)])


def log_normal_lengths(num: int) -> Tensor:
    """int64 ``[num]``: log-normal with mean 35 and sigma 0.5, similar to captions of the whole site."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.log(torch.tensor(35.0)) - 0.5**2 / 2
    return torch.exp(mu + 0.5 * torch.randn(num, generator=generator)).long().clamp(2, _MAX_TAGS)


def captions(lengths: Tensor, num_tags: int) -> CaptionBatch:
    """Captions of random distinct tags."""
    generator = torch.Generator().manual_seed(1)
    tags = torch.cat([torch.randperm(num_tags, generator=generator)[:n] for n in lengths.tolist()])
    zeros = torch.zeros(len(lengths), dtype=torch.int64)
    return CaptionBatch(tags, lengths, zeros, zeros, int(lengths.max()))


def ways(config: EncoderConfig, settings: TrainingSettings, with_peers: bool) -> dict[str, Way]:
    """All ways to do a step, booru-embed's first."""
    model = SetEncoder(config)
    optimizer = Optimizer(model, settings)
    found = {BOORU_EMBED: Way(model, optimizer), PADDED: Way(model, optimizer, partial(padded_forward, model))}
    for name in PEERS if with_peers else ():
        peer_model = peer(name, config, _MAX_TAGS + 3)
        found[name] = Way(peer_model, Optimizer(peer_model, settings))
    return found


def step(way: Way, batch: CaptionBatch, settings: TrainingSettings, dtype: torch.dtype, seed: int) -> Tensor:
    """The loss of one training step, which it takes."""
    generator = torch.Generator(batch.tags.device).manual_seed(seed)
    losses = objective(way.model, batch, settings, generator, dtype, way.encode)
    way.optimizer.zero_grad()
    losses.total.backward()
    torch.nn.utils.clip_grad_norm_(way.optimizer.parameters, settings.clip_norm)
    way.optimizer.step(settings.learning_rate)
    return losses.total


def measure(
    every: dict[str, Way], batch: CaptionBatch, settings: TrainingSettings, rounds: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures of each way in each dtype: medians over alternating rounds, without the first."""
    seconds: dict[tuple[str, str], list[tuple[float, float]]] = {(way, name): [] for name in DTYPES for way in every}
    for round_ in range(rounds + 1):
        for name, dtype in DTYPES.items():
            for way in every:
                started, started_wall = time.process_time(), time.perf_counter()
                step(every[way], batch, settings, dtype, round_)
                if round_:
                    seconds[way, name].append((time.process_time() - started, time.perf_counter() - started_wall))
    tokens = len(batch.tags)

    def figures(way: str, name: str) -> dict[str, Any]:
        cpu, wall = (statistics.median(column) for column in zip(*seconds[way, name], strict=True))
        pairs = zip(seconds[way, name], seconds[BOORU_EMBED, name], strict=True)
        ratios = [way_cpu / own_cpu for (way_cpu, _), (own_cpu, _) in pairs]
        return {
            "cpu_seconds": round(cpu, 4),
            "tokens_per_cpu_second": round(tokens / cpu),
            "tokens_per_second": round(tokens / wall),
            "over_ours": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }

    return {name: {way: figures(way, name) for way in every} for name in DTYPES}


def padding(batch: CaptionBatch, settings: TrainingSettings, rounds: int) -> float:
    """Slots per token in padded batches, over all rounds."""
    slots = tokens = 0
    for round_ in range(1, rounds + 1):
        views = split_captions(batch, len(SPECIAL_TOKENS), settings, torch.Generator().manual_seed(round_))
        slots += pad(views.token_ids, views.lengths)[1].numel()
        tokens += len(views.token_ids)
    return slots / tokens


def main() -> None:
    """Prints a table and writes the figures."""
    torch.set_num_threads(int(os.environ.get("BOORU_EMBED_THREADS", "2")))
    load, versions = round(os.getloadavg()[0], 2), installed_peers()
    shape, settings = ModelSettings(), TrainingSettings()
    assert settings.batch_posts is not None
    sizes = (NUM_TAGS, 0, 0, 0, 0)
    config = EncoderConfig(settings=shape, num_special=len(SPECIAL_TOKENS), category_sizes=sizes)
    every = ways(config, settings, with_peers=bool(versions))
    figures: dict[str, Any] = {}
    for lengths_name, lengths_of in (("sample", sample_lengths), ("log-normal", log_normal_lengths)):
        lengths = lengths_of(settings.batch_posts)
        batch = captions(lengths, NUM_TAGS)
        about = {"tokens": len(batch.tags), "padding": round(padding(batch, settings, ROUNDS), 2)}
        print(f"{lengths_name}: {about['tokens']:,} tokens per step, {about['padding']} slots per token if padded")
        found = measure(every, batch, settings, ROUNDS)
        figures[lengths_name] = {**about, "target": TARGETS[lengths_name], "ways": found}
        for dtype, of_ways in found.items():
            for way, figure in of_ways.items():
                speed = f"{figure['cpu_seconds']:6.2f} CPU s {figure['tokens_per_second']:8,} tokens/s"
                spread = f"{min(figure['ratios']):.2f} to {max(figure['ratios']):.2f}"
                target = f"; target {TARGETS[lengths_name]}" if way in PEERS else ""
                ratio = f"{figure['over_ours']:5.2f} of booru-embed's time ({spread}{target})"
                print(f"  {dtype:9} {display_name(way):20} {speed}   {ratio}", flush=True)
    content = {
        "load_average_before": load,
        "model": shape.model_dump(),
        "posts": settings.batch_posts,
        "rounds": ROUNDS,
        "versions": versions,
    }
    write("training", {**content, "figures": figures})


if __name__ == "__main__":
    main()

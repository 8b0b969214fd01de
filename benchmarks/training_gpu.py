"""What does a training reach on a GPU: which share of the GPU's peak, how long an epoch, and what beside Hugging Face?

A network of width 512 and eight blocks in bf16, as `training/loop` trains it (blocks compiled, corpus on the device),
on all records of the packed file that ``BOORU_EMBED_PACKED`` names, or of a random one of 5.77 million (see `_packed`):

* model FLOP utilisation: operations of the matrix products of forward and backward pass (counted by `training/plan` on
  captions with the quantiles of these lengths; nothing that is computed again, no optimizer) over time and peak;
* an epoch's time: steps times the time of one, the whole step with its batch;
* which share of a step goes into its batch, read on the host or drawn on the device: against one batch over and over;
* BertModel and ModernBertModel of Hugging Face at the same size, padded, with torch's SDPA and with flash-attn, eager
  and compiled, in the same objective (see `_encoders`), at fewer posts a step since padding takes memory;
* how far each backend of attention is from a loop over the sets, forward and backward;
* the kernels that take most of a step.

Without a GPU it says so and measures nothing. Wall time, the device waited for; rounds are alternated.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks._encoders import PEERS, installed_peers, peer
from benchmarks._packed import random_packed
from benchmarks._results import write
from benchmarks.training import Way, step
from booru_embed_core.model.attention import Backend, SetLayout, attend, pool
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.schema import NUM_CATEGORIES, SPECIAL_TOKENS
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.tokens.batches import Batch, EpochBatches
from booru_embed_core.tokens.device_corpus import DeviceCorpus
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.prefetch import prefetch
from booru_embed_core.training.hardware import compile_for_device
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.plan import Plan, plan_training
from booru_embed_core.training.step import captions_of

SHAPE: Final = ModelSettings(width=512, num_layers=8, num_heads=8, ffn_width=1024)
BATCH_POSTS: Final = 4_096
PEER_POSTS: Final = 1_024
ROUNDS: Final = 5
STEPS: Final = 30
RANDOM_SIZES: Final = (32_768, 32_768, 8_192, 16_384, 512)
"""Tags of each category of a random file."""
PACKED_VARIABLE: Final = "BOORU_EMBED_PACKED"
PEAK_TFLOPS: Final = {"H200": 989.4, "H100 PCIe": 756.5, "H100": 989.4, "A100": 312.0}
"""Dense bf16 with float32 sums, by a part of the device's name: NVIDIA's data sheets of these, whose figures "with
sparsity" are twice as high. The first that fits counts."""
TARGETS: Final = {"mfu": 0.3, "mfu_aim": 0.4, "epoch_seconds": 120, "loader_share": 0.02, "over_peer": 2}
SAME, HOST, DEVICE = READINGS = ("the same batch", "read on the host", "drawn on the device")
OURS, EAGER = "ours", "ours, not compiled"
LENGTHS: Final = (1, 1, 2, 3, 4, 5, 7, 8, 13, 13, 30, 61, 130)


class Bench:
    """Training steps of `shape` on `device`, over the records of `packed`."""

    def __init__(self, packed: PackedFile, shape: ModelSettings, device: torch.device) -> None:
        self.packed = packed
        self.device = device
        self.corpus = DeviceCorpus(packed, device)
        sizes = category_sizes(packed)
        self.config = EncoderConfig(settings=shape, num_special=len(SPECIAL_TOKENS), category_sizes=sizes)
        self.settings = TrainingSettings()
        self.max_length = int(np.diff(packed.offsets.astype(np.int64)).max()) + 3

    @cached_property
    def ours(self) -> Way:
        """Our network, as a training has it."""
        way = self.eager()
        compile_for_device(way.model, self.device, torch.bfloat16)
        return way

    def eager(self) -> Way:
        """Our network, without its blocks compiled."""
        model = SetEncoder(self.config).to(self.device)
        return Way(model, Optimizer(model, self.settings))

    def theirs(self, name: str, attention: str, is_compiled: bool) -> Way:
        """A class of Hugging Face's in its place."""
        model = peer(name, self.config, self.max_length, attention).to(self.device)
        if is_compiled:
            model.trunk.compile(dynamic=True)
        return Way(model, Optimizer(model, self.settings))

    def batches(self, reading: str, batch_posts: int, epoch: int) -> Iterator[Batch]:
        """As many batches as an epoch has, or endlessly one."""
        rows = np.arange(self.packed.num_posts)
        read = None if reading == HOST else self.corpus.read
        every = EpochBatches(self.packed, rows, batch_posts, 0, read_rows=read).read_from(epoch, 0, epoch + 1)
        return cycle([next(every)]) if reading == SAME else every

    def step(self, way: Way, batch: Batch, number: int) -> Tensor:
        """One step of `way` on `batch`, whose loss nobody has waited for."""
        captions = captions_of(batch, self.config.category_sizes, torch.zeros_like(batch.scores), self.device)
        return step(way, captions, self.settings, torch.bfloat16, number)

    def seconds(self, way: Way, reading: str, batch_posts: int, epoch: int, num_steps: int) -> float:
        """Seconds a step, over `num_steps` after a first one."""
        with prefetch(islice(self.batches(reading, batch_posts, epoch), num_steps + 1)) as batches:
            self.step(way, next(batches), 0).item()
            started = time.perf_counter()
            for number, batch in enumerate(batches, start=1):
                loss = self.step(way, batch, number)
            loss.item()  # waits for the device
            return (time.perf_counter() - started) / num_steps

    def plan(self, batch_posts: int) -> Plan:
        """What a step of `batch_posts` takes."""
        settings = self.settings.model_copy(update={"batch_posts": batch_posts})
        lengths = np.diff(self.packed.offsets.astype(np.int64))
        return plan_training(self.config, settings, lengths, torch.bfloat16, on_gpu=True)


def category_sizes(packed: PackedFile) -> tuple[int, ...]:
    """One more than the highest id of each category that `packed` has."""
    starts = packed.offsets[:-1].astype(np.int64)
    sizes = []
    for category in range(NUM_CATEGORIES):
        lengths = packed.field_lengths[:, category].astype(np.int64)
        ends = np.cumsum(lengths)
        places = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        sizes.append(int(packed.tokens[places].max(initial=0)) + 1)
        starts = starts + lengths
    return tuple(sizes)


def with_sizes(packed: PackedFile, sizes: tuple[int, ...]) -> PackedFile:
    """`packed` with the ids of each category below its size."""
    bounds = np.tile(np.array(sizes, packed.tokens.dtype), packed.num_posts)
    return dataclasses.replace(packed, tokens=packed.tokens % np.repeat(bounds, packed.field_lengths.ravel()))


def alternated(bench: Bench, ways: dict[str, tuple[Way, str]], batch_posts: int, rounds: int, num_steps: int) -> Any:
    """Seconds a step of each way (and how it reads) in each round; what is compiled is so before the first."""
    for way, reading in ways.values():
        bench.seconds(way, reading, batch_posts, 0, 1)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds):
        for name, (way, reading) in ways.items():
            found[name].append(bench.seconds(way, reading, batch_posts, round_, num_steps))
    return found


def ours_alone(bench: Bench, batch_posts: int, rounds: int, num_steps: int, peak_tflops: float | None) -> Any:
    """Utilisation, the time of an epoch, and the share of a step that its batch takes in each way to read it."""
    plan = bench.plan(batch_posts)
    ways = {reading: (bench.ours, reading) for reading in READINGS} | {EAGER: (bench.eager(), DEVICE)}
    taken = alternated(bench, ways, batch_posts, rounds, num_steps)
    least = taken[SAME]
    figures = {}
    for name, seconds in taken.items():
        of_step = statistics.median(seconds)
        figures[name] = {
            "milliseconds_a_step": round(1e3 * of_step, 3),
            "tokens_per_second": round(plan.batch.num_tokens / of_step),
            "epoch_seconds": round(of_step * plan.num_steps_of_epoch, 1),
            "tflops": round(plan.model_flops / of_step / 1e12, 2),
            "mfu": None if peak_tflops is None else round(plan.model_flops / of_step / 1e12 / peak_tflops, 4),
            "share_of_its_batch": round(statistics.median(1 - a / b for a, b in zip(least, seconds, strict=True)), 4),
        }
    return {"posts": batch_posts, "forward_flops": plan.forward_flops, "ways": figures}


def beside_peers(bench: Bench, batch_posts: int, rounds: int, num_steps: int, with_compiled: bool = True) -> Any:
    """Posts a second of ours and of each peer, each with every attention that is there."""
    kinds = ["sdpa", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    ways = {OURS: (bench.ours, DEVICE)}
    for name in PEERS:
        ways |= {f"{name}, {kind}": (bench.theirs(name, kind, is_compiled=False), DEVICE) for kind in kinds}
        if with_compiled:
            ways[f"{name}, sdpa, compiled"] = (bench.theirs(name, "sdpa", is_compiled=True), DEVICE)
    taken = alternated(bench, ways, batch_posts, rounds, num_steps)
    return {
        "posts": batch_posts,
        "ways": {
            name: {
                "posts_per_second": round(batch_posts / statistics.median(seconds)),
                "over_ours": round(statistics.median(b / a for a, b in zip(taken[OURS], seconds, strict=True)), 3),
            }
            for name, seconds in taken.items()
        },
    }


def parity(device: torch.device, backends: tuple[Backend, ...], heads: int = 8, head_dim: int = 64) -> dict[str, Any]:
    """For each backend and dtype the largest error of output and gradients, over the largest number of the exact ones:
    those of a loop over the sets in float64 on the CPU, for queries of all tokens and for one a set."""
    found = {}
    for backend in backends:
        for dtype in (torch.float32, torch.bfloat16) if backend == "buckets" else (torch.bfloat16,):
            for pooling in (False, True):
                name = f"{backend}, {str(dtype).removeprefix('torch.')}" + (", pooling" if pooling else "")
                found[name] = _error(device, backend, dtype, pooling, heads, head_dim)
    return found


def _error(
    device: torch.device, backend: Backend, dtype: torch.dtype, pooling: bool, heads: int, head_dim: int
) -> float:
    generator, total = torch.Generator().manual_seed(0), sum(LENGTHS)
    counts = [1] * len(LENGTHS) if pooling else list(LENGTHS)
    tensors = [torch.randn(n, heads, head_dim, generator=generator) for n in (sum(counts), total, total)]
    grad = torch.randn(sum(counts), heads, head_dim, generator=generator).to(dtype)
    inputs = [tensor.to(dtype).to(device).requires_grad_() for tensor in tensors]
    layout = SetLayout.build(torch.tensor(LENGTHS, device=device), max(LENGTHS), heads, backend)
    output = (pool if pooling else attend)(*inputs, layout)
    ours = [output, *torch.autograd.grad(output, inputs, grad.to(device))]
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in tensors]
    sets = zip(exact[0].split(counts), exact[1].split(LENGTHS), exact[2].split(LENGTHS), strict=True)
    parts = [F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in qkv)).transpose(0, 1) for qkv in sets]
    wanted = [torch.cat(parts), *torch.autograd.grad(torch.cat(parts), exact, grad.double())]
    errors = [(a.detach().cpu().double() - b).abs().max() / b.abs().max() for a, b in zip(ours, wanted, strict=True)]
    return float(torch.stack([error.detach() for error in errors]).max())


def kernels(bench: Bench, batch_posts: int, num: int = 20) -> list[dict[str, Any]]:
    """The `num` operations that take most of the device in a step, and their milliseconds."""
    batch = next(bench.batches(DEVICE, batch_posts, 0))
    bench.step(bench.ours, batch, 0).item()
    on_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        bench.step(bench.ours, batch, 1).item()
    key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(profiler.key_averages(), key=lambda event: -getattr(event, key))
    return [
        {"name": event.key[:120], "calls": event.count, "milliseconds": round(getattr(event, key) / 1e3, 3)}
        for event in events[:num]
    ]


def backends_of(device: torch.device) -> tuple[Backend, ...]:
    """The backends that can run on `device`."""
    if device.type != "cuda":
        return ("buckets",)
    return ("buckets", "varlen", *(("flash-attn",) if importlib.util.find_spec("flash_attn") else ()))


def peak_tflops(name: str) -> float | None:
    """Of the device called `name`, None where it is not in the table."""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def show_ours(ways: dict[str, Any]) -> None:
    """Prints what `ours_alone` found beside what is wanted."""
    for name, figure in ways.items():
        share = "unknown" if figure["mfu"] is None else f"{figure['mfu']:.1%}"
        print(
            f"  {name:20} {figure['milliseconds_a_step']:9.2f} ms a step, utilisation {share} (at least "
            f"{TARGETS['mfu']:.0%}, aim {TARGETS['mfu_aim']:.0%}), epoch {figure['epoch_seconds']:.0f} s (at most "
            f"{TARGETS['epoch_seconds']}), its batch {figure['share_of_its_batch']:.1%} (below "
            f"{TARGETS['loader_share']:.0%})",
            flush=True,
        )


def show_peers(ways: dict[str, Any]) -> None:
    """Prints what `beside_peers` found beside what is wanted."""
    for name, figure in ways.items():
        ratio = f"{figure['over_ours']:.2f} of ours (at least {TARGETS['over_peer']})"
        print(f"  {name:36} {figure['posts_per_second']:10,} posts/s, a step takes {ratio}", flush=True)


def main() -> None:
    """Prints and writes the figures, where there is a GPU."""
    if not torch.cuda.is_available():
        print("  needs a CUDA device: nothing measured, the results stay as they are")
        return
    with tempfile.TemporaryDirectory() as folder:
        named = os.environ.get(PACKED_VARIABLE)
        packed = PackedFile.open(Path(named)) if named else with_sizes(random_packed(Path(folder)), RANDOM_SIZES)
        measure(Bench(packed, SHAPE, torch.device("cuda")), BATCH_POSTS, PEER_POSTS, ROUNDS, STEPS)


def measure(bench: Bench, batch_posts: int, peer_posts: int, rounds: int, num_steps: int) -> None:
    """Prints figures as they come and writes them before the peers, which take most of the memory, and after."""
    figures: dict[str, Any] = {
        "model": bench.config.settings.model_dump(),
        "num_posts": bench.packed.num_posts,
        "num_tags": bench.config.num_tags,
        "rounds": rounds,
        "steps": num_steps,
        "targets": TARGETS,
        "versions": installed_peers(),
        "parity": parity(bench.device, backends_of(bench.device)),
    }
    for name, error in figures["parity"].items():
        print(f"  {name:36} {error:.1e} from the loop over sets", flush=True)
    is_gpu = bench.device.type == "cuda"
    figures["peak_tflops"] = peak_tflops(torch.cuda.get_device_name()) if is_gpu else None
    figures["ours"] = ours_alone(bench, batch_posts, rounds, num_steps, figures["peak_tflops"])
    show_ours(figures["ours"]["ways"])
    figures["gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2) if is_gpu else None
    figures["kernels"] = kernels(bench, batch_posts)
    for kernel in figures["kernels"]:
        print(f"  {kernel['milliseconds']:9.2f} ms {kernel['calls']:5} calls  {kernel['name']}", flush=True)
    write("training_gpu", figures)
    if figures["versions"]:
        figures["peers"] = beside_peers(bench, peer_posts, rounds, num_steps, with_compiled=is_gpu)
        show_peers(figures["peers"]["ways"])
        write("training_gpu", figures)


if __name__ == "__main__":
    main()

"""How fast is training on a GPU: model FLOP utilisation, epoch time, and speed compared with Hugging Face?

The network has width 512 and eight blocks in bf16, trained as in `training/loop` (compiled blocks, corpus on the
device). It reads all records of the packed file in ``BOORU_EMBED_PACKED``, or of a random one of 5.77 million records
(see `_packed`). Figures:

* Model FLOP utilisation: FLOPs of forward and backward matmuls over time and the GPU's peak. `training/plan` counts
  them on captions with the quantiles of these lengths, without recomputation or optimizer.
* Epoch time: number of steps times the time of a whole step with its batch.
* The batch's share of a step, read on the host or drawn on the device, compared with repeating one batch.
* Hugging Face's BertModel and ModernBertModel at the same size, padded, with torch's SDPA and with flash-attn, eager
  and compiled, in the same objective (see `_encoders`), with fewer posts per step since padding takes memory.
* The error of each attention backend against a loop over the sets, forward and backward.
* The kernels that take most of a step.

Without a GPU it prints a message and measures nothing. Times are wall time after a device sync; rounds alternate.
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
from benchmarks._results import BOORU_EMBED, display_name, write
from benchmarks.training import Way, step
from booru_embed_core.model.attention import Backend, SetLayout, attend
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.pooled_states import pool
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
"""Number of tags per category in a random file."""
PACKED_VARIABLE: Final = "BOORU_EMBED_PACKED"
PEAK_TFLOPS: Final = {"H200": 989.4, "H100 PCIe": 756.5, "H100": 989.4, "A100": 312.0}
"""Peak of dense bf16 with float32 accumulation, by a part of the device's name; the first match counts. From NVIDIA's
data sheets, whose figures "with sparsity" are twice as high."""
TARGETS: Final = {"mfu": 0.3, "mfu_aim": 0.4, "epoch_seconds": 120, "loader_share": 0.02, "over_peer": 2}
SAME, HOST, DEVICE = READINGS = ("the same batch", "read on the host", "drawn on the device")
EAGER: Final = f"{BOORU_EMBED}, not compiled"
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
    def booru_embed(self) -> Way:
        """booru-embed's network as in training, compiled."""
        way = self.eager()
        compile_for_device(way.model, self.device, torch.bfloat16)
        return way

    def eager(self) -> Way:
        """booru-embed's network without compiled blocks."""
        model = SetEncoder(self.config).to(self.device)
        return Way(model, Optimizer(model, self.settings))

    def peer(self, name: str, attention: str, is_compiled: bool) -> Way:
        """The Hugging Face class `name` in place of booru-embed's network."""
        model = peer(name, self.config, self.max_length, attention).to(self.device)
        if is_compiled:
            model.trunk.compile(dynamic=True)
        return Way(model, Optimizer(model, self.settings))

    def batches(self, reading: str, batch_posts: int, epoch: int) -> Iterator[Batch]:
        """The batches of `epoch`, or its first batch repeated endlessly."""
        rows = np.arange(self.packed.num_posts)
        read = None if reading == HOST else self.corpus.read
        every = EpochBatches(self.packed, rows, batch_posts, 0, read_rows=read).read_from(epoch, 0, epoch + 1)
        return cycle([next(every)]) if reading == SAME else every

    def step(self, way: Way, batch: Batch, number: int) -> Tensor:
        """The loss of one step of `way` on `batch`, without a device sync."""
        captions = captions_of(batch, self.config.category_sizes, torch.zeros_like(batch.scores), self.device)
        return step(way, captions, self.settings, torch.bfloat16, number)

    def seconds(self, way: Way, reading: str, batch_posts: int, epoch: int, num_steps: int) -> float:
        """Seconds per step, over `num_steps` steps after a first one."""
        with prefetch(islice(self.batches(reading, batch_posts, epoch), num_steps + 1)) as batches:
            self.step(way, next(batches), 0).item()
            started = time.perf_counter()
            for number, batch in enumerate(batches, start=1):
                loss = self.step(way, batch, number)
            loss.item()  # waits for the device
            return (time.perf_counter() - started) / num_steps

    def plan(self, batch_posts: int) -> Plan:
        """The plan of a training with `batch_posts` posts per step."""
        settings = self.settings.model_copy(update={"batch_posts": batch_posts})
        lengths = np.diff(self.packed.offsets.astype(np.int64))
        return plan_training(self.config, settings, lengths, torch.bfloat16, on_gpu=True)


def category_sizes(packed: PackedFile) -> tuple[int, ...]:
    """One more than the highest id of each category in `packed`."""
    starts = packed.offsets[:-1].astype(np.int64)
    sizes = []
    for category in range(NUM_CATEGORIES):
        lengths = packed.field_lengths[:, category].astype(np.int64)
        ends = np.cumsum(lengths)
        indices = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        sizes.append(int(packed.tokens[indices].max(initial=0)) + 1)
        starts = starts + lengths
    return tuple(sizes)


def with_sizes(packed: PackedFile, sizes: tuple[int, ...]) -> PackedFile:
    """`packed` with ids reduced modulo the size of their category."""
    bounds = np.tile(np.array(sizes, packed.tokens.dtype), packed.num_posts)
    return dataclasses.replace(packed, tokens=packed.tokens % np.repeat(bounds, packed.field_lengths.ravel()))


def alternated(bench: Bench, ways: dict[str, tuple[Way, str]], batch_posts: int, rounds: int, num_steps: int) -> Any:
    """Seconds per step of each (way, reading) in each round; compilation happens before the first round."""
    for way, reading in ways.values():
        bench.seconds(way, reading, batch_posts, 0, 1)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds):
        for name, (way, reading) in ways.items():
            found[name].append(bench.seconds(way, reading, batch_posts, round_, num_steps))
    return found


def measure_booru_embed(bench: Bench, batch_posts: int, rounds: int, num_steps: int, peak_tflops: float | None) -> Any:
    """Utilisation, epoch time, and the batch's share of a step, by way of reading batches."""
    plan = bench.plan(batch_posts)
    ways = {reading: (bench.booru_embed, reading) for reading in READINGS} | {EAGER: (bench.eager(), DEVICE)}
    taken = alternated(bench, ways, batch_posts, rounds, num_steps)
    same = taken[SAME]
    figures = {}
    for name, seconds in taken.items():
        of_step = statistics.median(seconds)
        figures[name] = {
            "milliseconds_a_step": round(1e3 * of_step, 3),
            "tokens_per_second": round(plan.batch.num_tokens / of_step),
            "epoch_seconds": round(of_step * plan.num_steps_of_epoch, 1),
            "tflops": round(plan.model_flops / of_step / 1e12, 2),
            "mfu": None if peak_tflops is None else round(plan.model_flops / of_step / 1e12 / peak_tflops, 4),
            "share_of_its_batch": round(statistics.median(1 - a / b for a, b in zip(same, seconds, strict=True)), 4),
        }
    return {"posts": batch_posts, "forward_flops": plan.forward_flops, "ways": figures}


def measure_peers(bench: Bench, batch_posts: int, rounds: int, num_steps: int, with_compiled: bool = True) -> Any:
    """Posts per second of booru-embed and of each peer with every available attention."""
    kinds = ["sdpa", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    ways = {BOORU_EMBED: (bench.booru_embed, DEVICE)}
    for name in PEERS:
        ways |= {f"{name}, {kind}": (bench.peer(name, kind, is_compiled=False), DEVICE) for kind in kinds}
        if with_compiled:
            ways[f"{name}, sdpa, compiled"] = (bench.peer(name, "sdpa", is_compiled=True), DEVICE)
    taken = alternated(bench, ways, batch_posts, rounds, num_steps)
    return {
        "posts": batch_posts,
        "ways": {
            name: {
                "posts_per_second": round(batch_posts / statistics.median(seconds)),
                "over_ours": round(
                    statistics.median(b / a for a, b in zip(taken[BOORU_EMBED], seconds, strict=True)), 3
                ),
            }
            for name, seconds in taken.items()
        },
    }


def parity(device: torch.device, backends: tuple[Backend, ...], heads: int = 8, head_dim: int = 64) -> dict[str, Any]:
    """The maximum relative error of output and gradients, by backend and dtype, for `attend` and for `pool`.

    The reference is a loop over the sets in float64 on the CPU; errors are relative to its largest absolute value.
    """
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
    found = [output, *torch.autograd.grad(output, inputs, grad.to(device))]
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in tensors]
    sets = zip(exact[0].split(counts), exact[1].split(LENGTHS), exact[2].split(LENGTHS), strict=True)
    outputs = [F.scaled_dot_product_attention(*(x.transpose(0, 1) for x in qkv)).transpose(0, 1) for qkv in sets]
    expected = [torch.cat(outputs), *torch.autograd.grad(torch.cat(outputs), exact, grad.double())]
    errors = [(a.detach().cpu().double() - b).abs().max() / b.abs().max() for a, b in zip(found, expected, strict=True)]
    return float(torch.stack([error.detach() for error in errors]).max())


def kernels(bench: Bench, batch_posts: int, num: int = 20) -> list[dict[str, Any]]:
    """The `num` operations that take most device time in a step, with their milliseconds."""
    batch = next(bench.batches(DEVICE, batch_posts, 0))
    bench.step(bench.booru_embed, batch, 0).item()
    on_gpu = bench.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as profiler:
        bench.step(bench.booru_embed, batch, 1).item()
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
    """The peak of the device called `name`, or None if it is not in the table."""
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def show_booru_embed(ways: dict[str, Any]) -> None:
    """Prints the figures of `measure_booru_embed` beside their targets."""
    for name, figure in ways.items():
        share = "unknown" if figure["mfu"] is None else f"{figure['mfu']:.1%}"
        print(
            f"  {display_name(name):26} {figure['milliseconds_a_step']:9.2f} ms/step, utilisation {share} (at least "
            f"{TARGETS['mfu']:.0%}, aim {TARGETS['mfu_aim']:.0%}), epoch {figure['epoch_seconds']:.0f} s (at most "
            f"{TARGETS['epoch_seconds']}), its batch {figure['share_of_its_batch']:.1%} (below "
            f"{TARGETS['loader_share']:.0%})",
            flush=True,
        )


def show_peers(ways: dict[str, Any]) -> None:
    """Prints the figures of `measure_peers` beside their targets."""
    for name, figure in ways.items():
        ratio = f"{figure['over_ours']:.2f} of booru-embed's time (at least {TARGETS['over_peer']})"
        print(f"  {display_name(name):36} {figure['posts_per_second']:10,} posts/s, a step takes {ratio}", flush=True)


def main() -> None:
    """Prints and writes the figures if there is a GPU."""
    if not torch.cuda.is_available():
        print("  needs a CUDA device: nothing measured, results unchanged")
        return
    with tempfile.TemporaryDirectory() as folder:
        named = os.environ.get(PACKED_VARIABLE)
        packed = PackedFile.open(Path(named)) if named else with_sizes(random_packed(Path(folder)), RANDOM_SIZES)
        measure(Bench(packed, SHAPE, torch.device("cuda")), BATCH_POSTS, PEER_POSTS, ROUNDS, STEPS)


def measure(bench: Bench, batch_posts: int, peer_posts: int, rounds: int, num_steps: int) -> None:
    """Prints figures as they arrive; writes them before the peers run, which take most of the memory, and after."""
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
        print(f"  {name:36} {error:.1e} relative error against the loop over sets", flush=True)
    is_gpu = bench.device.type == "cuda"
    figures["peak_tflops"] = peak_tflops(torch.cuda.get_device_name()) if is_gpu else None
    figures[BOORU_EMBED] = measure_booru_embed(bench, batch_posts, rounds, num_steps, figures["peak_tflops"])
    show_booru_embed(figures[BOORU_EMBED]["ways"])
    figures["gigabytes"] = round(torch.cuda.max_memory_allocated() / 1e9, 2) if is_gpu else None
    figures["kernels"] = kernels(bench, batch_posts)
    for kernel in figures["kernels"]:
        print(f"  {kernel['milliseconds']:9.2f} ms {kernel['calls']:5} calls  {kernel['name']}", flush=True)
    write("training_gpu", figures)
    if figures["versions"]:
        figures["peers"] = measure_peers(bench, peer_posts, rounds, num_steps, with_compiled=is_gpu)
        show_peers(figures["peers"]["ways"])
        write("training_gpu", figures)


if __name__ == "__main__":
    main()

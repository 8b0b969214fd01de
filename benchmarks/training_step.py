"""What do bucketed attention and the hand-written gradients save in a training step on a CPU?

The same network with the same weights, two ways, alternated in one run: ours, and the plain one that pads every set to
the longest of the batch, with torch's own attention, RMSNorm and SwiGLU. Both compute the same pooled states (checked).
The padded way runs in float32 as well, in case bf16 does not suit it. CPU seconds, since other processes disturb the
wall clock.
"""

from __future__ import annotations

import gzip
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from benchmarks._results import write
from booru_embed_core.model.encoder import SUMMARY_ID, Attention, EncoderConfig, FeedForward, SetEncoder
from booru_embed_core.model.objective import Captions, objective
from booru_embed_core.schema import SPECIAL_TOKENS
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training.hardware import pick_dtype

ROUNDS = 5
POSTS = 256
SAMPLE = Path(__file__).parent.parent / "data/sample/danbooru2017_sfw_posts.csv.gz"


def sample_lengths(num: int) -> Tensor:
    """int64 ``[num]``: general tags of the sample's first posts."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as stream:
        next(stream)
        return torch.tensor([len(next(stream).split(",")[4].split(" ")) for _ in range(num)])


def log_normal_lengths(num: int) -> Tensor:
    """int64 ``[num]``: log-normal with mean 35 and sigma 0.5, as whole-site captions are about."""
    generator = torch.Generator().manual_seed(0)
    mu = torch.log(torch.tensor(35.0)) - 0.5**2 / 2
    return torch.exp(mu + 0.5 * torch.randn(num, generator=generator)).long().clamp(2, 255)


def captions(lengths: Tensor, num_tags: int) -> Captions:
    """Captions of random distinct tags."""
    generator = torch.Generator().manual_seed(1)
    tags = torch.cat([torch.randperm(num_tags, generator=generator)[:n] for n in lengths.tolist()])
    zeros = torch.zeros(len(lengths), dtype=torch.int64)
    return Captions(tags, lengths, zeros, zeros, int(lengths.max()))


def padded_forward(model: SetEncoder, token_ids: Tensor, lengths: Tensor, _: int, dtype: torch.dtype) -> Tensor:
    """The pooled states, float32 ``[S, d]``, from one padded batch."""
    table = torch.cat([model.tokens.weight[: model.config.num_special], model.tag_vectors()])
    ids = pad_sequence(list(token_ids.split(lengths.tolist())), batch_first=True)
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None])[:, None, None, :]
    width = model.config.settings.width

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],))

    def attention(layer: Attention, queries: Tensor, states: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.view(*x.shape[:2], layer.num_heads, layer.head_dim)

        q = norm(heads(layer.query(queries))) * layer.log_scale.exp().to(dtype)[:, None]
        k, v = layer.key_value(states).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(
            q.transpose(1, 2), norm(heads(k)).transpose(1, 2), heads(v).transpose(1, 2), attn_mask=mask
        )
        return layer.output(mixed.transpose(1, 2).reshape(*queries.shape[:2], width))

    def feed_forward(layer: FeedForward, x: Tensor) -> Tensor:
        gate, up = layer.gate_up(x).chunk(2, dim=-1)
        return layer.down(F.silu(gate) * up)

    x = norm(F.embedding(ids, table)).to(dtype)
    for block in model.blocks:
        x = x + attention(block.attention, norm(x), norm(x))
        x = x + feed_forward(block.feed_forward, norm(x))
    summary = x[:, :1] + attention(model.pool.attention, norm(x[:, :1]), norm(x))
    return norm((summary + feed_forward(model.pool.feed_forward, norm(summary)))[:, 0].float())


def step(
    model: SetEncoder,
    batch: Captions,
    settings: TrainingSettings,
    dtype: torch.dtype,
    encode: Callable[..., Tensor] | None,
) -> float:
    """CPU seconds of one forward and backward pass."""
    started = time.process_time()
    losses = objective(model, batch, settings, torch.Generator().manual_seed(2), dtype, encode)
    losses.total.backward()
    return time.process_time() - started


def measure(model: SetEncoder, batch: Captions) -> dict[str, list[float]]:
    """CPU seconds of each round of each way, alternated; the first round warms up and is left out."""
    settings, native = TrainingSettings(), pick_dtype("auto", torch.device("cpu"))

    def plain(*args: Any) -> Tensor:
        return padded_forward(model, *args)

    ways: dict[str, tuple[torch.dtype, Callable[..., Tensor] | None]] = {
        "ours": (native, None),
        "padded": (native, plain),
        "padded in float32": (torch.float32, plain),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for round_ in range(ROUNDS + 1):
        for way, (dtype, encode) in ways.items():
            seconds = step(model, batch, settings, dtype, encode)
            if round_:
                times[way].append(seconds)
    return times


def check_parity(model: SetEncoder, batch: Captions) -> None:
    """Both ways compute the same pooled state of the first caption."""
    length = int(batch.lengths[0])
    ids = torch.cat([torch.tensor([SUMMARY_ID]), batch.tags[:length] + model.config.num_special])
    lengths = torch.tensor([length + 1])
    plain = padded_forward(model, ids, lengths, length + 1, torch.float32)
    assert torch.allclose(model(ids, lengths, length + 1), plain, atol=1e-4)


def main() -> None:
    """Prints a table and writes the figures."""
    num_tags, num_special, shape = 494, len(SPECIAL_TOKENS), ModelSettings(dropout=0.0)
    sizes = (num_tags, 0, 0, 0, 0)
    model = SetEncoder(EncoderConfig(settings=shape, num_special=num_special, category_sizes=sizes))
    figures: dict[str, Any] = {}
    for name, lengths in (("sample", sample_lengths(POSTS)), ("log-normal", log_normal_lengths(POSTS))):
        batch = captions(lengths, num_tags)
        check_parity(model, batch)
        times = measure(model, batch)
        ours = times["ours"]
        print(f"{name}: {int(lengths.sum()):,} tokens a step")
        figures[name] = {"tokens": int(lengths.sum())}
        for way, seconds in times.items():
            ratios = [theirs / own for own, theirs in zip(ours, seconds, strict=True)]
            figures[name][way] = {
                "cpu_seconds": statistics.median(seconds),
                "over_ours": statistics.median(ratios),
                "ratios": ratios,
            }
            print(
                f"  {way:18} {statistics.median(seconds):6.2f} CPU s   {statistics.median(ratios):5.2f} of ours "
                f"({min(ratios):.2f} to {max(ratios):.2f})"
            )
    write("training_step", {"model": shape.model_dump(), "posts": POSTS, "rounds": ROUNDS, "figures": figures})


if __name__ == "__main__":
    main()

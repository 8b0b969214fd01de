"""What a training will take, measured before it starts: parameters, floating-point operations, peak memory.

One step of the real objective, its gradient and the optimizer runs on torch's ``meta`` device, where a tensor has a
shape but no content: seconds and no memory for any size of network. What comes from where:

* Measured: operations (torch's ``FlopCounterMode``: matrix products, a multiplication and an addition being two), and
  the bytes of all tensors that are alive at once.
* Sampled: the step's captions have the quantiles of the corpus' lengths. Of some random splits, the step takes the
  one whose attention is nearest to their mean.
* Attributed: a gradient takes twice the operations of a module's forward pass; the output layer has the rest.
* Extrapolated: an epoch is a step times the number of steps.

A set is padded to a multiple of `BUCKET_STEP` on a CPU, and not at all on a GPU. Memory is that of the CPU's way of
computing: flash kernels keep no weights of attention.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from booru_embed_core.model.attention import BUCKET_STEP, SetLayout
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import CaptionBatch, contrastive_loss, objective, split_captions
from booru_embed_core.model.output_layer import MAX_BYTES
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.training.optimizer import Optimizer

_NUM_SPLITS: Final = 32
_INDEXING: Final = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


@dataclass(frozen=True)
class PlannedBatch:
    """Means of a step."""

    num_captions: int
    num_tokens: float
    """Tags, summary tokens, ratings and scores given."""
    num_slots: float
    """Tokens and the padding of the buckets."""
    num_pairs: float
    """The sum of squares of the sets' padded lengths: what attention takes is proportional to it."""


@dataclass(frozen=True)
class Plan:
    """What a training takes."""

    parameters: dict[str, int]
    batch: PlannedBatch
    num_steps_of_epoch: float
    forward_flops: dict[str, float]
    """Of a step's forward pass."""
    step_flops: dict[str, float]
    """Of the whole step, what is computed again and the optimizer's products included."""
    step_bytes: dict[str, float]
    """What is held at the step's peak."""

    @property
    def num_parameters(self) -> int:
        """All that are learned."""
        return sum(self.parameters.values())

    @property
    def flops(self) -> float:
        """Of a step."""
        return sum(self.step_flops.values())

    @property
    def model_flops(self) -> float:
        """Of a step, what utilisation counts: the forward pass and twice as much for its gradient."""
        return 3 * sum(self.forward_flops.values())

    @property
    def peak_bytes(self) -> float:
        """Of a step."""
        return sum(self.step_bytes.values())


def plan_training(
    config: EncoderConfig,
    settings: TrainingSettings,
    lengths: NDArray[np.int64],
    dtype: torch.dtype,
    on_gpu: bool = False,
) -> Plan:
    """The plan of training on captions of `lengths`.

    Args:
        config: the network's shape and sizes.
        settings: how it is trained.
        lengths: int64 ``[n]``, tags of each training post.
        dtype: in which the trunk computes.
        on_gpu: whether flash kernels run, which pad nothing.

    Raises:
        ValueError: no caption.
    """
    if not len(lengths):
        raise ValueError("no caption to plan for; lower the validation and test shares")
    captions = _captions(lengths, _num_captions(settings, lengths), config.num_tags)
    batch, seed = _mean_split(captions, config, settings, 1 if on_gpu else BUCKET_STEP)
    model = (_Unpadded if on_gpu else SetEncoder)(config).to("meta")
    forward, step, held = _measured_step(model, captions, settings, dtype, seed)
    return Plan(_parameters(model), batch, len(lengths) / batch.num_captions, forward, step, held)


def plan_facts(plan: Plan, num_epochs: int, tflops: float | None = None) -> dict[str, Any]:
    """The plan as names and numbers; what has parts is a dictionary of them that ends with its total.

    Args:
        plan: of the training.
        num_epochs: its passes over the posts.
        tflops: operations per second of the device, in units of 1e12; None leaves times unknown.
    """
    seconds = None if tflops is None else plan.flops * plan.num_steps_of_epoch / (tflops * 1e12)
    return {
        "parameters": plan.parameters | {"total": plan.num_parameters},
        "mean_step": asdict(plan.batch),
        "flops_of_step": plan.step_flops | {"total": plan.flops},
        "steps_of_epoch": plan.num_steps_of_epoch,
        "flops_of_epoch": plan.flops * plan.num_steps_of_epoch,
        "peak_bytes": plan.step_bytes | {"total": plan.peak_bytes},
        "most_bytes_of_scores": MAX_BYTES,
        "seconds_of_epoch": seconds,
        "seconds_of_training": None if seconds is None else seconds * num_epochs,
    }


def _parameters(model: SetEncoder) -> dict[str, int]:
    """The number of parameters of each part."""
    tables = {"tokens": "tag vectors", "categories": "tag vectors", "blocks": "blocks", "pool": "pool"}
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = tables.get(name.split(".")[0], "bottleneck, decoder and head")
        sizes[part if parameter.ndim == 2 else "scales and biases"] += parameter.numel()
    return dict(sizes)


def _num_captions(settings: TrainingSettings, lengths: NDArray[np.int64]) -> int:
    """Captions of a step."""
    num = settings.batch_posts
    if settings.batch_tokens is not None:
        num = round(settings.batch_tokens / max(1.0, float(lengths.mean())))
    assert num is not None
    return min(len(lengths), max(1, num))


def _captions(lengths: NDArray[np.int64], num: int, num_tags: int) -> CaptionBatch:
    """`num` captions with the quantiles of `lengths`, of tags whose ids do not matter."""
    sampled = np.sort(lengths)[((np.arange(num) + 0.5) * len(lengths) / num).astype(np.int64)]
    zeros = torch.zeros(num, dtype=torch.int64)
    tags = torch.arange(int(sampled.sum())) % num_tags
    return CaptionBatch(tags, torch.from_numpy(sampled), zeros, zeros, int(sampled.max()))


def _mean_split(
    captions: CaptionBatch, config: EncoderConfig, settings: TrainingSettings, bucket_step: int
) -> tuple[PlannedBatch, int]:
    """The mean over random splits of `captions`, and the seed of the split whose attention is nearest to it."""
    sizes = np.empty((_NUM_SPLITS, 3))
    for seed in range(_NUM_SPLITS):
        lengths = split_captions(captions, config.num_special, settings, torch.Generator().manual_seed(seed)).lengths
        widths = -(-lengths // bucket_step) * bucket_step
        sizes[seed] = [int(x.sum()) for x in (lengths, widths, widths.square())]
    mean = sizes.mean(0)
    return PlannedBatch(len(captions.lengths), *mean.tolist()), int(np.abs(sizes - mean)[:, 2].argmin())


class _Unpadded(SetEncoder):
    """A network whose attention takes what a flash kernel takes: sets of one length are a bucket, without padding."""

    def forward(
        self, token_ids: Tensor, lengths: Tensor, max_seqlen: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        heads = self.config.settings.num_heads
        buckets = SetLayout.build(lengths.sort().values, max_seqlen, heads, "buckets", bucket_step=1)
        layout = replace(buckets, backend="varlen")
        pooled: Tensor = self.pool(self.states(token_ids, layout, dtype), layout)
        return pooled.float()


class _Contentless(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets tensors of the ``meta`` device meet CPU tensors of indices, and counts the bytes that are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held_bytes = 0
        self.peak_bytes = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        values: tuple[Any, Any] = (args, kwargs or {})
        are_meta = [leaf.is_meta for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
        # Indices must keep their content where masks are among them: they decide the shape of the result.
        if any(are_meta) and not all(are_meta) and func.overloadpacket not in _INDEXING:
            values = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), values)
        if "generator" in values[1] and torch.device(values[1].get("device") or "cpu").type == "meta":
            values[1]["generator"] = None
        results = func(*values[0], **values[1])
        for leaf in tree_leaves(results):
            if isinstance(leaf, Tensor):
                self.hold(leaf.untyped_storage())
        return results

    def hold(self, storage: torch.UntypedStorage) -> None:
        """Counts `storage` until it is let go of."""
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages.add(key)
        self.held_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        weakref.finalize(storage, self._release, key, num_bytes)

    def _release(self, key: int, num_bytes: int) -> None:
        self._storages.discard(key)
        self.held_bytes -= num_bytes


@dataclass
class _Counted:
    """What one step took."""

    forward: dict[str, dict[Any, int]]
    """Operations of each module's forward pass, by kind of product."""
    with_gradients: float
    optimizer: float
    bytes: dict[str, int]


def _count_step(
    model: SetEncoder, optimizer: Optimizer, captions: CaptionBatch, settings: TrainingSettings, dtype: torch.dtype,
    seed: int, memory: _Contentless,
) -> _Counted:  # fmt: skip
    """What a step on the split of `seed` takes; `model` is on ``meta``."""
    marks = [memory.held_bytes]
    memory.peak_bytes = memory.held_bytes

    def encode(*arguments: Any) -> Tensor:
        pooled: Tensor = model(*arguments)
        marks.append(memory.held_bytes)
        return pooled

    with FlopCounterMode(display=False) as counter:
        losses = objective(model, captions, settings, torch.Generator().manual_seed(seed), dtype, encode)
        marks.append(memory.held_bytes)
        forward = counter.get_flop_counts()
        optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
    start, after_pool, after_losses = marks
    sizes = {"activations": after_pool - start, "output layer and losses": after_losses - after_pool}
    sizes["gradients, or what they are computed with"] = memory.peak_bytes - sum(sizes.values())
    return _Counted(forward, counter.get_total_flops(), _flops_of(lambda: optimizer.step(1.0)), sizes)


def _measured_step(
    model: SetEncoder, captions: CaptionBatch, settings: TrainingSettings, dtype: torch.dtype, seed: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Operations of the forward pass and of the whole step, and bytes at its peak, by part; `model` is on ``meta``."""
    optimizer, root = Optimizer(model, settings), type(model).__name__
    num, dim = len(captions.lengths), model.config.settings.embedding_dim
    with _Contentless() as memory:
        for parameter in model.parameters():
            memory.hold(parameter.untyped_storage())
        weights = memory.held_bytes
        # A step finds the optimizer's state and the gradients of the step before: here one of a single caption.
        one = _captions(captions.lengths.numpy(), 1, model.config.num_tags)
        _count_step(model, optimizer, one, settings, dtype, seed, memory)
        state = memory.held_bytes - 2 * weights
        step = _count_step(model, optimizer, captions, settings, dtype, seed, memory)
        embedding = torch.empty(2 * num, dim, device="meta", requires_grad=True)
        infonce: list[Tensor] = []
        infonce_forward = _flops_of(lambda: infonce.append(contrastive_loss(embedding, 1.0)))
        infonce_gradients = _flops_of(lambda: infonce[0].backward())  # type: ignore[no-untyped-call]
    forward = _by_part(step.forward, root) | {"InfoNCE": infonce_forward}
    whole = {part: 3 * flops for part, flops in forward.items()} | {"InfoNCE": infonce_forward + infonce_gradients}
    forward["output layer"] = sum(step.forward["Global"].values()) - sum(forward.values())
    whole["output layer"] = step.with_gradients - sum(whole.values())
    if settings.optimizer == "muon":
        whole["Muon"] = step.optimizer
    sizes = {"weights": float(weights), "optimizer": float(state), **step.bytes}
    sizes["gradients, or what they are computed with"] -= weights + state
    return forward, whole, sizes


def _by_part(counts: dict[str, dict[Any, int]], root: str) -> dict[str, float]:
    """Operations of the modules of the network called `root`; products of batches of matrices are attention."""
    attention = torch.ops.aten.bmm
    parts: Counter[str] = Counter()
    for name, of_module in counts.items():
        path = name.removeprefix(root + ".").split(".")
        if name == root or not (len(path) == 1 or (path[0] == "blocks" and len(path) == 2)):
            continue
        part = path[0] if path[0] in ("blocks", "pool") else "bottleneck, decoder and head"
        if name != "Global":
            parts[part] += sum(of_module.values()) - of_module.get(attention, 0)
    return {**parts, "attention": counts["Global"].get(attention, 0)}


def _flops_of(action: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())

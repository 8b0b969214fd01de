"""The cost of a training, measured before it starts: parameters, FLOPs and peak memory.

One real step (objective, backward pass, optimizer) runs on torch's ``meta`` device, where tensors have shapes but no
content. It takes seconds and no memory for any size of network. Sources of the figures:

* Measured: FLOPs of matmuls (torch's ``FlopCounterMode``, a multiply-add counting as two), and the bytes of all tensors
  that are alive at once.
* Of a large vocabulary, a step scores a sample of the tags: those that its captions are expected to have, and others.
* Sampled: the step's captions have the quantiles of the corpus' lengths. Of several random splits, the step uses the
  one whose attention cost is nearest to their mean.
* Attributed: a module's backward pass takes twice the FLOPs of its forward pass; the rest is the output layer's.
* Extrapolated: an epoch is a step times the number of steps.

Sets are padded as by `bucket_sizes` on a CPU, and not at all on a GPU. Memory is always that of the CPU path; flash
kernels store no attention weights.
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

from booru_embed_core.model.attention import SetLayout
from booru_embed_core.model.bucket_sizes import BUCKET_STEP, bucket_sizes
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import CaptionBatch, contrastive_loss, objective, split_captions
from booru_embed_core.model.output_layer import MAX_BYTES
from booru_embed_core.model.sampled_network import SampledNetwork
from booru_embed_core.model.tag_sample import TagSample
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.sampled_tables import SampledTables, are_sampled

LOW_PRECISION: Final = ("blocks", "pool", "attention", "Muon")
"""Parts that compute in bf16 by default; all others compute in float32."""
_NUM_SPLITS: Final = 32
_INDEXING: Final = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


@dataclass(frozen=True)
class PlannedBatch:
    """Mean sizes of a step's batch."""

    num_captions: int
    num_tokens: float
    """Tokens read: tags, summary tokens, and the ratings and scores given."""
    num_slots: float
    """Tokens plus the padding of the buckets."""
    num_pairs: float
    """Sum of squares of the sets' padded lengths, which attention's cost is proportional to."""


@dataclass(frozen=True)
class Plan:
    """The cost of a training."""

    parameters: dict[str, int]
    batch: PlannedBatch
    num_steps_of_epoch: float
    forward_flops: dict[str, float]
    """FLOPs of a step's forward pass, by part."""
    step_flops: dict[str, float]
    """FLOPs of a whole step, by part; includes recomputed scores and the optimizer's matmuls."""
    step_bytes: dict[str, float]
    """Bytes alive at the step's peak, by part."""

    @property
    def num_parameters(self) -> int:
        """Number of learned parameters."""
        return sum(self.parameters.values())

    @property
    def flops(self) -> float:
        """FLOPs of a whole step."""
        return sum(self.step_flops.values())

    @property
    def model_flops(self) -> float:
        """FLOPs of a step that model FLOP utilisation counts: three times those of the forward pass."""
        return 3 * sum(self.forward_flops.values())

    @property
    def peak_bytes(self) -> float:
        """Bytes alive at the step's peak."""
        return sum(self.step_bytes.values())


def plan_training(
    config: EncoderConfig,
    settings: TrainingSettings,
    lengths: NDArray[np.int64],
    dtype: torch.dtype,
    on_gpu: bool = False,
    counts: NDArray[np.int64] | None = None,
) -> Plan:
    """The plan of training on captions of `lengths`.

    Args:
        config: the network's shape.
        settings: the training settings.
        lengths: int64 ``[n]``, tags per training post.
        dtype: the trunk's compute dtype.
        on_gpu: whether flash kernels run, which need no padding.
        counts: int64 ``[V]``, how often posts have each tag, which tells how many distinct tags a batch has. With None,
            no two of its tags are the same. It matters only if steps score a sample of the tags.

    Raises:
        ValueError: `lengths` is empty.
    """
    if not len(lengths):
        raise ValueError("no training captions to plan for; lower the validation and test shares")
    num_captions = _num_captions(settings, lengths)
    captions = _captions(lengths, num_captions, _num_distinct(lengths, num_captions, config.num_tags, counts))
    batch, seed = _mean_split(captions, config, settings, 1 if on_gpu else BUCKET_STEP)
    with torch.device("meta"):
        model = (_Unpadded if on_gpu else SetEncoder)(config)
    forward, step, held = _measured_step(_Planned(model, settings), captions, dtype, seed)
    return Plan(_parameters(model), batch, len(lengths) / batch.num_captions, forward, step, held)


def plan_facts(
    plan: Plan, num_epochs: int, tflops: float | None = None, float32_tflops: float | None = None
) -> dict[str, Any]:
    """The plan as a dictionary of numbers; a figure with parts is a dictionary that ends with its total.

    Args:
        plan: the plan of the training.
        num_epochs: number of epochs.
        tflops: throughput of the device in 1e12 operations per second; None leaves times unknown.
        float32_tflops: the same in float32, for all parts but those of `LOW_PRECISION`; by default `tflops`.
    """
    seconds = None
    if tflops is not None:
        low = sum(plan.step_flops.get(part, 0.0) for part in LOW_PRECISION)
        of_step = low / tflops + (plan.flops - low) / (float32_tflops or tflops)
        seconds = of_step * plan.num_steps_of_epoch / 1e12
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
    """Number of parameters by part of the network."""
    part_names = {"tokens": "tag vectors", "categories": "tag vectors", "blocks": "blocks", "pool": "pool"}
    sizes: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        part = part_names.get(name.split(".")[0], "bottleneck, decoder and head")
        sizes[part if parameter.ndim == 2 else "scales and biases"] += parameter.numel()
    return dict(sizes)


def _num_captions(settings: TrainingSettings, lengths: NDArray[np.int64]) -> int:
    """Number of captions per step."""
    num = settings.batch_posts
    if settings.batch_tokens is not None:
        num = round(settings.batch_tokens / max(1.0, float(lengths.mean())))
    assert num is not None
    return min(len(lengths), max(1, num))


def _num_distinct(
    lengths: NDArray[np.int64], num_captions: int, num_tags: int, counts: NDArray[np.int64] | None
) -> int:
    """The expected number of distinct tags in `num_captions` captions, each with tags in proportion to `counts`."""
    if counts is None:
        return min(num_tags, round(num_captions * float(lengths.mean())))
    shares = np.minimum(1.0, counts * (float(lengths.mean()) / max(1.0, float(counts.sum()))))
    return max(1, round(float(-np.expm1(num_captions * np.log1p(-np.minimum(shares, 1 - 1e-12))).sum())))


def _captions(lengths: NDArray[np.int64], num: int, num_tags: int) -> CaptionBatch:
    """`num` captions whose lengths are quantiles of `lengths`; of the first `num_tags` tags, otherwise arbitrary."""
    sampled = np.sort(lengths)[((np.arange(num) + 0.5) * len(lengths) / num).astype(np.int64)]
    zeros = torch.zeros(num, dtype=torch.int64)
    tags = torch.arange(int(sampled.sum())) % num_tags
    return CaptionBatch(tags, torch.from_numpy(sampled), zeros, zeros, int(sampled.max()))


def _mean_split(
    captions: CaptionBatch, config: EncoderConfig, settings: TrainingSettings, bucket_step: int
) -> tuple[PlannedBatch, int]:
    """The mean over random splits of `captions`, and the seed of the split whose attention cost is nearest to it."""
    sizes = np.empty((_NUM_SPLITS, 3))
    for seed in range(_NUM_SPLITS):
        lengths = split_captions(captions, config.num_special, settings, torch.Generator().manual_seed(seed)).lengths
        widths, sets, _ = (np.array(x) for x in bucket_sizes(lengths.sort().values, bucket_step))
        sizes[seed] = [int(lengths.sum()), int((sets * widths).sum()), int((sets * widths**2).sum())]
    mean = sizes.mean(0)
    return PlannedBatch(len(captions.lengths), *mean.tolist()), int(np.abs(sizes - mean)[:, 2].argmin())


class _Unpadded(SetEncoder):
    """A network with the attention cost of flash kernels: each length has its own bucket, so nothing is padded."""

    def forward(
        self,
        token_ids: Tensor,
        lengths: Tensor,
        max_seqlen: int,
        dtype: torch.dtype = torch.float32,
        weights: Tensor | None = None,
    ) -> Tensor:
        """As `SetEncoder.forward`, in the order of ascending length: its cost is planned, not its values."""
        assert weights is None, "training gives none"
        heads = self.config.settings.num_heads
        buckets = SetLayout.build(lengths.sort().values, max_seqlen, heads, "buckets", bucket_step=1)
        layout = replace(buckets, backend="varlen")
        pooled: Tensor = self.pool(self.states(token_ids, layout, dtype), layout)
        return pooled.float()


class _MetaMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs operations on mixed ``meta`` and CPU index tensors, and tracks the bytes that are alive."""

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
        # Indexing keeps its CPU arguments: the content of a boolean mask decides the shape of the result.
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
        """Counts `storage` as alive until it is freed."""
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


class _UnpaddedSample(SampledNetwork):
    """A network with the tables of a sample and the attention cost of flash kernels."""

    forward = _Unpadded.forward


class _Planned:
    """A network on ``meta``, its optimizers, and how a step uses them."""

    def __init__(self, model: SetEncoder, settings: TrainingSettings) -> None:
        self.model = model
        self.settings = settings
        self.tables: SampledTables | None = None
        if are_sampled(model.config.num_tags, settings):
            counts = torch.empty(model.config.num_tags, device="meta")
            self.tables = SampledTables(model, counts, settings.num_sampled_tags, [1.0, 1.0])
            if isinstance(model, _Unpadded):
                self.tables.network = _UnpaddedSample(model)
        self.network = self.tables.network if self.tables else model
        self.optimizer = Optimizer(self.network, settings)

    def load(self, captions: CaptionBatch) -> None:
        """Loads the rows that a step on `captions` scores."""
        if self.tables is not None:
            num_own = int(captions.tags.max()) + 1
            tags = torch.empty(self.tables.size(num_own), dtype=torch.int64, device="meta")
            self.tables.take(TagSample(tags, torch.empty(len(tags), device="meta"), num_own), 0)

    def take_step(self) -> None:
        """Updates the weights from their gradients."""
        self.optimizer.step(1.0)
        if self.tables is not None:
            self.tables.step(0)

    def tensors(self) -> list[Tensor]:
        """The weights, and the state that optimizers of tables have from the start."""
        states = self.tables.state_dict().values() if self.tables else ()
        return [*self.model.parameters(), *(tensor for state in states for tensor in state.values())]


@dataclass
class _StepCost:
    """The measured cost of one step."""

    forward: dict[str, dict[Any, int]]
    """FLOPs of each module's forward pass, by operator."""
    with_gradients: float
    optimizer: float
    bytes: dict[str, int]


def _count_step(
    planned: _Planned, captions: CaptionBatch, dtype: torch.dtype, seed: int, memory: _MetaMemory
) -> _StepCost:
    """The cost of a step on the split drawn by `seed`."""
    planned.load(captions)
    marks = [memory.held_bytes]
    memory.peak_bytes = memory.held_bytes

    def encode(*arguments: Any) -> Tensor:
        pooled: Tensor = planned.network(*arguments)
        marks.append(memory.held_bytes)
        return pooled

    with FlopCounterMode(display=False) as counter:
        generator = torch.Generator().manual_seed(seed)
        losses = objective(planned.network, captions, planned.settings, generator, dtype, encode)
        marks.append(memory.held_bytes)
        forward = counter.get_flop_counts()
        planned.optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
    start, after_pool, after_losses = marks
    sizes = {"activations": after_pool - start, "output layer and losses": after_losses - after_pool}
    sizes["gradients and temporaries"] = memory.peak_bytes - sum(sizes.values())
    return _StepCost(forward, counter.get_total_flops(), _flops_of(planned.take_step), sizes)


def _measured_step(
    planned: _Planned, captions: CaptionBatch, dtype: torch.dtype, seed: int
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """FLOPs of the forward pass and of the whole step, and bytes at its peak, by part."""
    model, root = planned.model, type(planned.network).__name__
    num, dim = len(captions.lengths), model.config.settings.embedding_dim
    with _MetaMemory() as memory:
        for tensor in planned.tensors():
            memory.hold(tensor.untyped_storage())
        weights = sum(parameter.untyped_storage().nbytes() for parameter in model.parameters())
        learned = sum(parameter.untyped_storage().nbytes() for parameter in planned.optimizer.parameters)
        # A step starts with the optimizer's state and the gradients of the previous one, here a step on one caption.
        _count_step(planned, _captions(captions.lengths.numpy(), 1, model.config.num_tags), dtype, seed, memory)
        state = memory.held_bytes - weights - learned
        step = _count_step(planned, captions, dtype, seed, memory)
        embedding = torch.empty(2 * num, dim, device="meta", requires_grad=True)
        infonce: list[Tensor] = []
        infonce_forward = _flops_of(lambda: infonce.append(contrastive_loss(embedding, 1.0)))
        infonce_gradients = _flops_of(lambda: infonce[0].backward())  # type: ignore[no-untyped-call]
    forward = _by_part(step.forward, root) | {"InfoNCE": infonce_forward}
    whole = {part: 3 * flops for part, flops in forward.items()} | {"InfoNCE": infonce_forward + infonce_gradients}
    forward["output layer"] = sum(step.forward["Global"].values()) - sum(forward.values())
    whole["output layer"] = step.with_gradients - sum(whole.values())
    if planned.settings.optimizer == "muon":
        whole["Muon"] = step.optimizer
    sizes = {"weights": float(weights), "optimizer": float(state), **step.bytes}
    sizes["gradients and temporaries"] -= weights + state
    return forward, whole, sizes


def _by_part(counts: dict[str, dict[Any, int]], root: str) -> dict[str, float]:
    """FLOPs by part of the network called `root`; batched matmuls are attention."""
    attention = torch.ops.aten.bmm
    parts: Counter[str] = Counter()
    for name, module_counts in counts.items():
        path = name.removeprefix(root + ".").split(".")
        if name == root or not (len(path) == 1 or (path[0] == "blocks" and len(path) == 2)):
            continue
        part = path[0] if path[0] in ("blocks", "pool") else "bottleneck, decoder and head"
        if name != "Global":
            parts[part] += sum(module_counts.values()) - module_counts.get(attention, 0)
    return {**parts, "attention": counts["Global"].get(attention, 0)}


def _flops_of(action: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        action()
    return float(counter.get_total_flops())

"""What a training will take, counted before it starts: parameters, floating-point operations, peak memory.

Operations are those of matrix products, a multiplication and an addition being two; a gradient takes twice its forward
pass. Each caption is split into two sets by a share uniform in (0, 1), so that a set has each number of its tags with
the same probability: means over splits are exact. On a CPU a set is padded to a multiple of `BUCKET_STEP`, on a GPU
not. Memory is that of the CPU's way of computing.

Shape legend: T tokens of a step's sets, P slots of their buckets, N captions, S = 2N sets, d width, f inner width,
E embedding_dim, V tags.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.model.attention import BUCKET_STEP
from booru_embed_core.model.encoder import EncoderConfig
from booru_embed_core.model.output_layer import MAX_BYTES, rows_at_once
from booru_embed_core.schema import NUM_CATEGORIES, RATINGS
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.training.optimizer import MIN_MATRIX_SIDE

_FLOAT: Final = 4
_MUON_ITERATIONS: Final = 5  # torch.optim.Muon's default


@dataclass(frozen=True)
class Batch:
    """Means of a step."""

    num_captions: float
    num_tokens: float
    """T: tags, summary tokens, ratings and scores given."""
    num_slots: float
    """P: T and the padding of the buckets."""
    num_pairs: float
    """The sum of squares of the sets' padded lengths: what attention takes is proportional to it."""


@dataclass(frozen=True)
class Plan:
    """What a training takes."""

    parameters: dict[str, int]
    batch: Batch
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
    bytes_per_number: int,
    bucket_step: int = BUCKET_STEP,
) -> Plan:
    """The plan of training on captions of `lengths`.

    Args:
        config: the network's shape and sizes.
        settings: how it is trained.
        lengths: int64 ``[n]``, tags of each training post.
        bytes_per_number: of the dtype that the trunk computes in: 2 or 4.
        bucket_step: 1 for a GPU, where nothing is padded.

    Raises:
        ValueError: no caption.
    """
    if not len(lengths):
        raise ValueError("no caption to plan for; lower the validation and test shares")
    matrices = _matrices(config)
    parameters = {part: sum(rows * columns for rows, columns in shapes) for part, shapes in matrices.items()}
    parameters["scales and biases"] = config.num_tags
    if config.settings.trunk == "attention":
        parameters["scales and biases"] += config.settings.num_heads * (config.settings.num_layers + 1)
    batch = _mean_batch(settings, lengths, bucket_step)
    forward = _forward_flops(config, batch, matrices)
    return Plan(
        parameters,
        batch,
        len(lengths) / batch.num_captions,
        forward,
        _step_flops(config, settings, batch, matrices, forward),
        _step_bytes(config, settings, batch, matrices, sum(parameters.values()), bytes_per_number),
    )


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


def _matrices(config: EncoderConfig) -> dict[str, list[tuple[int, int]]]:
    """Shapes of the weights of each part, the tables of vectors first."""
    settings = config.settings
    width, dim = settings.width, settings.embedding_dim
    attention = [(width, width), (2 * width, width), (width, width)] if settings.trunk == "attention" else []

    def feed_forward(inner: int) -> list[tuple[int, int]]:
        return [(2 * inner, width), (width, inner)]

    return {
        "tag vectors": [(config.num_tokens, width), (NUM_CATEGORIES, width)],
        "blocks": (attention + feed_forward(settings.ffn_width)) * settings.num_layers,
        "pool": attention + feed_forward(settings.ffn_width),
        "bottleneck, decoder and head": [
            (dim, width),
            (width, dim),
            *feed_forward(settings.decoder_width) * 2,
            (len(RATINGS), dim),
            (1, dim),
        ],
    }


def _mean_batch(settings: TrainingSettings, lengths: NDArray[np.int64], bucket_step: int) -> Batch:
    """The mean step: over captions and over their random splits."""
    if settings.batch_tokens is not None:
        num_captions = min(len(lengths), max(1.0, settings.batch_tokens / max(1.0, float(lengths.mean()))))
    else:
        assert settings.batch_posts is not None
        num_captions = min(len(lengths), settings.batch_posts)
    given = settings.metadata_keep_share
    # A set reads its k of n tags, k uniform in 0 … n, the summary token, and 0, 1 or 2 of rating and score.
    chances = ((1 - given) ** 2, 2 * given * (1 - given), given**2)
    sizes = np.arange(int(lengths.max()) + 4)
    widths = -(-sizes // bucket_step) * bucket_step

    def mean(values: NDArray[np.int64]) -> float:
        sums = np.cumsum(values.astype(np.float64))
        of_both = [
            2 * chance * (sums[lengths + 1 + extra] - sums[extra]) / (lengths + 1)
            for extra, chance in enumerate(chances)
        ]
        return num_captions * float(np.sum(of_both, axis=0).mean())

    return Batch(num_captions, mean(sizes), mean(widths), mean(widths**2))


def _forward_flops(config: EncoderConfig, batch: Batch, matrices: dict[str, list[tuple[int, int]]]) -> dict[str, float]:
    settings, sets = config.settings, 2 * batch.num_captions
    width, tokens = settings.width, batch.num_tokens
    with_attention = settings.trunk == "attention"

    def products(part: str) -> float:
        return 2.0 * sum(rows * columns for rows, columns in matrices[part])

    # Queries, keys and values of the first block.
    once_a_row = with_attention * (tokens - _first_projected(config, batch)) * 2.0 * 3 * width**2
    return {
        "blocks": tokens * products("blocks") - once_a_row,
        "attention": with_attention * 4.0 * width * (settings.num_layers * batch.num_pairs + batch.num_slots),
        # Keys and values are of every token, all else of the summary token.
        "pool": sets * products("pool") + with_attention * (tokens - sets) * 2.0 * 2 * width**2,
        "bottleneck, decoder and head": sets * products("bottleneck, decoder and head"),
        "output layer": 2 * 2.0 * sets * config.num_tags * width,
        "InfoNCE": 2 * 2.0 * batch.num_captions**2 * settings.embedding_dim,
    }


def _step_flops(
    config: EncoderConfig,
    training: TrainingSettings,
    batch: Batch,
    matrices: dict[str, list[tuple[int, int]]],
    forward: dict[str, float],
) -> dict[str, float]:
    sets = 2 * batch.num_captions
    step = {part: 3 * flops for part, flops in forward.items()}
    for part, rows, keys in (
        ("output layer", sets, config.num_tags),
        ("InfoNCE", batch.num_captions, int(batch.num_captions)),
    ):
        if rows > rows_at_once(keys):  # computed again for the gradient
            step[part] += forward[part]
    if training.optimizer == "muon":
        step["Muon"] = sum(_orthogonalised(*sorted(shape)) for shape in _muon_matrices(matrices))
    return step


def _first_projected(config: EncoderConfig, batch: Batch) -> float:
    """States that the first block projects: of each token, or on a CPU of each row of the table where it has fewer."""
    is_bucketed = batch.num_slots > batch.num_tokens
    return min(batch.num_tokens, config.num_tokens) if is_bucketed and config.settings.num_layers else batch.num_tokens


def _muon_matrices(matrices: dict[str, list[tuple[int, int]]]) -> list[tuple[int, int]]:
    every = [shape for part, shapes in matrices.items() if part != "tag vectors" for shape in shapes]
    return [shape for shape in every if min(shape) >= MIN_MATRIX_SIDE]


def _orthogonalised(short: int, long: int) -> float:
    """Operations of Muon's Newton-Schulz iterations for a matrix of these sides."""
    return _MUON_ITERATIONS * (4.0 * short**2 * long + 2.0 * short**3)


def _step_bytes(
    config: EncoderConfig,
    training: TrainingSettings,
    batch: Batch,
    matrices: dict[str, list[tuple[int, int]]],
    num_parameters: int,
    number: int,
) -> dict[str, float]:
    """Bytes at the peak, which is where the forward pass ends or the gradient of scores, or of the last block, begins.

    The sums follow what `model/encoder` and `model/attention` save for the gradient.
    """
    settings, sets, captions = config.settings, 2 * batch.num_captions, batch.num_captions
    width, inner, dim, tokens = settings.width, settings.ffn_width, settings.embedding_dim, batch.num_tokens
    with_attention = settings.trunk == "attention"
    of_muon = sum(rows * columns for rows, columns in _muon_matrices(matrices)) if training.optimizer == "muon" else 0
    feed_forward = width + 3 * inner  # its normed input, gate and up, and their product
    noise = (1 + with_attention) * width * (settings.dropout > 0)
    block = tokens * (feed_forward + noise + with_attention * 4 * width) + with_attention * (
        3 * width * batch.num_slots + settings.num_heads * batch.num_pairs
    )
    first = with_attention * 3 * width * (tokens - _first_projected(config, batch))
    pool = sets * feed_forward + with_attention * (2 * tokens + 2 * batch.num_slots) * width
    casts = sum(rows * columns for part in ("blocks", "pool") for rows, columns in matrices[part]) * (number < _FLOAT)
    gathers = with_attention * 8 * settings.num_heads * (tokens + batch.num_slots)
    decoders = _FLOAT * sets * (2 * (width + 3 * settings.decoder_width) + 4 * width + 4 * dim)
    vectors = _FLOAT * config.num_tags * width
    buffer, kept = _score_bytes(config.num_tags, sets)
    buffer_of_halves, kept_of_halves = _score_bytes(int(captions), captions)
    saved = {
        "activations": number * (settings.num_layers * block - first + pool + casts)
        + _FLOAT * tokens * width  # the normed embedding
        + gathers,
        "output layer and losses": decoders + vectors + 2 * kept + 2 * kept_of_halves,
    }
    begun = max(
        _FLOAT * num_parameters,  # the last step's gradients live until this step's are computed
        buffer + (1 if kept else 2) * vectors,
        buffer_of_halves,
        number * tokens * 3 * (inner - width),  # the last block's, the pool's being let go of
    )
    return {
        "weights": _FLOAT * num_parameters,
        "optimizer": _FLOAT * (2 * num_parameters - of_muon),
        "gradients, or what they are computed with": begun,
        **saved,
    }


def _score_bytes(num_keys: int, num_rows: float) -> tuple[float, float]:
    """Bytes of the scores that are being filled, and of those that are kept for the gradient."""
    at_once = rows_at_once(num_keys, MAX_BYTES)
    size = _FLOAT * num_keys
    return size * min(num_rows, at_once), size * num_rows * (num_rows <= at_once)

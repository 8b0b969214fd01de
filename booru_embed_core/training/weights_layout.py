"""The tensors of ``model.safetensors``: their names, shapes and types, for every network that reads them.

``booru-embed export light`` writes them in less room. Matrices are then in half precision; with int8, the tags' vectors
are multiples of a scale of their own, so that what a tag loses depends on no other tag.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from booru_embed_core.errors import one_line
from booru_embed_core.schema import NUM_CATEGORIES, RATINGS
from booru_embed_core.settings import ModelSettings
from booru_embed_core.training.checkpoint_config import CONFIG_FILE, REMEDY, CheckpointConfig, CheckpointError

TABLE: Final = "tokens.weight"
SCALES: Final = "tokens.scales"
"""Only with int8: what the numbers of each row of `TABLE` are multiples of, float32."""
VOCAB_KEY: Final = "vocab_hash"
"""Of the file's metadata: the hashes of the vocabulary and of its implications."""
BETWEEN: Final = "+"

Shape = tuple[int, ...]
Layout = tuple[str, Shape]
"""The type of a tensor as safetensors names it, and its shape."""


class Precision(StrEnum):
    """In what a file of weights keeps them."""

    FLOAT32 = "float32"
    HALF = "half"
    INT8 = "int8"


_OF_TABLE: Final = {"F32": Precision.FLOAT32, "F16": Precision.HALF, "I8": Precision.INT8}


def weight_shapes(settings: ModelSettings, num_special: int, num_tags: int) -> dict[str, Shape]:
    """The shape of each tensor by its name, as in the state of a `SetEncoder`."""
    width, dim, has_attention = settings.width, settings.embedding_dim, settings.trunk == "attention"

    def feed_forward(part: str, inner: int) -> dict[str, Shape]:
        return {f"{part}.gate_up.weight": (2 * inner, width), f"{part}.down.weight": (width, inner)}

    shapes: dict[str, Shape] = {TABLE: (num_special + num_tags, width), "categories.weight": (NUM_CATEGORIES, width)}
    for part in [*(f"blocks.{index}" for index in range(settings.num_layers)), "pool"]:
        shapes |= feed_forward(f"{part}.feed_forward", settings.ffn_width)
        if has_attention:
            matrices = {"query": (width, width), "key_value": (2 * width, width), "output": (width, width)}
            shapes |= {f"{part}.attention.{name}.weight": shape for name, shape in matrices.items()}
            shapes[f"{part}.attention.log_scale"] = (settings.num_heads,)
    for part in ("decoder", "head"):
        shapes |= feed_forward(part, settings.decoder_width)
    return shapes | {
        "bottleneck.weight": (dim, width),
        "decoder_in.weight": (width, dim),
        "tag_bias": (num_tags,),
        "rating_head.weight": (len(RATINGS), dim),
        "score_head.weight": (1, dim),
    }


def layouts(shapes: Mapping[str, Shape], precision: Precision) -> dict[str, Layout]:
    """The layout of each tensor by its name; vectors, such as the tags' biases, are always float32."""
    if precision is Precision.FLOAT32:
        return {name: ("F32", shape) for name, shape in shapes.items()}
    found = {name: ("F16" if len(shape) > 1 else "F32", shape) for name, shape in shapes.items()}
    if precision is Precision.INT8:
        found |= {TABLE: ("I8", shapes[TABLE]), SCALES: ("F32", shapes[TABLE][:1])}
    return found


def check_weights(file: Path, config: CheckpointConfig, found: Mapping[str, Layout], made_with: str) -> Precision:
    """The precision of the weights in `file`, if they are those of `config`.

    Args:
        file: named in messages.
        config: of the checkpoint.
        found: the layout of each tensor in the file.
        made_with: what the file has for `VOCAB_KEY`.

    Raises:
        CheckpointError: a tensor is missing, unknown, or of another type or shape; or another vocabulary's.
    """
    num_tags, settings = sum(config.category_sizes), config.model
    kind, table = found.get(TABLE, ("", ()))
    wanted_table = (config.num_special + num_tags, settings.width)
    if table != wanted_table or settings.num_layers > len(found):
        raise CheckpointError(
            f"{file}: not this model's weights: {len(found)} tensors, {TABLE} of {list(table)}, and {CONFIG_FILE} has "
            f"{settings.num_layers} layers, {list(wanted_table)}; {REMEDY}"
        )
    precision = _OF_TABLE.get(kind, Precision.FLOAT32)
    wanted = layouts(weight_shapes(settings, config.num_special, num_tags), precision)
    for name in sorted({*wanted, *found}):
        if found.get(name) != wanted.get(name):
            there, asked = (_described(one.get(name)) for one in (found, wanted))
            raise CheckpointError(
                f"{file}: not this model's weights: {one_line(name, 80)} is {there}, not {asked}; {REMEDY}"
            )
    vocab = made_with.split(BETWEEN)[0]
    if vocab != config.vocab_hash:
        raise CheckpointError(
            f"{file}: weights of the vocab {one_line(vocab, 16) or '(none named)'}, but the vocab beside them is "
            f"{config.vocab_hash[:16]}; restore the weights of that checkpoint, or {REMEDY}"
        )
    return precision


def _described(layout: Layout | None) -> str:
    return "missing" if layout is None else f"{layout[0]} {list(layout[1])}"

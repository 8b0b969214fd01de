"""A checkpoint in half or a quarter of the room: what ``weights_layout`` calls half precision or int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from booru_embed_core.export.rounding import rounded
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE, CheckpointConfig
from booru_embed_core.training.weights_file import WeightsFile
from booru_embed_core.training.weights_layout import SCALES, TABLE, VOCAB_KEY, Precision, layouts

_LEVELS: Final = 127
_LARGEST_HALF: Final = 65504.0


def write_light_weights(checkpoint: Path, config: CheckpointConfig, out_dir: Path, precision: Precision) -> None:
    """Writes the weights of `checkpoint` into `out_dir`, in `precision`: ``half`` or ``int8``.

    Raises:
        ValueError: the checkpoint is light already, or a weight is beyond half precision.
    """
    source = WeightsFile.read(checkpoint / WEIGHTS_FILE, config)
    if source.precision is not Precision.FLOAT32:
        raise ValueError(
            f"{checkpoint}: has its weights in {source.precision.value} already; export the checkpoint that it was "
            "made from"
        )
    weights = source.mapped
    light: dict[str, NDArray[Any]] = {}
    wanted = layouts({name: array.shape for name, array in weights.arrays.items()}, precision)
    for name, array in weights.arrays.items():
        match wanted[name][0]:
            case "I8":
                light[TABLE], light[SCALES] = rounded(array, _LEVELS)
            case "F16":
                if array.size and max(array.max(), -array.min()) > _LARGEST_HALF:
                    raise ValueError(f"{checkpoint}: {name} has weights beyond half precision; export it as hub")
                light[name] = array.astype(np.float16)
            case _:
                light[name] = array
    save_file(light, out_dir / WEIGHTS_FILE, metadata={VOCAB_KEY: weights.metadata[VOCAB_KEY]})

"""The weights of a checkpoint as arrays over their file: memory is taken by what is read, and can be given back.

The file must not be written to while it is mapped. Checkpoints are not: a new one is a new folder.
"""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.filesystem import open_regular
from booru_embed_core.training.checkpoint_config import REMEDY, CheckpointError

_DTYPES: Final[dict[str, type[np.generic]]] = {"F32": np.float32, "F16": np.float16, "I8": np.int8}
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"
_HALF_EXPONENT: Final = 0x7C00
"""The bits of half precision that are all set in what is NaN or infinite."""
_BLOCK: Final = 1 << 22
"""Numbers that are looked at at once: 16 MB."""


class MappedWeights:
    """The tensors of a safetensors file, by name; the pages of the file are read when they are needed.

    Attributes:
        arrays: of the file, float32, float16 or int8; what is written into one stays in this process.
        layouts: the type of each, as the file names it, and its shape.
        metadata: what the file says of itself, text by text.
    """

    def __init__(self, file: Path) -> None:
        """Maps `file`.

        Raises:
            CheckpointError: it is not a safetensors file of such tensors.
        """
        try:
            with open_regular(file) as stream:
                self._mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            start = _LENGTH_BYTES + int.from_bytes(self._mapped[:_LENGTH_BYTES], "little")
            header = json.loads(self._mapped[_LENGTH_BYTES:start])
            if start > len(self._mapped) or not isinstance(header, dict):
                raise ValueError("the header is damaged")
            names: list[str] = [name for name in header if name != _METADATA]
            self.arrays = {name: self._array(start, header[name]) for name in names}
            self.layouts = {name: (str(header[name]["dtype"]), array.shape) for name, array in self.arrays.items()}
            self.metadata = {str(key): str(value) for key, value in dict(header.get(_METADATA) or {}).items()}
        except (OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
            raise CheckpointError(f"{file}: not this model's weights ({first_line(error, 200)}); {REMEDY}") from None

    def _array(self, start: int, entry: dict[str, Any]) -> NDArray[Any]:
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None:
            raise ValueError(f"a tensor of {entry['dtype']} instead of {', '.join(_DTYPES)}")
        first, last = entry["data_offsets"]
        numbers = np.frombuffer(self._mapped, dtype, (last - first) // np.dtype(dtype).itemsize, start + first)
        return numbers.reshape(entry["shape"])

    def spoilt(self) -> str:
        """The name of a tensor with a NaN or an infinity; empty if there is none. Leaves no page in memory."""
        for name, array in self.arrays.items():
            numbers = array.reshape(-1)
            for first in range(0, len(numbers), _BLOCK):
                block = numbers[first : first + _BLOCK]
                if not _is_finite(block):
                    return name
                self.give_back()
        return ""

    def give_back(self) -> None:
        """Takes no more memory for what was read; it comes from the file again when it is needed."""
        if sys.platform != "win32":
            self._mapped.madvise(mmap.MADV_DONTNEED)


def _is_finite(block: NDArray[Any]) -> bool:
    if block.dtype == np.float16:  # whose comparisons take twenty times as long as those of its bits
        return int((block.view(np.uint16) & _HALF_EXPONENT).max()) < _HALF_EXPONENT
    return block.dtype == np.int8 or bool(np.isfinite(block.min()) and np.isfinite(block.max()))

"""The scores of all tags on a CPU: states times the tags' vectors, packed in half precision.

With 189,000 tags the product reads 97 MB, which takes most of a completion. The tags are packed in parts. A part is
computed by whoever is free: the calling thread, and others that wait for work without using a core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch
from torch import Tensor

from booru_embed_core.model.encoder import SetEncoder

_PACKED_TAGS: Final = 16_384
"""Tags of a part: 8 MB at width 256. With half as many, a caption takes a seventh longer."""
_PACKED_WIDTH: Final = 512
"""Numbers that torch packs for each tag, at least: it fills up with zeros."""
_MAX_HELPERS: Final = 3
"""Threads beside the calling one: more wait for memory."""


class PackedScores:
    """A function from states ``[n, d]`` to the logits of all tags ``[n, num_tags]``, in float32.

    Any number of threads may call it at once. The results depend neither on them nor on the helpers.
    """

    @torch.inference_mode()
    def __init__(self, model: SetEncoder, give_back: Callable[[], None], num_helpers: int | None = None) -> None:
        """Packs the vectors of `model` a few thousand at a time.

        torch reads them column by column, and 189,000 rows of a column are in no cache. That takes half a second
        instead of two, and no copy in float32.

        Narrow vectors of several tags stand beside each other in a row, since torch would fill it up with zeros. The
        states are then multiplied once for each place in a row; reading the rows takes most of the time.

        Args:
            model: its weights must not change.
            give_back: called after each part, when the weights that were read are not needed any more.
            num_helpers: threads beside the calling one; None for as many as there are free cores.
        """
        num_special, num_tags, self._width = (
            model.config.num_special,
            model.config.num_tags,
            model.config.settings.width,
        )
        self._num_beside = max(1, _PACKED_WIDTH // self._width)
        self._bias = model.tag_bias.detach()
        self._parts: list[Any] = []
        at_once = _PACKED_TAGS // self._num_beside * self._num_beside
        for start in range(0, num_tags, at_once):
            part = slice(start, min(start + at_once, num_tags))
            num_rows = -(-(part.stop - start) // self._num_beside)
            room = torch.zeros(self._num_beside * num_rows, self._width)
            vectors = room[: part.stop - start]
            torch.index_select(model.categories.weight, 0, model.tag_category[part], out=vectors)
            vectors += model.tokens(torch.arange(num_special + part.start, num_special + part.stop))
            rows = room.view(self._num_beside, num_rows, self._width).transpose(0, 1).reshape(num_rows, -1)
            # As for `_product`; torch.ao.nn.quantized takes a second to import.
            self._parts.append(torch.ops.quantized.linear_prepack_fp16(rows, None))
            give_back()
        wanted = _free_cores() if num_helpers is None else num_helpers
        self._num_helpers = min(wanted, len(self._parts) - 1, _MAX_HELPERS)
        self._pool = ThreadPoolExecutor(self._num_helpers, "scores") if self._num_helpers > 0 else None

    def __call__(self, states: Tensor) -> Tensor:
        """The logits."""
        placed = torch.zeros(self._num_beside, len(states), self._num_beside, self._width)
        for place in range(self._num_beside):
            placed[place, :, place] = states
        found: list[Tensor | None] = [None] * len(self._parts)
        # Whoever is free takes the next part: the interpreter lets one thread at a time ask for it.
        waiting = iter(range(len(self._parts)))
        work = placed.view(-1, self._num_beside * self._width), waiting, found
        others = (
            [] if self._pool is None else [self._pool.submit(self._compute, *work) for _ in range(self._num_helpers)]
        )
        self._compute(*work)
        for other in others:
            if not other.cancel():  # it has begun
                other.result()
        each = [
            of_place for one in found if one is not None for of_place in one.view(self._num_beside, len(states), -1)
        ]
        return torch.cat(each, dim=1)[:, : len(self._bias)].add_(self._bias)

    @torch.inference_mode()
    def _compute(self, placed: Tensor, waiting: Iterator[int], found: list[Tensor | None]) -> None:
        for index in waiting:
            found[index] = _product(placed, self._parts[index])


def _product(placed: Tensor, part: Any) -> Tensor:
    """`placed` times the vectors of a part; what torch.ao.nn.quantized.dynamic.Linear calls."""
    found: Tensor = torch.ops.quantized.linear_dynamic_fp16.default(placed, part)
    return found


def _free_cores() -> int:
    """Cores that torch does not use itself, without the calling thread's."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return num_cores - 1 if torch.get_num_threads() == 1 else 0

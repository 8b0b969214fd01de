"""The scores of all tags on a CPU: states times the tags' vectors, packed in half precision.

With 189,000 tags the product reads 97 MB, which takes half of a completion. One thread computes it: with others that
take parts while their cores are free, 100 completions a second take a quarter more CPU time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from booru_embed_core.model.encoder import SetEncoder

_PACKED_TAGS: Final = 16_384
"""Tags of a part: 8 MB at width 256. With half as many, a caption takes a seventh longer."""
_PACKED_WIDTH: Final = 512
"""Numbers that torch packs for each tag, at least: it fills up with zeros."""


class PackedScores:
    """A function from states ``[n, d]`` to the logits of all tags ``[n, num_tags]``, in float32.

    Any number of threads may call it at once.
    """

    @torch.inference_mode()
    def __init__(self, model: SetEncoder, give_back: Callable[[], None]) -> None:
        """Packs the vectors of `model` a few thousand at a time.

        torch reads them column by column, and 189,000 rows of a column are in no cache. That takes half a second
        instead of two, and no copy in float32.

        Narrow vectors of several tags stand beside each other in a row, since torch would fill it up with zeros. The
        states are then multiplied once for each place in a row; reading the rows takes most of the time.

        Args:
            model: its weights must not change.
            give_back: called after each part, when the weights that were read are not needed any more.
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
            # What torch.ao.nn.quantized.dynamic.Linear calls, which takes a second to import.
            self._parts.append(torch.ops.quantized.linear_prepack_fp16(rows, None))
            give_back()

    def __call__(self, states: Tensor) -> Tensor:
        """The logits."""
        placed = torch.zeros(self._num_beside, len(states), self._num_beside, self._width)
        for place in range(self._num_beside):
            placed[place, :, place] = states
        product, rows = torch.ops.quantized.linear_dynamic_fp16.default, placed.view(-1, self._num_beside * self._width)
        found = [product(rows, part) for part in self._parts]
        each = [of_place for one in found for of_place in one.view(self._num_beside, len(states), -1)]
        return torch.cat(each, dim=1)[:, : len(self._bias)].add_(self._bias)

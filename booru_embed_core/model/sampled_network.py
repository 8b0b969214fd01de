"""The network of one training step that scores a sample of the tags.

It has all weights of the whole network but its tables. Of those it holds the rows of the sample, as leaves of autograd,
so that no gradient is as large as a table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import CaptionBatch
from booru_embed_core.model.tag_sample import TagSample

TABLES: Final = ("tokens.weight", "tag_bias")
"""The parameters of `SetEncoder` with a row for each token or tag."""


class _Rows(nn.Module):
    """Rows of an embedding table, no parameter of a module."""

    weight: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class SampledNetwork(SetEncoder):
    """`model` with the tables of one sample, once `load` was called. Shares all other weights with `model`."""

    def __init__(self, model: SetEncoder) -> None:
        nn.Module.__init__(self)
        self.config = model.config
        for name, module in model.named_children():
            self.add_module(name, _Rows() if name == "tokens" else module)
        self._whole = (model,)  # in a tuple: its tables are no weights of this module
        self.tag_category = model.tag_category[:0]
        self.tag_bias = model.tag_bias[:0]

    def token_ids_of(self, sample: TagSample) -> Tensor:
        """int64 ``[num_special + C]``: the rows of the whole token table that `load` takes."""
        special = torch.arange(self.config.num_special, device=sample.tags.device)
        return torch.cat([special, sample.tags + self.config.num_special])

    def load(self, sample: TagSample) -> None:
        """Takes the rows of `sample` from the whole network; they have no gradients yet."""
        (model,) = self._whole
        with torch.no_grad():
            self.tokens.weight = model.tokens.weight[self.token_ids_of(sample)].requires_grad_()
            self.tag_bias = model.tag_bias[sample.tags].requires_grad_()
        self.tag_category = model.tag_category[sample.tags]
        self.sample = sample

    def localized(self, captions: CaptionBatch) -> CaptionBatch:
        """`captions` with their tags as indices of the sample."""
        return replace(captions, tags=self.sample.local(captions.tags))

    def score_bias(self) -> Tensor:
        """float32 ``[C]``: with the log of how often each tag counts as a negative."""
        return self.tag_bias + self.sample.log_weights

"""The tables of a training that scores a sample of the tags in each step, and their optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.sampled_network import SampledNetwork
from booru_embed_core.model.tag_sample import TagSample, TagSampler
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.training.optimizer import BETAS
from booru_embed_core.training.table_optimizer import TableOptimizer


def are_sampled(num_tags: int, settings: TrainingSettings) -> bool:
    """Whether a step scores a sample of `num_tags` tags. One of more than half of them would not be worth it."""
    return num_tags > 2 * settings.num_sampled_tags


class SampledTables:
    """Loads the rows of each step into `network`, and updates them in `model`.

    Args:
        model: the whole network, on its device.
        counts: ``[V]``, how many posts have each tag.
        num_sampled: see `TagSampler`.
        rates: the learning rate of every step.
    """

    def __init__(self, model: SetEncoder, counts: Tensor, num_sampled: int, rates: Sequence[float]) -> None:
        self.network = SampledNetwork(model)
        self._sampler = TagSampler(counts, num_sampled, model.tag_bias.device)
        self._tokens = TableOptimizer(model.tokens.weight.detach(), rates, BETAS)
        self._bias = TableOptimizer(model.tag_bias.detach(), rates, BETAS)

    def load(self, caption_tags: Tensor, generator: torch.Generator, num_steps: int) -> None:
        """Draws a sample for captions with `caption_tags`, brings its rows up to date, and loads them.

        Args:
            caption_tags: int64 ``[T]``.
            generator: draws the sample.
            num_steps: steps done so far.
        """
        self.take(self._sampler.draw(caption_tags, generator), num_steps)

    def take(self, sample: TagSample, num_steps: int) -> None:
        """Brings the rows of `sample` up to date with `num_steps` steps, and loads them."""
        self._tokens.catch_up(self.network.token_ids_of(sample), num_steps)
        self._bias.catch_up(sample.tags, num_steps)
        self.network.load(sample)

    def size(self, num_own: int) -> int:
        """Tags of the sample for captions with `num_own` distinct tags."""
        return self._sampler.size(num_own)

    def set_rates(self, rates: Sequence[float]) -> None:
        """Sets the learning rate of every step; every row must be up to date with the steps done."""
        self._tokens.set_rates(rates)
        self._bias.set_rates(rates)

    def restart(self, rates: Sequence[float]) -> None:
        """Forgets all steps; those to come have learning rates `rates`."""
        self._tokens.restart(rates)
        self._bias.restart(rates)

    @property
    def leaves(self) -> tuple[Tensor, Tensor]:
        """The rows that get gradients."""
        return self.network.tokens.weight, self.network.tag_bias

    def step(self, num_steps: int) -> None:
        """Updates the loaded rows from their gradients, after `num_steps` steps."""
        vectors, bias = (leaf.grad for leaf in self.leaves)
        assert vectors is not None
        assert bias is not None
        sample = self.network.sample
        self._tokens.step(self.network.token_ids_of(sample), vectors, num_steps)
        self._bias.step(sample.tags, bias, num_steps)

    def catch_up_all(self, num_steps: int) -> None:
        """Brings both tables up to date with `num_steps` steps."""
        self._tokens.catch_up_all(num_steps)
        self._bias.catch_up_all(num_steps)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """The states of both optimizers."""
        return {"tokens": self._tokens.state_dict(), "tag_bias": self._bias.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Loads what `state_dict` returned."""
        self._tokens.load_state_dict(state["tokens"])
        self._bias.load_state_dict(state["tag_bias"])

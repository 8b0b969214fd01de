"""A network with the tables of a sample computes what the whole network does, and leaves the whole tables alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.objective import objective
from booru_embed_core.model.sampled_network import SampledNetwork
from booru_embed_core.model.tag_sample import TagSample, TagSampler
from tests.core.model_helpers import CATEGORY_SIZES, captions, encoder, random_captions, training_settings

NUM_TAGS = sum(CATEGORY_SIZES)
SETTINGS = training_settings()


def loss_of(network: SetEncoder, seed: int = 3) -> torch.Tensor:
    batch = captions(random_captions(12, NUM_TAGS // 2, 1))
    if isinstance(network, SampledNetwork):
        batch = network.localized(batch)
    generator = torch.Generator().manual_seed(seed)
    return objective(network, batch, SETTINGS, generator, torch.float32).total


def sample_of(num_sampled: int) -> TagSample:
    tags = captions(random_captions(12, NUM_TAGS // 2, 1)).tags
    sampler = TagSampler(torch.arange(NUM_TAGS, 0, -1), num_sampled, torch.device("cpu"))
    return sampler.draw(tags, torch.Generator().manual_seed(4))


def test_with_every_tag_it_has_the_loss_and_the_gradients_of_the_whole_network() -> None:
    whole, model = encoder(), encoder()
    network = SampledNetwork(model)
    sample = sample_of(NUM_TAGS)
    assert len(sample.tags) == NUM_TAGS
    network.load(sample)
    loss, expected = loss_of(network), loss_of(whole)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    expected.backward()
    rows = network.token_ids_of(sample)
    assert whole.tokens.weight.grad is not None
    assert whole.tag_bias.grad is not None
    assert torch.allclose(network.tokens.weight.grad, whole.tokens.weight.grad[rows], atol=1e-6)
    assert torch.allclose(network.tag_bias.grad, whole.tag_bias.grad[sample.tags], atol=1e-6)
    gradients = dict(whole.named_parameters())
    for name, parameter in network.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name].grad, atol=1e-6), name


def test_the_tables_of_the_whole_network_are_no_weights_of_it_and_get_no_gradient() -> None:
    model = encoder()
    network = SampledNetwork(model)
    names = {name for name, _ in model.named_parameters()} - {name for name, _ in network.named_parameters()}
    assert names == {"tokens.weight", "tag_bias"}
    network.load(sample_of(2))
    loss_of(network).backward()
    assert model.tokens.weight.grad is None
    assert model.tag_bias.grad is None
    assert network.tokens.weight.grad.any()


def test_a_negative_counts_as_often_as_its_weight_says() -> None:
    model = encoder()
    network = SampledNetwork(model)
    sample = sample_of(1)
    network.load(dataclasses.replace(sample, log_weights=torch.zeros_like(sample.log_weights)))
    once = loss_of(network).item()
    weights = torch.where(torch.arange(len(sample.tags)) < sample.num_of_captions, 0.0, 3.0)
    assert weights.any(), "the captions have every tag: nothing is sampled"
    network.load(dataclasses.replace(sample, log_weights=weights))
    assert loss_of(network).item() > once


def test_the_mean_over_samples_is_near_the_loss_of_every_tag() -> None:
    model = encoder(category_sizes=(300, 0, 0, 0, 0))
    batch = captions(random_captions(12, 14, 1))
    sampler = TagSampler(torch.arange(300, 0, -1), 64, torch.device("cpu"))
    network, generator = SampledNetwork(model), torch.Generator().manual_seed(4)

    def loss(network: SetEncoder) -> float:
        own = network.localized(batch) if isinstance(network, SampledNetwork) else batch
        with torch.no_grad():
            return float(objective(network, own, SETTINGS, torch.Generator().manual_seed(3), torch.float32).total)

    losses = []
    for _ in range(50):
        network.load(sampler.draw(batch.tags, generator))
        losses.append(loss(network))
    assert sum(losses) / 50 == pytest.approx(loss(model), rel=0.01)
    assert max(losses) - min(losses) > 1e-3

"""A sample of tags has those of the captions, and stands for all others without a bias."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from booru_embed_core.model.tag_sample import TagSampler

CPU = torch.device("cpu")
COUNTS = (1e5 / (torch.arange(3000) + 5.0)).long()


def draws(sampler: TagSampler, tags: torch.Tensor, num: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    samples = [sampler.draw(tags, generator) for _ in range(num)]
    return [(sample.tags, sample.log_weights.double().exp()) for sample in samples]


def test_tags_are_distinct_and_those_of_the_captions_come_first_and_count_once() -> None:
    tags = torch.tensor([2999, 5, 5, 17, 2999])
    sample = TagSampler(COUNTS, 256, CPU).draw(tags, torch.Generator().manual_seed(1))
    assert sample.num_of_captions == 3
    assert sample.tags[:3].tolist() == [5, 17, 2999]
    assert sample.log_weights[:3].tolist() == [0, 0, 0]
    assert len(sample.tags.unique()) == len(sample.tags) == 288  # of 259, in eighths of 256
    assert sample.tags[sample.local(tags)].tolist() == tags.tolist()
    assert (sample.log_weights >= 0).all()
    assert sample.log_weights.max() > 1


@pytest.mark.parametrize("values", ["even", "by count", "against count"])
def test_weighted_sums_are_those_of_all_tags(values: str) -> None:
    of = {"even": torch.ones(3000), "by count": COUNTS.float(), "against count": 1 / COUNTS}[values].double()
    drawn = draws(TagSampler(COUNTS, 256, CPU), torch.arange(40), 400)
    estimates = [float((of[tags] * weights).sum()) for tags, weights in drawn]
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert abs(np.mean(estimates) - float(of.sum())) < 4 * error + 0.005 * float(of.sum())  # Pareto's own bias
    assert error < 0.01 * float(of.sum())


def test_a_tag_is_drawn_as_often_as_its_weight_says() -> None:
    times, weights = torch.zeros(3000), torch.zeros(3000)
    for tags, weight in draws(TagSampler(COUNTS, 256, CPU), torch.arange(0), 1500):
        times[tags] += 1
        weights[tags] = weight.float()
    for some in (slice(0, 20), slice(200, 400), slice(1500, 3000)):
        assert float(times[some].sum()) == pytest.approx(float((1500 / weights[some]).sum()), rel=0.05)
    assert (times[:5] == 1500).all()


@pytest.mark.parametrize("num_tags", [1, 40, 100])
def test_a_vocabulary_no_larger_than_the_sample_is_taken_whole(num_tags: int) -> None:
    sample = TagSampler(COUNTS[:num_tags], 128, CPU).draw(torch.tensor([0]), torch.Generator().manual_seed(1))
    assert sample.tags.sort().values.tolist() == list(range(num_tags))
    assert not sample.log_weights.any()


def test_the_generator_decides() -> None:
    sampler = TagSampler(COUNTS, 64, CPU)
    first, second, other = (sampler.draw(torch.tensor([7]), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.tags, second.tags)
    assert not torch.equal(first.tags, other.tags)

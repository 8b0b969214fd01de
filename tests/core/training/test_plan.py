"""The plan of a training agrees with the measured cost of a step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from booru_embed_core.model.attention import SetLayout
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import contrastive_loss, objective, split_captions
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.plan import Plan, plan_facts, plan_training
from booru_embed_core.training.sampled_tables import SampledTables, are_sampled
from tests.core.model_helpers import NUM_SPECIAL, captions, model_settings, training_settings

pytestmark = pytest.mark.slow

MEDIUM = {"width": 128, "num_layers": 2, "num_heads": 4, "ffn_width": 256, "decoder_width": 384, "embedding_dim": 64}
SHAPES: dict[str, tuple[dict[str, object], int, int, str]] = {
    "default": (ModelSettings().model_dump(), 494, 128, "bf16"),
    "medium": (MEDIUM, 494, 64, "fp32"),
    "deep and narrow": ({**MEDIUM, "width": 64, "num_layers": 5}, 300, 96, "bf16"),
    "many tags": (MEDIUM, 8000, 64, "bf16"),
    "dropout": ({**MEDIUM, "dropout": 0.1}, 494, 64, "fp32"),
    "deepsets": ({**MEDIUM, "trunk": "deepsets"}, 494, 128, "fp32"),
}
SAMPLED: dict[str, object] = {"num_sampled_tags": 512}


class Steps:
    """Training steps, as in `loop`, on random captions of mean length 30, and their plan."""

    def __init__(self, shape: dict[str, object], num_tags: int, num_captions: int, precision: str, **values: object):
        numbers = np.random.default_rng(0)
        self.settings: TrainingSettings = training_settings(batch_posts=num_captions, **values)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        sizes = (num_tags - 5, 2, 3, 0, 0)
        config = EncoderConfig(settings=model_settings(**shape), num_special=NUM_SPECIAL, category_sizes=sizes)
        self.model = self.network = SetEncoder(config)
        counts = np.ones(num_tags, np.int64)
        self.tables = None
        if are_sampled(num_tags, self.settings):
            rates = [1e-3] * 10
            self.tables = SampledTables(self.model, torch.from_numpy(counts), self.settings.num_sampled_tags, rates)
            self.network = self.tables.network
        self.optimizer = Optimizer(self.network, self.settings)
        rows = [numbers.permutation(num_tags)[: numbers.integers(10, 51)].tolist() for _ in range(num_captions)]
        self.batch = captions(rows)
        self.plan: Plan = plan_training(config, self.settings, self.batch.lengths.numpy(), self.dtype, False, counts)

    def step(self, number: int) -> None:
        generator, batch = torch.Generator().manual_seed(number), self.batch
        if self.tables is not None:
            self.tables.load(batch.tags, generator, number)
            batch = self.tables.network.localized(batch)
        losses = objective(self.network, batch, self.settings, generator, self.dtype)
        self.optimizer.zero_grad()
        losses.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step(1e-3)
        if self.tables is not None:
            self.tables.step(number)

    def peak_bytes(self) -> int:
        """Peak bytes of the second step: what is alive before it, plus the peak of torch's allocations during it."""
        self.step(0)
        optimizers = self.optimizer._optimizers.values()
        states = [one for optimizer in optimizers for state in optimizer.state.values() for one in state.values()]
        states += [] if self.tables is None else [x for y in self.tables.state_dict().values() for x in y.values()]
        leaves = [] if self.tables is None else [x for leaf in self.tables.leaves for x in (leaf, leaf.grad)]
        held = [*self.model.parameters(), *leaves, *(one for one in states if torch.is_tensor(one))]
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step(1)
        events = [one for one in profiler.profiler.kineto_results.events() if one.name() == "[memory]"]
        changes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
        return sum(one.nbytes for one in held) + int(np.cumsum(changes).max())


@pytest.fixture(scope="module")
def steps_of() -> Callable[..., Steps]:
    """Returns the `Steps` of a shape and settings. Each is built once, since a plan takes seconds."""
    return functools.cache(lambda name, **values: Steps(*SHAPES[name], **values))


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_the_networks(steps_of: Callable[..., Steps], name: str) -> None:
    steps = steps_of(name)
    assert steps.plan.num_parameters == sum(one.numel() for one in steps.model.parameters())
    of_blocks = sum(one.numel() for one in steps.model.blocks.parameters() if one.ndim == 2)
    assert steps.plan.parameters["blocks"] == of_blocks


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(pytest.param(name, {}, id=name) for name in SHAPES),
        pytest.param("medium", {"optimizer": "adamw"}, id="adamw"),
        pytest.param("many tags", SAMPLED, id="sampled tags"),
    ],
)
def test_operations_are_those_that_torch_counts(
    steps_of: Callable[..., Steps], name: str, values: dict[str, object]
) -> None:
    steps = steps_of(name, **values)
    num_rounds = 2  # splits are random: the plan is their mean
    with FlopCounterMode(display=False) as counter:
        for number in range(num_rounds):
            steps.step(number)
    assert steps.plan.flops == pytest.approx(counter.get_total_flops() / num_rounds, rel=0.03)


def test_infonce_costs_what_torch_counts_on_both_views(steps_of: Callable[..., Steps]) -> None:
    steps = steps_of("medium")
    embedding = torch.rand(2 * len(steps.batch.lengths), MEDIUM["embedding_dim"], requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        contrastive_loss(embedding, 1.0).backward()  # type: ignore[no-untyped-call]
    assert steps.plan.step_flops["InfoNCE"] == counter.get_total_flops() > 0


@pytest.mark.parametrize(
    ("name", "values"), [*((name, {}) for name in SHAPES), pytest.param("many tags", SAMPLED, id="sampled tags")]
)
def test_peak_memory_is_what_is_measured(steps_of: Callable[..., Steps], name: str, values: dict[str, int]) -> None:
    steps = steps_of(name, **values)
    found = steps.peak_bytes()
    assert steps.plan.peak_bytes == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("values", [{}, {"split_draws": 3}], ids=["default", "3 draws"])
def test_a_mean_batch_is_the_mean_over_splits(steps_of: Callable[..., Steps], values: dict[str, int]) -> None:
    steps = steps_of("medium", **values)
    found = []
    for seed in range(100):
        views = split_captions(steps.batch, NUM_SPECIAL, steps.settings, torch.Generator().manual_seed(seed))
        plan = SetLayout.build(views.lengths.sort().values, 0, 1, "buckets").plan
        assert plan is not None
        pairs = sum(bucket.num_sets * bucket.width**2 for bucket in plan.buckets)
        found.append([int(views.lengths.sum()), len(plan.slot_tokens), pairs])
    tokens, slots, pairs = np.mean(found, axis=0)
    assert steps.plan.batch.num_tokens == pytest.approx(tokens, rel=0.01)
    assert steps.plan.batch.num_slots == pytest.approx(slots, rel=0.01)
    assert steps.plan.batch.num_pairs == pytest.approx(pairs, rel=0.02)


def test_a_longer_corpus_is_more_steps_and_no_larger_ones(steps_of: Callable[..., Steps]) -> None:
    steps = steps_of("medium")
    lengths = steps.batch.lengths.numpy()
    config = steps.model.config
    longer = plan_training(config, steps.settings, np.tile(lengths, 5), torch.float32)
    assert longer.num_steps_of_epoch == 5 * steps.plan.num_steps_of_epoch == 5
    assert longer.flops == pytest.approx(steps.plan.flops)
    by_tokens = training_settings(batch_posts=None, batch_tokens=2 * int(lengths.sum()))
    assert plan_training(config, by_tokens, np.tile(lengths, 5), torch.float32).num_steps_of_epoch == pytest.approx(2.5)
    with pytest.raises(ValueError, match="no training captions to plan for"):
        plan_training(config, steps.settings, lengths[:0], torch.float32)


def test_tokens_that_a_gpu_reads_are_not_padded(steps_of: Callable[..., Steps]) -> None:
    steps = steps_of("medium")
    unpadded = plan_training(steps.model.config, steps.settings, np.full(64, 2), torch.bfloat16, on_gpu=True).batch
    # Two tags: 0, 1 or 2 of them in a set, and on average one of rating and score beside the summary token.
    assert unpadded.num_tokens == unpadded.num_slots == pytest.approx(2 * 64 * 3, rel=0.01)
    mean_square = np.mean([(1 + tags + given) ** 2 for tags in (0, 1, 2) for given in (0, 1, 1, 2)])
    assert unpadded.num_pairs == pytest.approx(2 * 64 * mean_square, rel=0.02)


def test_facts_end_with_totals_and_times_follow_from_throughput(steps_of: Callable[..., Steps]) -> None:
    plan = steps_of("medium").plan
    facts = plan_facts(plan, num_epochs=4, tflops=0.5)
    for name in ("parameters", "flops_of_step", "peak_bytes"):
        *parts, total = facts[name].values()
        assert sum(parts) == pytest.approx(total)
    assert facts["seconds_of_epoch"] == pytest.approx(plan.flops * plan.num_steps_of_epoch / 0.5e12)
    assert facts["seconds_of_training"] == pytest.approx(4 * facts["seconds_of_epoch"])
    assert plan_facts(plan, 4)["seconds_of_training"] is None
    in_float32 = sum(plan.step_flops[name] for name in ("bottleneck, decoder and head", "InfoNCE", "output layer"))
    slower = plan_facts(plan, num_epochs=4, tflops=0.5, float32_tflops=0.25)["seconds_of_epoch"]
    assert slower - facts["seconds_of_epoch"] == pytest.approx(in_float32 * plan.num_steps_of_epoch / 0.5e12)

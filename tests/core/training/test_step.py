"""The computation of a step and of a validation."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.model.objective import TERMS, objective
from booru_embed_core.schema import RATINGS
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.distributed import Ranks
from booru_embed_core.training.loop import start_run
from booru_embed_core.training.schedule import derive_seed
from booru_embed_core.training.step import (
    VALIDATION_SEED,
    NonFiniteLossError,
    Run,
    check_finite,
    compute_step,
    validate,
)
from tests.core.model_helpers import Corpus, Trained, training_settings
from tests.core.training.training_helpers import NARROW


def run_of(corpus: Corpus, **settings: object) -> Run:
    """A training before its first step."""
    values: TrainingSettings = training_settings(**settings)
    return start_run(corpus.packed, corpus.vocab, NARROW, values, Ranks())


def test_a_validation_is_a_mean_over_posts_and_not_over_batches(corpus: Corpus) -> None:
    """The last batch has two posts of 18: a mean over batches would count each of these eight times."""
    run = run_of(corpus)
    rows = rows_of_split(corpus.packed, "train")[:18]
    found = validate(run, rows)
    by_batch = []
    for number, part in enumerate((rows[:16], rows[16:])):
        generator = torch.Generator().manual_seed(derive_seed(VALIDATION_SEED, number))
        captions = run.captions(run.batches.read_rows(part))
        with torch.no_grad():
            terms = objective(run.model.eval(), captions, run.settings, generator, torch.float32).terms
        by_batch.append([float(terms[name]) for name in TERMS])
    over_posts = (16 * np.array(by_batch[0]) + 2 * np.array(by_batch[1])) / 18
    assert [found[name] for name in TERMS] == pytest.approx(over_posts.tolist(), rel=1e-6)
    assert found["loss"] == pytest.approx(found["bottleneck"] + found["head"])
    over_batches = np.mean(by_batch, axis=0)
    assert np.abs(over_batches / over_posts - 1).max() > 0.01, "the two means must differ to tell them apart"


def test_a_validation_leaves_the_model_in_training(corpus: Corpus) -> None:
    run = run_of(corpus)
    validate(run, rows_of_split(corpus.packed, "validation"))
    assert run.model.training
    assert all(parameter.grad is None for parameter in run.model.parameters())


def test_a_score_is_in_the_same_decile_in_training_and_in_serving(trained: Trained) -> None:
    """At, below and above every edge, for every trained rating."""
    _, config, _ = load_checkpoint(trained.checkpoint)
    embedder = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    run = run_of(trained.corpus)
    assert run.edges == config.score_bin_edges
    batch = run.batches.read(0, 0)
    assert config.trained_ratings == RATINGS
    for rating_id, rating in enumerate(RATINGS):
        scores = sorted({int(edge) + near for edge in run.edges[rating_id] for near in (-1, 0, 1)})
        num = len(scores)
        rows = torch.arange(num) % len(batch.post_index)
        asked = dataclasses.replace(
            run.batches.read_rows(batch.post_index[rows].numpy()),
            ratings=torch.full((num,), rating_id),
            scores=torch.tensor(scores),
        )
        served = [int(embedder.read_caption("solo", rating, score)[1].score_bins[0]) for score in scores]
        assert run.captions(asked).score_bins.tolist() == served
        # An edge belongs to the decile above it.
        first = int(run.edges[rating_id][0])
        assert served[scores.index(first)] > served[scores.index(first - 1)]


def test_a_step_leaves_gradients_no_longer_than_the_bound(corpus: Corpus) -> None:
    run = run_of(corpus, clip_norm=1e-3)
    losses = compute_step(run, run.batches.read(0, 0))
    gradients = [parameter.grad for parameter in run.optimizer.parameters]
    assert all(gradient is not None for gradient in gradients)
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-3)  # type: ignore[arg-type]
    assert math.isfinite(losses.total.item())


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named_with_its_posts(corpus: Corpus, number: float) -> None:
    run = run_of(corpus, batch_posts=3)
    check_finite(run, 0, {"loss": 1.0})
    with pytest.raises(NonFiniteLossError, match=rf"^step 1: loss {number} on a batch of 3 posts") as caught:
        check_finite(run, 0, {"gradient norm": 1.0, "loss": number})
    assert caught.value.post_ids == corpus.packed.post_id[run.batches.rows(0, 0)].tolist()


@pytest.mark.parametrize(("num_posts", "end"), [(8, ""), (9, ", …")])
def test_a_message_names_eight_posts(corpus: Corpus, num_posts: int, end: str) -> None:
    run = run_of(corpus, batch_posts=num_posts)
    shown = ", ".join(map(str, corpus.packed.post_id[run.batches.rows(0, 0)][:8])) + end
    with pytest.raises(NonFiniteLossError, match=f"ids {shown};"):
        check_finite(run, 0, {"loss": math.nan})

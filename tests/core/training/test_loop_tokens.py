"""Training on batches bounded by tokens instead of posts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from booru_embed_core.tokens.batches import EpochBatches, rows_of_split
from booru_embed_core.tokens.device_corpus import DeviceCorpus
from booru_embed_core.training import loop
from booru_embed_core.training.checkpoint_config import read_config
from booru_embed_core.training.loop import TrainingInterrupted
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.step import Run
from tests.core.model_helpers import Corpus, training_settings
from tests.core.training.training_helpers import Bench, stop_after

BY_TOKENS = training_settings(batch_posts=None, batch_tokens=120, checkpoint_every_steps=5, clip_norm=1e6)


def sizes_of_batches(corpus: Corpus) -> list[list[int]]:
    """Number of posts in each batch, epoch after epoch."""
    packed = corpus.packed
    batches = EpochBatches(packed, rows_of_split(packed, "train"), None, BY_TOKENS.seed, BY_TOKENS.batch_tokens)
    return [[len(batches.rows(epoch, i)) for i in range(batches.num_batches(epoch))] for epoch in range(2)]


def test_an_epoch_has_the_steps_that_its_budget_gives(bench: Bench, corpus: Corpus) -> None:
    sizes = sizes_of_batches(corpus)
    assert len({size for epoch in sizes for size in epoch}) > 3
    report = bench.train("one", BY_TOKENS)
    assert report.num_steps == sum(map(len, sizes))
    ends = [record for record in bench.log("one") if "validation" in record]
    assert [(record["step"], record["epoch"]) for record in ends] == [(len(sizes[0]), 1.0), (report.num_steps, 2.0)]
    assert ends[1]["validation"]["loss"] < ends[0]["validation"]["loss"]  # type: ignore[index]
    assert read_config(bench.out_dir("one")).training == BY_TOKENS


def test_a_training_that_is_stopped_ends_in_the_same_bits(bench: Bench, corpus: Corpus) -> None:
    bench.train("whole", BY_TOKENS)
    in_first, at_its_end = 7, len(sizes_of_batches(corpus)[0])
    for num_steps in (in_first, at_its_end - in_first, 4):  # the second stops at the end of the first epoch
        with pytest.raises(TrainingInterrupted):
            bench.train("stopped", BY_TOKENS, should_stop=stop_after(num_steps))
    bench.train("stopped", BY_TOKENS)
    assert bench.weights_sha256("stopped") == bench.weights_sha256("whole")
    assert bench.log("stopped") == bench.log("whole")


def test_a_post_counts_the_same_in_a_small_batch_and_in_a_large_one(
    bench: Bench, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch's loss is a mean over its posts: its gradient is weighted by their number."""
    norms: dict[str, list[float]] = {"as it is": [], "unweighted": []}
    for name, found in norms.items():
        with monkeypatch.context() as patched:

            def noted(optimizer: Optimizer, _: float, found: list[float] = found) -> None:
                gradients = [p.grad for p in optimizer.parameters if p.grad is not None]
                found.append(float(torch.nn.utils.get_total_norm(gradients)))

            patched.setattr(Optimizer, "step", noted)  # and learns nothing: the weights stay the same
            if name == "unweighted":
                patched.setattr(Run, "weight", lambda *_: 1.0)
            bench.train(name, BY_TOKENS)
    sizes = np.array([size for epoch in sizes_of_batches(corpus) for size in epoch])
    assert np.array(norms["as it is"]) / np.array(norms["unweighted"]) == pytest.approx(sizes / sizes.mean(), rel=1e-4)


def test_batches_drawn_on_the_device_train_to_the_same_bits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.train("read", BY_TOKENS)
    drawn: list[int] = []
    real = DeviceCorpus.read

    def noted(corpus: DeviceCorpus, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> object:
        drawn.append(len(rows))
        return real(corpus, rows)

    monkeypatch.setattr(DeviceCorpus, "read", noted)
    monkeypatch.setattr(loop, "fits_on", lambda *_: True)
    report = bench.train("drawn", BY_TOKENS)
    assert len(drawn) > report.num_steps
    assert bench.weights_sha256("drawn") == bench.weights_sha256("read")

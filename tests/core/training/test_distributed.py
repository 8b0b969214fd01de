"""Ranks agree with a single process, end together, and resume with another number of ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from booru_embed_core.model.objective import objective
from booru_embed_core.model.rank_shard import RankShard
from booru_embed_core.settings import TrainingSettings
from booru_embed_core.tokens.batches import Batch, EpochBatches, rows_of_split
from booru_embed_core.training import loop, step
from booru_embed_core.training.distributed import RankLostError, Ranks, joined_ranks
from booru_embed_core.training.loop import TrainingInterrupted
from booru_embed_core.training.states import state_files
from tests.core.model_helpers import captions, encoder, random_captions, training_settings
from tests.core.training import rank_worker
from tests.core.training.training_helpers import NARROW, Bench, ranks_finish, stop_after

SETTINGS = training_settings(checkpoint_every_steps=7)


def by_torchrun(job: Path, num_ranks: int) -> bool:
    """Whether ranks under torchrun finished."""
    worker = [str(Path(__file__).with_name("rank_worker.py")), str(job)]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(num_ranks)]
    done = subprocess.run(
        [*command, *worker],
        check=False,
        capture_output=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.returncode == 0


def forked(job: Path, num_ranks: int) -> bool:
    """Whether all ranks of `job` finished."""
    return ranks_finish(rank_worker.main, num_ranks, str(job))


def run_ranks(
    bench: Bench,
    name: str,
    num_ranks: int,
    settings: TrainingSettings = SETTINGS,
    start: Callable[[Path, int], bool] = forked,
    **event: object,
) -> tuple[bool, list[str]]:
    """Whether a training of `num_ranks` ranks finished, and the notes that ranks left."""
    notes = bench.folder / f"notes-{name}-{num_ranks}"
    notes.mkdir()
    bench.out_dir(name).mkdir(exist_ok=True)
    job = {
        "packed": str(bench.corpus.packed_path),
        "vocab": str(bench.corpus.vocab_dir),
        "work": str(bench.work_dir(name)),
        "out": str(bench.out_dir(name)),
        "model": NARROW.model_dump(mode="json"),
        "training": settings.model_dump(mode="json", exclude_none=True),
        "notes": str(notes),
        **event,
    }
    (notes / "job.json").write_text(json.dumps(job))
    is_done = start(notes / "job.json", num_ranks)
    assert [file.read_text() for file in notes.glob("wrapped-*.txt")] == []
    return is_done, [file.read_text() for file in sorted(notes.glob("rank-*.txt"))]


def accumulated_losses(run: step.Run, batch: Batch, num_ranks: int) -> list[step.Losses]:
    """The losses of `num_ranks` shards of a batch, computed in one process with accumulated gradients.

    Shards are computed twice: first for their embeddings, since the InfoNCE of each shard reads all of them.
    """
    blocks: list[Tensor] = []

    def record(block: Tensor) -> list[Tensor]:
        blocks.append(block)
        return [block] * num_ranks

    for rank in range(num_ranks):
        step.rank_losses(run, batch, RankShard(rank, num_ranks, record))
    losses = [step.rank_losses(run, batch, RankShard(rank, num_ranks, lambda _: blocks)) for rank in range(num_ranks)]
    for loss in losses:
        (loss.total * run.weight(batch)).backward()  # type: ignore[no-untyped-call]
    return losses


def accumulate(monkeypatch: pytest.MonkeyPatch, num_ranks: int) -> None:
    """Makes a training in this process accumulate the gradients of `num_ranks` shards of each batch."""

    def computed(run: step.Run, batch: Batch) -> step.Losses:
        run.optimizer.zero_grad()
        losses = accumulated_losses(run, batch, num_ranks)
        terms = {name: torch.stack([loss.terms[name] for loss in losses]).sum() for name in losses[0].terms}
        rows = () if run.tables is None else run.tables.leaves
        torch.nn.utils.clip_grad_norm_([*run.optimizer.parameters, *rows], run.settings.clip_norm)
        return step.Losses(step.weighted_total(terms, run.settings), terms)

    monkeypatch.setattr(loop, "compute_step", computed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [{"optimizer": "muon"}, {"optimizer": "adamw"}, {"num_sampled_tags": 1, "num_epochs": 1}],
    ids=["muon", "adamw", "sampled tags"],
)
def test_two_ranks_end_in_the_bits_of_one_process_that_accumulates(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, values: dict[str, object]
) -> None:
    settings = SETTINGS.model_copy(update=values)
    is_done, weights = run_ranks(bench, "ranks", 2, settings)
    assert is_done, weights
    assert len(weights) == 2
    assert weights[0] == weights[1]
    accumulate(monkeypatch, 2)
    bench.train("parts", settings)
    assert bench.weights_sha256("ranks") == bench.weights_sha256("parts")
    assert bench.log("ranks") == bench.log("parts")


@pytest.mark.slow
def test_ranks_that_a_last_batch_leaves_without_posts_stay_equal(bench: Bench) -> None:
    settings = SETTINGS.model_copy(update={"batch_posts": 13, "num_epochs": 1})
    num_last = len(rows_of_split(bench.corpus.packed, "train")) % 13
    assert 0 < num_last < 3, "the corpus changed: the last batch must leave a rank without posts"
    is_done, weights = run_ranks(bench, "ranks", 3, settings)
    assert is_done, weights
    assert len(weights) == 3
    assert len(set(weights)) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("what", "start"), [("kill", by_torchrun), ("stop", forked)])
def test_ranks_end_together_and_another_number_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str, start: Callable[[Path, int], bool]
) -> None:
    is_done, notes = run_ranks(bench, "ended", 2, start=start, what=what, rank=1, after_steps=10)
    assert not is_done
    assert not list(bench.out_dir("ended").iterdir())
    saved = [file.name for file in state_files(bench.work_dir("ended"))]
    if what == "kill":  # the other rank says so, and the last saved state, of step 7, is gone on from
        (note,) = notes
        assert note.startswith("RankLostError: rank 0 of 2: another rank ended or fell silent (")
        assert "\n" not in note
        resumed_from = 7
    else:
        assert all(note.startswith("TrainingInterrupted: stopped at step 10 of 34") for note in notes)
        assert len(notes) == 2
        resumed_from = 10
    assert saved[-1] == f"state-{resumed_from:09}.pt"
    read: list[tuple[int, list[int]]] = []
    real = EpochBatches.read

    def noted(batches: EpochBatches, epoch: int, index: int) -> Batch:
        batch = real(batches, epoch, index)
        read.append((epoch, batch.post_index.tolist()))
        return batch

    monkeypatch.setattr(EpochBatches, "read", noted)
    report = bench.train("ended", SETTINGS)
    packed = bench.corpus.packed
    rows = rows_of_split(packed, "train")
    done_before = EpochBatches(packed, rows, 16, SETTINGS.seed)
    first = [done_before.rows(0, index).tolist() for index in range(resumed_from)]
    posts = [row for part in [*first, *(part for epoch, part in read if epoch == 0)] for row in part]
    assert sorted(posts) == rows.tolist()  # each post once in the epoch that two kinds of training shared
    assert report.num_steps == 34
    steps = [record["step"] for record in bench.log("ended")]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_a_stop_on_one_process_is_saved_for_two(bench: Bench) -> None:
    with pytest.raises(TrainingInterrupted):
        bench.train("grown", SETTINGS, should_stop=stop_after(20))
    is_done, weights = run_ranks(bench, "grown", 2)
    assert is_done, weights
    assert weights[0] == weights[1]
    assert bench.log("grown")[-1]["step"] == 34


@pytest.mark.parametrize("num_captions", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("num_ranks", [2, 3, 5])
def test_the_parts_of_any_number_of_ranks_add_up(num_captions: int, num_ranks: int) -> None:
    """Terms and gradients agree, also with ranks that have no caption."""
    batch = captions(random_captions(num_captions, 16, 5))
    settings = training_settings(contrastive_weight=0.5)
    whole = encoder()
    expected = objective(whole, batch, settings, torch.Generator().manual_seed(1), torch.float32)
    expected.total.backward()  # type: ignore[no-untyped-call]
    model, blocks = encoder(), list[Tensor]()

    def record(block: Tensor) -> list[Tensor]:
        blocks.append(block)
        return [block] * num_ranks

    def losses(rank: int, gather: object) -> step.Losses:
        shard = RankShard(rank, num_ranks, gather)  # type: ignore[arg-type]
        return objective(model, batch, settings, torch.Generator().manual_seed(1), torch.float32, None, shard)

    for rank in range(num_ranks):
        losses(rank, record)
    parts = [losses(rank, lambda _: blocks) for rank in range(num_ranks)]
    for part in parts:
        part.total.backward()  # type: ignore[no-untyped-call]
    for name, term in expected.terms.items():
        assert sum(part.terms[name].item() for part in parts) == pytest.approx(term.item(), rel=1e-5, abs=1e-6), name
    for (name, wanted), found in zip(whole.named_parameters(), model.parameters(), strict=True):
        assert wanted.grad is not None, name
        assert found.grad is not None, name
        np.testing.assert_allclose(found.grad, wanted.grad, rtol=1e-4, atol=1e-6, err_msg=name)


def test_alone_every_exchange_gives_back_what_it_got() -> None:
    with joined_ranks({}) as ranks:
        assert ranks == Ranks(0, 1)
        assert ranks.is_first
        assert ranks.any(True)
        assert not ranks.any(False)
        numbers = torch.arange(3)
        assert ranks.sum(numbers) is numbers
        ranks.check_agreement("step", "3")
        assert ranks.wrap(encoder()) is None
    with pytest.raises(RuntimeError, match="its own"), joined_ranks({}):
        raise RuntimeError("its own")


@pytest.mark.parametrize(
    ("message", "is_lost"),
    [
        ("NCCL error: Connection closed by remote peer", True),
        ("[gloo] Timed out waiting 1800000ms for recv", True),
        ("NCCL error: Call to CUDA function failed. Last error: Cuda failure 'out of memory'", False),
        ("its own", False),
    ],
)
def test_a_lost_rank_is_told_from_an_error_of_this_one(
    monkeypatch: pytest.MonkeyPatch, message: str, is_lost: bool
) -> None:
    for function in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(dist, function, lambda *_, **__: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    raised = pytest.raises(RankLostError if is_lost else RuntimeError, match=message.split()[0].strip("[]"))
    with raised, joined_ranks({"WORLD_SIZE": "2", "LOCAL_RANK": "0"}):
        raise RuntimeError(message)

"""Evaluation by ranks: the bytes of one process, and what is finished is computed once, with any number of ranks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
import torch

from booru_embed_core.evaluation import counting, implied, model_parts, tuning
from booru_embed_core.evaluation.checkpoint_evaluation import evaluate_checkpoint
from booru_embed_core.evaluation.evaluation_file import read_evaluation
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.training.distributed import joined_ranks
from booru_embed_core.training.parts import Arrays, Parts
from tests.core.model_helpers import Trained
from tests.core.training.training_helpers import ranks_finish

SETTINGS = EvaluationSettings(
    baselines=("popularity", "item_knn", "ppmi_svd", "ease"), ease_lambdas=(1.0, 100.0), implied_min_count=2
)
NUM_UNITS = {"scored": 6, "split-half": 3, "tuned": 1 + 4 + 1 + 2}
"""By what is computed: each task in parts of 8 posts, models that embed, and grids of baselines."""


def small_parts(patch: pytest.MonkeyPatch) -> None:
    for module, name, size in (
        (model_parts, "PART_POSTS", 8),
        (counting, "_BLOCK_POSTS", 64),
        (implied, "_CHUNK_POSTS", 64),
        (implied, "_USES_AT_A_TIME", 128),
        (tuning, "ITEM_KNN_NEIGHBOURS", (2, 4)),
    ):
        patch.setattr(module, name, size)
    patch.setattr(model_parts, "scored_at_once", lambda _: 4)


def evaluated(made: Trained, out: Path, work: Path, stop_after: int = 1_000_000, **given: object) -> list[str]:
    """The names of the parts that were computed, in order; a rank ends after some, as if it was killed."""
    computed: list[str] = []
    real = Parts.part

    def part(parts: Parts, name: str, compute: Callable[[], Arrays]) -> Arrays:
        def noted() -> Arrays:
            if len(computed) == stop_after:
                raise KeyboardInterrupt
            computed.append(name)
            return compute()

        return real(parts, name, noted)

    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch)
        patch.setattr(Parts, "part", part)
        log = given.pop("log", lambda _: None)
        evaluate_checkpoint(made.checkpoint, made.corpus.packed_path, out, work, SETTINGS, "cpu", log, **given)  # type: ignore[arg-type]
    return computed


def rank(made: Trained, out: Path, work: Path, notes: Path, stop_after: int, environment: Mapping[str, str]) -> None:
    """One rank, which notes what it has computed."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    notes = notes / f"rank-{environment['RANK']}.txt"
    computed: list[str] = []
    try:
        with joined_ranks() as ranks:
            computed = evaluated(made, out, work, stop_after, ranks=ranks)
    except KeyboardInterrupt:
        os._exit(1)
    notes.write_text("\n".join(computed))


def by_ranks(made: Trained, out: Path, work: Path, notes: Path, num_ranks: int, stop_after: int = 1_000_000) -> bool:
    """Whether all of `num_ranks` ranks came to the end."""
    notes.mkdir()
    return ranks_finish(rank, num_ranks, made, out, work, notes, stop_after)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def by_stage(names: Iterable[str]) -> dict[str, int]:
    found = [name.rpartition("-")[0] for name in names]
    return {stage: found.count(stage) for stage in NUM_UNITS}


@pytest.fixture(scope="module")
def alone(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """What one process writes, and the parts that it computes."""
    folder = tmp_path_factory.mktemp("alone")
    return folder / "out", evaluated(trained, folder / "out", folder / "work")


def test_one_process_computes_every_part_once(alone: tuple[Path, list[str]]) -> None:
    out, computed = alone
    assert by_stage(computed) == NUM_UNITS
    assert len(computed) == len(set(computed))
    figures = read_evaluation(out / "evaluation.json")
    assert list(figures.tasks["half"].models)[-4:] == list(SETTINGS.baselines)
    assert (out / "report.md").read_text().startswith("#")


@pytest.mark.slow
def test_two_ranks_write_the_bytes_of_one_process(
    trained: Trained, alone: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, computed = alone
    (tmp_path / "out").mkdir()
    assert by_ranks(trained, tmp_path / "out", tmp_path / "work", tmp_path / "notes", 2)
    assert contents(tmp_path / "out") == contents(out)
    of_ranks = [file.read_text().split() for file in sorted((tmp_path / "notes").iterdir())]
    assert all(of_ranks), "each rank takes a part"
    assert sorted([*of_ranks[0], *of_ranks[1]]) == sorted(computed)


@pytest.mark.slow
def test_an_evaluation_that_ranks_left_is_ended_by_one_process(
    trained: Trained, alone: tuple[Path, list[str]], tmp_path: Path
) -> None:
    out, computed = alone
    work = tmp_path / "work"
    assert not by_ranks(trained, tmp_path / "none", work, tmp_path / "notes", 2, stop_after=4)
    kept = {file.stem for file in work.glob("*.npz")}
    assert {"pairs", "implied"} < kept
    assert 4 <= len(kept - {"pairs", "implied"}) < len(computed)
    lines: list[str] = []
    resumed = evaluated(trained, tmp_path / "out", work, log=lines.append)
    assert sorted(resumed) == sorted(set(computed) - kept)
    assert f"{len(kept)} parts were finished before" in lines
    assert contents(tmp_path / "out") == contents(out)


def test_other_settings_take_no_part(trained: Trained, tmp_path: Path, alone: tuple[Path, list[str]]) -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluated(trained, tmp_path / "out", tmp_path / "work", stop_after=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "tests.core.evaluation.test_checkpoint_evaluation.SETTINGS", SETTINGS.model_copy(update={"seed": 8})
        )
        again = evaluated(trained, tmp_path / "out", tmp_path / "work")
    assert again[:3] == alone[1][:3]

"""A stage's job: done here or by ranks, stopped between its parts, and explained when it fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.evaluation import checkpoint_evaluation
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.training.distributed import RankLostError, Ranks
from booru_embed_dagster.training import launcher, worker
from booru_embed_dagster.training.launcher import do_stage
from booru_embed_dagster.training.reasons import FAILURE_FILE, LOST_FILES
from booru_embed_dagster.training.stages import StageJob, run_stage
from booru_embed_dagster.warehouse.warehouse import WarehouseError, lock_folder


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    (tmp_path / "out").mkdir()
    return StageJob(
        stage="post_embeddings",
        checkpoint_dir=tmp_path / "checkpoint",
        packed_path=tmp_path / "tokens.safetensors",
        work_dir=tmp_path / "work",
        out_dir=tmp_path / "out",
        device="cpu",
    )


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[Ranks]:
    """The ranks that computed a job."""
    found: list[Ranks] = []
    monkeypatch.setattr(StageJob, "compute", lambda _, ranks, __: found.append(ranks))
    return found


def test_a_job_file_of_a_stage_is_run_by_the_worker(job: StageJob, tmp_path: Path, computed: list[Ranks]) -> None:
    (tmp_path / "job.json").write_text(job.model_dump_json())
    assert worker.main([str(tmp_path / "job.json")]) == 0
    assert computed == [Ranks()]
    assert list(job.out_dir.iterdir()) == []  # the room for a reason was given back


@pytest.mark.parametrize(
    ("error", "file"),
    [(ValueError("no posts; ingest some"), FAILURE_FILE), (RankLostError("alone"), LOST_FILES.format(rank=0))],
)
def test_a_stage_that_fails_leaves_its_reason(
    job: StageJob, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: ValueError, file: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(StageJob, "compute", fail)
    assert run_stage(job, print, lambda _: pytest.fail("it failed"), lambda: False) == 1
    assert (job.out_dir / file).read_text() == str(error)
    assert capsys.readouterr().err == f"post_embeddings: {error}\n"


def test_an_evaluation_has_its_settings(job: StageJob, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(checkpoint_evaluation, "evaluate_checkpoint", lambda *given: called.append(given))
    settings = EvaluationSettings(max_posts=5)
    evaluation = job.model_copy(update={"stage": "evaluation", "evaluation": settings})
    evaluation.compute(Ranks(), print)
    folders = (job.checkpoint_dir, job.packed_path, job.out_dir, job.work_dir)
    assert called == [(*folders, settings, "cpu", print, Ranks())]


def test_one_process_computes_here_and_alone(job: StageJob, computed: list[Ranks]) -> None:
    context: Any = type("Context", (), {"log": type("Log", (), {"info": print})})
    job.work_dir.mkdir()
    do_stage(context, job, job.out_dir / "output.log")
    assert computed == [Ranks()]
    with lock_folder(job.work_dir), pytest.raises(WarehouseError, match="another process"):
        do_stage(context, job, job.out_dir / "output.log")


def test_several_processes_are_launched(job: StageJob, monkeypatch: pytest.MonkeyPatch, computed: list[Ranks]) -> None:
    launched: list[Any] = []
    monkeypatch.setattr(launcher, "launch_training", lambda *arguments: launched.append(arguments))
    context: Any = object()
    several = job.model_copy(update={"num_processes": 2})
    do_stage(context, several, job.out_dir / "output.log")
    assert launched == [(context, several, job.out_dir / "output.log")]
    assert computed == []


def test_the_messages_of_a_stage_name_it(tmp_path: Path) -> None:
    output = tmp_path / "output.log"
    output.write_text("")
    killed, failed = (launcher.why_it_ended(tmp_path, output, code, None, "post_embeddings") for code in (-9, 3))
    assert killed.startswith("post_embeddings was killed (SIGKILL), most likely because memory ran out: lower ")
    assert failed.startswith("post_embeddings ended with exit code 3 and left no reason")


def test_the_job_is_what_the_guide_shows() -> None:
    guide = (Path(__file__).parents[3] / "docs/guides/multi-gpu.md").read_text(encoding="utf-8")
    blocks = [json.loads(block.split("```")[0]) for block in guide.split("```json")[1:]]
    stages = [StageJob.model_validate(block).stage for block in blocks if "stage" in block]
    assert stages == ["post_embeddings", "evaluation"]

"""Ranks of two machines: a cable that is cut ends them in one line, and the next start ends in the bytes of no cut."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from booru_embed_core.evaluation.checkpoint_evaluation import evaluate_checkpoint
from booru_embed_core.settings import EvaluationSettings
from tests.core.model_helpers import Trained, training_settings
from tests.core.training.test_distributed import accumulate
from tests.core.training.training_helpers import NARROW, Bench, forks
from tests.core.training.two_hosts import ADDRESSES, SILENT_SECONDS, Hosts, host, two_hosts

SECONDS = 120
"""What must happen has this long."""
SETTINGS = training_settings(num_epochs=1, checkpoint_every_steps=4)


def start(hosts: Hosts, job: Mapping[str, object], folder: Path, name: str, cut_at: int = 0) -> list[list[str]]:
    """The lines that ranks have written on both machines, after a run that is cut at this step or part of each rank."""
    notes = folder / name
    notes.mkdir()
    file = notes / f"{name}.json"
    Path(str(job["out"])).mkdir(exist_ok=True)
    Path(str(job["work"])).mkdir(exist_ok=True)
    file.write_text(json.dumps({**job, "notes": str(notes), "pause_at": cut_at}))
    processes = [forks().Process(target=host, args=(one, i, str(file))) for i, one in enumerate(hosts.names)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + SECONDS
    if cut_at:
        while len(list(notes.glob("paused-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        hosts.link("down")
        (notes / "cut").touch()
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    hosts.link("up")
    logs = [(notes / f"{name}-host-{i}.log").read_text(errors="replace") for i in range(2)]
    assert codes == [int(bool(cut_at))] * 2, "\n".join(logs)
    return [[line for line in log.splitlines() if line.startswith("RankLostError: ")] for log in logs]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def check_lost(lost: list[list[str]]) -> None:
    """Each rank names the other, in one line."""
    for own, (line,) in enumerate(lost):
        other = f"rank {1 - own} at {ADDRESSES[1 - own]} has not answered for {SILENT_SECONDS} s"
        assert line.startswith(f"RankLostError: rank {own} of 2: another rank ended or fell silent ({other}); ")


@pytest.mark.slow
def test_a_cut_cable_ends_both_machines_and_they_go_on_where_they_stopped(
    bench: Bench, trained: Trained, search_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = bench.corpus
    both = {"packed": str(corpus.packed_path), "vocab": str(corpus.vocab_dir)}
    training = {
        **both,
        "work": str(bench.work_dir("hosts")),
        "out": str(bench.out_dir("hosts")),
        "model": NARROW.model_dump(mode="json"),
        "training": SETTINGS.model_dump(mode="json", exclude_none=True),
    }
    embedding = {
        **both,
        "work": str(bench.folder / "parts"),
        "out": str(bench.folder / "searched"),
        "checkpoint": str(trained.checkpoint),
    }
    settings = EvaluationSettings(baselines=("popularity",), implied_min_count=2)
    figures = bench.folder / "figures"
    evaluation = {
        **embedding,
        "work": str(bench.folder / "evaluated"),
        "out": str(figures),
        "evaluation": settings.model_dump_json(),
    }
    with two_hosts() as hosts:
        check_lost(start(hosts, training, bench.folder, "train", cut_at=10))
        assert list(bench.out_dir("hosts").iterdir()) == []
        assert start(hosts, training, bench.folder, "train-on") == [[], []]
        check_lost(start(hosts, embedding, bench.folder, "embed", cut_at=2))
        kept = list((bench.folder / "parts").glob("part-*.parquet"))
        assert 1 <= len(kept) < 5
        times = [file.stat().st_mtime_ns for file in kept]
        assert start(hosts, embedding, bench.folder, "embed-on") == [[], []]
        assert [file.stat().st_mtime_ns for file in kept] == times
        assert start(hosts, evaluation, bench.folder, "evaluate") == [[], []]
    accumulate(monkeypatch, 2)
    bench.train("uncut", SETTINGS)
    assert bench.weights_sha256("hosts") == bench.weights_sha256("uncut")
    assert contents(bench.folder / "searched") == contents(search_folder)
    (bench.folder / "here").mkdir()
    alone = (trained.checkpoint, corpus.packed_path, bench.folder / "here", bench.folder / "evaluated-here")
    alone[-1].mkdir()
    evaluate_checkpoint(*alone, settings, "cpu", lambda _: None)
    assert contents(figures) == contents(bench.folder / "here")

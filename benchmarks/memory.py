"""How much memory does the default run take, stage by stage, compared with an earlier build?

``python -m benchmarks.memory WAREHOUSE`` measures on a warehouse with a checkpoint, with this build and with that of
``--before``, which alternate:

* ``training``: the first steps of the default training, not all of its epochs; ``steps`` says how many.
* ``evaluation``, ``tag_embeddings``, ``post_embeddings``: the whole assets with their checks, through Dagster.
* ``embedding``: the captions of all posts by ``booru-embed embed``.
* ``serving``: ``booru-embed serve`` until its map is there and a hundred completions are answered.

Each runs in processes of its own. Peak memory is that of the largest process, CPU seconds are those of all of them. The
digests tell whether both builds compute the same; builds may differ in their default network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

BEFORE: Final = "01dc3d8~1"
ROUNDS: Final = 1
NUM_STEPS: Final = 190
"""An epoch of the sample is 182 steps: these have a validation, and a saved state."""
MAX_PEAK_MB: Final = 1_000
STAGES: Final = ("evaluation", "tag_embeddings", "post_embeddings")
CASES: Final = ("training", *STAGES, "embedding", "serving")
_NUM_COMPLETIONS: Final = 100
_START_SECONDS: Final = 300
_CLI: Final = "from booru_embed_core.cli.main import main; main()"
_SETTINGS: Final = '[warehouse]\npath = "warehouse"\n[posts]\nexport = ["posts.csv"]\n'


def train_steps(warehouse: Path, num_steps: int) -> str:
    """The digest of the weights after `num_steps` steps of the default training, by the packages of this process."""
    import booru_embed_dagster  # noqa: F401  it sets what the training process starts with
    from booru_embed_core.settings import ModelSettings, TrainingSettings
    from booru_embed_core.training import loop

    runs, taken = [], iter(range(1, num_steps + 1))
    start_run = loop.start_run
    loop.start_run = lambda *given: runs.append(start_run(*given)) or runs[-1]  # type: ignore[func-returns-value]
    packed, vocab = (warehouse / name / "current" for name in ("packed_tokens", "vocab"))
    settings = TrainingSettings(seed=7, device="cpu")
    with tempfile.TemporaryDirectory() as scratch:
        work, out = Path(scratch, "work"), Path(scratch, "out")
        out.mkdir()
        with suppress(loop.TrainingInterrupted):
            loop.train(
                packed / "tokens.safetensors",
                vocab,
                work,
                out,
                ModelSettings(),
                settings,
                should_stop=lambda: next(taken) == num_steps,
            )
    weights = hashlib.sha256()
    for name, tensor in sorted(runs[0].model.state_dict().items()):
        weights.update(name.encode() + tensor.numpy().tobytes())
    return weights.hexdigest()


def materialize(asset: str) -> None:
    """Runs `asset` with its checks, with the settings that the environment names."""
    import dagster as dg

    from booru_embed_dagster.definitions import defs

    job = defs.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(asset_selection=[dg.AssetKey(asset)], instance=instance)


def cost(command: Sequence[str], build: Path, **variables: str) -> dict[str, Any]:
    """Peak MB and CPU seconds of `command`, run with the code of the folder `build`, and the last line it printed."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=said, env=_environment(build, variables), cwd=build, text=True
        )
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            told = said.read()[-2000:].decode(errors="replace")
            raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}: {told}")
    return {
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "printed": lines[-1] if lines else "",
    }


def _environment(build: Path, variables: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    return {**kept, "PYTHONPATH": str(build), **variables}


def write_captions(warehouse: Path, file: Path) -> int:
    """Writes the tags of every post as a line of `file`; returns the number of lines."""
    import numpy as np

    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.batches import read_batch
    from booru_embed_core.tokens.packed_file import PackedFile

    vocab = Vocab.load(warehouse / "vocab" / "current")
    packed = PackedFile.open(warehouse / "packed_tokens" / "current" / "tokens.safetensors", vocab.hash)
    batch = read_batch(packed, np.arange(packed.num_posts))
    tags = batch.tag_indices(tuple(vocab.sizes.values())).tolist()
    bounds = batch.cu_seqlens.tolist()
    with file.open("w", encoding="utf-8") as lines:
        for start, end in pairwise(bounds):
            lines.write(" ".join(vocab.tags[tag] for tag in tags[start:end]) + "\n")
    return packed.num_posts


def stage_cost(asset: str, warehouse: Path, build: Path, scratch: Path) -> dict[str, Any]:
    """The cost of materializing `asset` in a copy of `warehouse`, whose files are links."""
    folder = scratch / "stage"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in ("posts", "vocab", "packed_tokens", "checkpoint"):
        shutil.copytree(warehouse / name, folder / "warehouse" / name, symlinks=True, copy_function=os.link)
    settings = folder / "settings.toml"
    settings.write_text(_SETTINGS, encoding="utf-8")
    command = [sys.executable, __file__, str(warehouse), "--stage", asset]
    return cost(command, build, BOORU_EMBED_SETTINGS=str(settings), DAGSTER_HOME=str(folder)) | {"printed": ""}


def embedding_cost(warehouse: Path, captions: Path, build: Path, scratch: Path) -> dict[str, Any]:
    """The cost of embedding `captions`; ``printed`` is the digest of the vectors."""
    output = scratch / "vectors.npy"
    output.unlink(missing_ok=True)
    checkpoint = str(warehouse / "checkpoint" / "current")
    given = ["embed", "--checkpoint", checkpoint, "--file", str(captions), "--output", str(output), "--restart"]
    found = cost([sys.executable, "-c", _CLI, *given, "--on-unknown", "empty"], build)
    return {**found, "printed": hashlib.sha256(output.read_bytes()).hexdigest()}


def serving_cost(warehouse: Path, captions: Path, build: Path) -> dict[str, Any]:
    """The cost of a server until it has answered; ``printed`` is the digest of the names of its completions."""
    port = 20_000 + os.getpid() % 20_000
    command = [sys.executable, "-c", _CLI, "serve", "-c", str(warehouse / "checkpoint/current"), "--port", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=_environment(build, {}), cwd=build
    )
    names = hashlib.sha256()
    try:
        for path in ("ready", "map"):
            _answer(f"http://127.0.0.1:{port}/api/{path}")
        with captions.open(encoding="utf-8") as lines:
            for _, line in zip(range(_NUM_COMPLETIONS), lines, strict=False):
                body = json.dumps({"tags": line.strip(), "k": 5}).encode()
                found = json.loads(_answer(f"http://127.0.0.1:{port}/api/complete", body))
                names.update(" ".join(one["tag"] for one in found["completions"]).encode())
    finally:
        process.terminate()
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    seconds = round(used.ru_utime + used.ru_stime, 1)
    peak_mb = round(used.ru_maxrss * 1024 / 1e6)
    return {"peak_mb": peak_mb, "cpu_seconds": seconds, "printed": names.hexdigest()}


def _answer(url: str, body: bytes | None = None) -> bytes:
    """The answer, as soon as there is one: a server that starts refuses, or answers 503."""
    deadline = time.monotonic() + _START_SECONDS
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                return bytes(answer.read())
        except urllib.error.URLError as error:
            is_starting = not isinstance(error, urllib.error.HTTPError) or error.code == 503
            if not is_starting or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def case_cost(case: str, warehouse: Path, build: Path, scratch: Path, num_steps: int) -> dict[str, Any]:
    """The cost of one case with one build."""
    captions = scratch / "captions.txt"
    if case == "training":
        return cost([sys.executable, __file__, str(warehouse), "--train", str(num_steps)], build)
    if case in STAGES:
        return stage_cost(case, warehouse, build, scratch)
    return (
        embedding_cost(warehouse, captions, build, scratch)
        if case == "embedding"
        else serving_cost(warehouse, captions, build)
    )


def compared(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """The figures of a case, of each round the build before and this one."""
    figures = {
        "peak_mb_before": max(before["peak_mb"] for before, _ in pairs),
        "peak_mb": max(now["peak_mb"] for _, now in pairs),
        "cpu_seconds_before": [before["cpu_seconds"] for before, _ in pairs],
        "cpu_seconds": [now["cpu_seconds"] for _, now in pairs],
    }
    printed = {one["printed"] for pair in pairs for one in pair}
    return figures if printed == {""} else {**figures, "same_result": len(printed) == 1}


def main(warehouse: Path, before: str, rounds: int, num_steps: int, cases: Sequence[str]) -> None:
    """Prints a line per case and writes the figures; those of cases that are not measured now stay as they are."""
    from benchmarks._builds import ROOT, unpack

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        builds = [scratch / "before", ROOT]
        unpack(before, builds[0], ["booru_embed_core", "booru_embed_dagster"])
        code = f"from benchmarks.memory import *; print(write_captions(Path({str(warehouse)!r}), Path(sys.argv[1])))"
        # In a process of its own: a child's peak starts with the memory of the process that starts it.
        written = cost([sys.executable, "-c", code, str(scratch / "captions.txt")], ROOT)
        measured = {}
        for case in cases:
            pairs = [
                (
                    case_cost(case, warehouse, builds[0], scratch, num_steps),
                    case_cost(case, warehouse, builds[1], scratch, num_steps),
                )
                for _ in range(rounds)
            ]
            measured[case] = compared(pairs) | ({"steps": num_steps} if case == "training" else {})
            print(case, measured[case], flush=True)
    from benchmarks._results import RESULTS, write

    file = RESULTS / "memory.json"
    earlier = json.loads(file.read_text(encoding="utf-8"))["cases"] if file.exists() else {}
    known = earlier | measured
    about = {"before": before, "rounds": rounds, "captions": int(written["printed"])}
    every = {case: known[case] for case in CASES if case in known}
    write("memory", {**about, "max_peak_mb": MAX_PEAK_MB, "cases": every})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("warehouse", type=Path, help="folder with posts, vocab, packed_tokens and checkpoint")
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all by default")
    parser.add_argument("--before", default=BEFORE, help="git revision to alternate with (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        print(train_steps(asked.warehouse, asked.train))
    elif asked.stage:
        materialize(asked.stage)
    else:
        main(asked.warehouse.absolute(), asked.before, asked.rounds, asked.steps, asked.cases or CASES)

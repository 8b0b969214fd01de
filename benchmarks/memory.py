"""How much memory do training and embedding take, compared with an earlier build?

``python -m benchmarks.memory WAREHOUSE`` takes the first steps of the default training, and embeds the captions of all
posts by ``booru-embed embed``, from a warehouse with a checkpoint: with this build, and with that of ``--before``. The
two alternate, each in processes of its own. Peak memory and CPU seconds are those of whole processes. The digest of the
weights, and that of the vectors, tell whether both builds compute the same.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

BEFORE: Final = "01dc3d8"
ROUNDS: Final = 2
NUM_STEPS: Final = 190
"""An epoch of the sample is 182 steps: these have a validation, and a saved state."""
MAX_PEAK_MB: Final = 1_000
_ROOT: Final = Path(__file__).resolve().parents[1]
_EMBED: Final = "from booru_embed_core.cli.main import main; main()"


def train_steps(warehouse: Path, num_steps: int) -> str:
    """The digest of the weights after `num_steps` steps of the default training, by the packages of this process."""
    import booru_embed_dagster  # noqa: F401  it sets what the training process starts with
    from booru_embed_core.settings import ModelSettings, TrainingSettings
    from booru_embed_core.training import loop

    runs, taken = [], iter(range(1, num_steps + 1))
    start_run = loop.start_run
    loop.start_run = lambda *given: runs.append(start_run(*given)) or runs[-1]  # type: ignore[func-returns-value]
    packed, vocab = (warehouse / name / "current" for name in ("packed_tokens", "vocab"))
    settings = TrainingSettings(seed=7, num_epochs=8, device="cpu")
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


def cost(command: Sequence[str], build: Path) -> dict[str, Any]:
    """Peak MB and CPU seconds of `command`, run with the code of the folder `build`, and the last line it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**environment, "PYTHONPATH": str(build)}, text=True
    )
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {process.returncode}")
    return {
        "peak_mb": round(used.ru_maxrss / 1024),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "printed": lines[-1] if lines else "",
    }


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


def embedding_cost(warehouse: Path, captions: Path, build: Path, scratch: Path) -> dict[str, Any]:
    """The cost of embedding `captions`; ``printed`` is the digest of the vectors."""
    output = scratch / "vectors.npy"
    output.unlink(missing_ok=True)
    checkpoint = str(warehouse / "checkpoint" / "current")
    given = ["embed", "--checkpoint", checkpoint, "--file", str(captions), "--output", str(output), "--restart"]
    found = cost([sys.executable, "-c", _EMBED, *given, "--on-unknown", "empty"], build)
    return {**found, "printed": hashlib.sha256(output.read_bytes()).hexdigest()}


def alternated(
    builds: Sequence[Path], warehouse: Path, captions: Path, scratch: Path, num_steps: int
) -> dict[str, Any]:
    """One round of each case with both builds: the one before and this one."""
    train = [sys.executable, __file__, str(warehouse), "--train", str(num_steps)]
    return {
        "training": [cost(train, build) for build in builds],
        "embedding": [embedding_cost(warehouse, captions, build, scratch) for build in builds],
    }


def main(warehouse: Path, before: str = BEFORE, rounds: int = ROUNDS, num_steps: int = NUM_STEPS) -> None:
    """Prints a line per case and writes the figures."""
    from benchmarks._results import write

    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        builds = [scratch / "before", _ROOT]
        archive = subprocess.run(
            ["git", "-C", str(_ROOT), "archive", before, "booru_embed_core", "booru_embed_dagster"],
            check=True,
            stdout=subprocess.PIPE,
        )
        with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
            files.extractall(builds[0], filter="data")
        num_captions = write_captions(warehouse, scratch / "captions.txt")
        found = [alternated(builds, warehouse, scratch / "captions.txt", scratch, num_steps) for _ in range(rounds)]
    cases = {}
    for case in found[0]:
        pairs = [one[case] for one in found]
        cases[case] = {
            "peak_mb_before": max(before["peak_mb"] for before, _ in pairs),
            "peak_mb": max(now["peak_mb"] for _, now in pairs),
            "cpu_seconds_before": [before["cpu_seconds"] for before, _ in pairs],
            "cpu_seconds": [now["cpu_seconds"] for _, now in pairs],
            "same_result": len({one["printed"] for pair in pairs for one in pair}) == 1,
        }
        print(case, cases[case], flush=True)
    about = {"before": before, "rounds": rounds, "steps": num_steps, "captions": num_captions}
    write("memory", {**about, "max_peak_mb": MAX_PEAK_MB, "cases": cases})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n")[0])
    parser.add_argument("warehouse", type=Path, help="folder with vocab, packed_tokens and checkpoint")
    parser.add_argument("--before", default=BEFORE, help="git revision to alternate with (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        print(train_steps(asked.warehouse, asked.train))
    else:
        main(asked.warehouse, asked.before, asked.rounds, asked.steps)

"""One rank of a training, started by torchrun as ``rank_worker.py JOB.json``, or forked.

It writes ``rank-R.txt`` into the job's `notes`: a hash of its weights, or its error. The job may name a rank and the
step after which it is killed, or asks to stop.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training import loop


def main(job_file: str, environment: Mapping[str, str]) -> None:
    """Trains as the rank described by torchrun's variables in `environment`; exits with 1 when terminated."""
    os.environ.update(environment)
    job = json.loads(Path(job_file).read_text())
    rank, steps = int(os.environ.get("RANK", "0")), iter(range(1, 1_000_000))
    torch.set_num_threads(1)
    # Like the training process: torchrun sends SIGTERM to the others as soon as one rank ends.
    signal.signal(signal.SIGTERM, lambda *_: None)

    def should_stop() -> bool:
        is_named = rank == job.get("rank") and next(steps) == job.get("after_steps")
        if is_named and job["what"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return is_named

    real = loop._publish

    def noted(run: loop.Run, *rest: object) -> object:
        weights = hashlib.sha256()
        for tensor in run.model.state_dict().values():
            weights.update(tensor.numpy().tobytes())
        note(weights.hexdigest())
        return real(run, *rest)  # type: ignore[arg-type]

    def note(text: str) -> None:
        (Path(job["notes"]) / f"rank-{rank}.txt").write_text(text)

    destroy = dist.destroy_process_group

    def noted_end() -> None:
        if any(isinstance(one, DistributedDataParallel) for one in gc.get_objects()):
            (Path(job["notes"]) / f"wrapped-{rank}.txt").write_text("a wrapped model outlives its group")
        destroy()

    loop._publish = noted  # type: ignore[assignment]
    dist.destroy_process_group = noted_end  # type: ignore[assignment]
    paths = [Path(job[name]) for name in ("packed", "vocab", "work", "out")]
    try:
        loop.train(
            *paths,
            ModelSettings.model_validate(job["model"]),
            TrainingSettings.model_validate(job["training"]),
            should_stop=should_stop,
        )
    except (loop.TrainingInterrupted, ValueError, OSError, RuntimeError) as error:
        note(f"{type(error).__name__}: {error}")
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1], {})

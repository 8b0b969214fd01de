"""A run that waits for a file, in a process of its own, which gets real signals; light to import.

No ``from __future__ import annotations``: Dagster reads annotations.
"""

import multiprocessing
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import dagster as dg

from booru_embed_dagster.executor import in_process_executor

MAX_SECONDS = 120


@dg.op(config_schema={"folder": str})
def wait(context: dg.OpExecutionContext) -> None:
    """Creates the file ``ready`` and waits for the file ``go``."""
    folder = Path(context.op_config["folder"])
    (folder / "ready").touch()
    end = time.monotonic() + MAX_SECONDS
    while not (folder / "go").exists():
        assert time.monotonic() < end
        time.sleep(0.02)


@dg.job(executor_def=in_process_executor)
def sleepy() -> None:
    """One op."""
    wait()


def execute(home: Path, folder: Path, run_tags: dict[str, str], ignores_hangup: bool) -> None:
    """Executes `sleepy` on the instance in `home`, as the command line executes jobs."""
    if ignores_hangup:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    config = {"ops": {"wait": {"config": {"folder": str(folder)}}}}
    with dg.DagsterInstance.from_config(str(home)) as instance:
        dg.execute_job(dg.reconstructable(sleepy), instance, run_config=config, tags=run_tags)


def start(home: Path, folder: Path, run_tags: dict[str, str] | None = None, *, ignores_hangup: bool) -> BaseProcess:
    """A process that executes `sleepy`; returned once its op waits."""
    folder.mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=execute, args=(home, folder, run_tags or {}, ignores_hangup))
    process.start()
    end = time.monotonic() + MAX_SECONDS
    while not (folder / "ready").exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)
    return process

"""How the steps of a run are executed: in the run's process, or each as a Kubernetes job.

The environment decides, so that dagster-k8s is needed only on a cluster. A run in its own process signs that it lives,
and ends as canceled when its terminal is closed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.storage.tags import GRPC_INFO_TAG

from booru_embed_core.errors import one_line
from booru_embed_dagster.automation.runs import end_dead_runs, sign_of_life

STEPS_VARIABLE: Final = "BOORU_EMBED_K8S_STEPS"
"""Names a YAML file with the config of `dagster_k8s.k8s_job_executor`; if set, steps are Kubernetes jobs."""


def pick_executor() -> dg.ExecutorDefinition:
    """The executor of all jobs of the code location."""
    file = os.environ.get(STEPS_VARIABLE)
    if not file:
        return in_process_executor
    from dagster_k8s import k8s_job_executor

    executor: dg.ExecutorDefinition = k8s_job_executor.configured(dg.config_from_files([file]), name="k8s_steps")
    return executor


class InterruptibleExecutor(dg.Executor):
    """Dagster's in-process executor `inner`, around which a run signs that it lives and hears a closed terminal."""

    def __init__(self, inner: dg.Executor) -> None:
        self._inner = inner

    @property
    def retries(self) -> Any:
        """Those of the inner executor."""
        return self._inner.retries

    @property
    def step_dependency_config(self) -> Any:
        """That of the inner executor."""
        return self._inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Executes the steps; runs of this instance that died before are ended first."""
        instance, run = plan_context.instance, plan_context.dagster_run
        try:
            sign_of_life(instance, run.run_id)
            end_dead_runs(instance)
        except OSError as error:  # the run itself may need nothing of that folder
            plan_context.log.warning(f"{one_line(error)}; if this run is killed, terminate it in Dagster's UI")
        with _hangup_interrupts() as was_hung_up:
            try:
                yield from self._inner.execute(plan_context, execution_plan)
            except (KeyboardInterrupt, DagsterExecutionInterruptedError):
                # A signal to a run of the command line is a person's. To others a request is recorded before.
                if GRPC_INFO_TAG not in run.tags and not was_hung_up():
                    instance.report_run_canceling(run, "stopped by a signal")
                raise
            finally:
                if was_hung_up():
                    instance.report_run_canceling(run, "the terminal that this run was started from was closed")


@contextmanager
def _hangup_interrupts() -> Iterator[Callable[[], bool]]:
    """Makes SIGHUP do what SIGTERM does; yields a function that tells whether it came.

    Ignored signals stay ignored: ``nohup`` asks for that.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        yield received.is_set
        return

    def interrupt(*_: object) -> None:
        if not received.is_set():  # the shell and the kernel send one each
            received.set()
            signal.raise_signal(signal.SIGTERM)  # whose handler is another in a step than between steps

    before = signal.signal(signal.SIGHUP, interrupt)
    try:
        yield received.is_set
    finally:
        # A late second one must not end this process before it has recorded how the run ended.
        signal.signal(signal.SIGHUP, signal.SIG_IGN if received.is_set() else before or signal.SIG_DFL)


def _interruptible(context: dg.InitExecutorContext) -> InterruptibleExecutor:
    create = dg.in_process_executor.executor_creation_fn
    assert create is not None, "Dagster's own executor has one"
    return InterruptibleExecutor(create(context))


in_process_executor: Final = dg.ExecutorDefinition(
    name=dg.in_process_executor.name,
    config_schema=dg.in_process_executor.config_schema,  # type: ignore[arg-type]  # the type that it hands out itself
    executor_creation_fn=_interruptible,
    description=dg.in_process_executor.description,
)

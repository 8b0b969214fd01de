"""How the steps of a run are executed: in the run's process, or each as a Kubernetes job.

The environment decides, so that dagster-k8s is needed only on a cluster.
"""

import os
from typing import Final

import dagster as dg

STEPS_VARIABLE: Final = "BOORU_EMBED_K8S_STEPS"
"""Names a YAML file with the config of `dagster_k8s.k8s_job_executor`; if set, steps are Kubernetes jobs."""


def pick_executor() -> dg.ExecutorDefinition:
    """The executor of all jobs of the code location."""
    file = os.environ.get(STEPS_VARIABLE)
    if not file:
        # Each stage uses all cores already, and one process per step would repeat every import.
        return dg.in_process_executor
    from dagster_k8s import k8s_job_executor

    executor: dg.ExecutorDefinition = k8s_job_executor.configured(dg.config_from_files([file]), name="k8s_steps")
    return executor

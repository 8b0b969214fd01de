"""How the steps of a run are executed: in the run's own process, or each as a Kubernetes job of its own.

The environment decides, so that nobody needs dagster-k8s who has no cluster.
"""

import os
from typing import Final

import dagster as dg

STEPS_VARIABLE: Final = "BOORU_EMBED_K8S_STEPS"
"""Names a YAML file, the config of `dagster_k8s.k8s_job_executor`: steps are then Kubernetes jobs."""


def pick_executor() -> dg.ExecutorDefinition:
    """The executor of all jobs of the code location."""
    file = os.environ.get(STEPS_VARIABLE)
    if not file:
        # The stages take all cores themselves, and a process of its own for each would import everything again.
        return dg.in_process_executor
    from dagster_k8s import k8s_job_executor

    executor: dg.ExecutorDefinition = k8s_job_executor.configured(dg.config_from_files([file]), name="k8s_steps")
    return executor

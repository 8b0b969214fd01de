"""Where steps run: in the run's process, or as Kubernetes jobs whose manifests are looked at and run as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from booru_embed_dagster.executor import STEPS_VARIABLE, in_process_executor, pick_executor
from tests.dagster.kubernetes_helpers import Kubernetes, running_kubernetes
from tests.dagster.project_helpers import REPOSITORY, Project

KUBERNETES = REPOSITORY / "deploy" / "k8s"
Built = tuple[Project, dg.ExecuteInProcessResult]


@pytest.mark.slow
def test_steps_share_the_process_of_the_run_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STEPS_VARIABLE, raising=False)
    assert pick_executor() is in_process_executor
    code = "import sys, booru_embed_dagster.definitions; print('dagster_k8s' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_k8s")
    monkeypatch.setenv(STEPS_VARIABLE, str(tmp_path / "steps.yaml"))
    with pytest.raises(dg.DagsterInvariantViolationError, match=r"steps\.yaml"):
        pick_executor()


def configure(project: Project, cluster: Kubernetes) -> dict[str, str]:
    """The environment of a run on `cluster`: the instance as the chart makes it of values.yaml, and steps.yaml.

    What is added to both files is how a process that is no pod reaches a cluster.
    """
    pytest.importorskip("dagster_k8s")
    from dagster_k8s.models import k8s_snake_case_dict
    from kubernetes import client

    outside = {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig), "job_namespace": "here"}
    values = yaml.safe_load((KUBERNETES / "values.yaml").read_text(encoding="utf-8"))
    chosen = values["runLauncher"]["config"]["k8sRunLauncher"]
    models = {"container": client.V1Container, "podSpec": client.V1PodSpec, "jobSpec": client.V1JobSpec}
    names = {"container": "container_config", "podSpec": "pod_spec_config", "jobSpec": "job_spec_config"}
    launcher = {
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": "/opt/dagster/dagster_home",
        "postgres_password_secret": values["global"]["postgresqlSecretName"],
        "image_pull_policy": chosen["imagePullPolicy"],
        "run_k8s_config": {
            names[part]: k8s_snake_case_dict(model, chosen["runK8sConfig"][f"{part}Config"])
            for part, model in models.items()
        },
    }
    environment = project.environment()
    section = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher | outside}
    with Path(environment["DAGSTER_HOME"], "dagster.yaml").open("a", encoding="utf-8") as instance:
        instance.write("\n" + yaml.safe_dump({"run_launcher": section}))
    steps = yaml.safe_load((KUBERNETES / "steps.yaml").read_text(encoding="utf-8"))
    file = project.folder / "steps.yaml"
    file.write_text(yaml.safe_dump(steps | outside | {"job_image": "registry.example/booru-embed:0.1.0"}))
    return environment | {STEPS_VARIABLE: str(file), "NO_PROXY": "127.0.0.1"}


@pytest.mark.slow
def test_steps_are_kubernetes_jobs_and_that_of_the_checkpoint_has_a_gpu(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(num_epochs=2)
    before = project.warehouse.current("checkpoint").version
    with running_kubernetes(tmp_path) as cluster:
        environment = configure(project, cluster)
        cluster.environment = environment
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "booru_embed_dagster.definitions"]
        done = subprocess.run(
            [*command, "--select", "vocab_cost,checkpoint"],
            env={**os.environ, **environment},
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        logs = "\n".join(file.read_text(errors="replace")[-2000:] for file in tmp_path.glob("*.log"))
        assert done.returncode == 0, done.stderr[-3000:] + logs
        data_stage, training = cluster.of_step("vocab_cost"), cluster.of_step("checkpoint")
    assert project.warehouse.current("checkpoint").version != before

    pod = data_stage["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/booru-embed:0.1.0"
    assert container["resources"] == {"requests": {"cpu": "2", "memory": "4Gi"}, "limits": {"memory": "8Gi"}}
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (1000, 1000)
    assert "tolerations" not in pod

    pod = training["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "1"}
    assert container["resources"]["requests"] == {"cpu": "8", "memory": "32Gi"}
    assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (1000, 1000)
    assert pod["nodeSelector"] == {"booru-embed/pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["terminationGracePeriodSeconds"] == 120
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in pod["volumes"]
    assert training["spec"]["ttlSecondsAfterFinished"] == 86400

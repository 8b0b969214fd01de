"""Where steps run: in the run's process, with real signals, or as Kubernetes jobs, whose manifests run as processes."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._daemon.monitoring import execute_run_monitoring_iteration

from booru_embed_dagster import executor
from booru_embed_dagster.automation.runs import PROCESS_GONE
from booru_embed_dagster.executor import STEPS_VARIABLE, in_process_executor, pick_executor
from tests.dagster.kubernetes_helpers import Kubernetes, running_kubernetes
from tests.dagster.project_helpers import FILES_INSTANCE, REPOSITORY, Project
from tests.dagster.sleepy_helpers import MAX_SECONDS, execute, start

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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an instance as `make run` uses it."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copy(FILES_INSTANCE, folder / "dagster.yaml")
    return folder


def last_run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    (run,) = instance.get_runs(limit=1)
    return run


@pytest.mark.parametrize(
    ("number", "tags", "status", "reason"),
    [
        (signal.SIGHUP, {}, "CANCELED", "the terminal that this run was started from was closed"),
        (signal.SIGTERM, {}, "CANCELED", "stopped by a signal"),
        (signal.SIGTERM, {GRPC_INFO_TAG: "{}"}, "FAILURE", ""),  # nobody asked for the end of a launched run
    ],
)
def test_a_signal_ends_a_run_and_a_closed_terminal_cancels_it(
    home: Path, tmp_path: Path, number: signal.Signals, tags: dict[str, str], status: str, reason: str
) -> None:
    process = start(home, tmp_path / "run", tags, ignores_hangup=False)
    assert process.pid is not None
    for _ in range(2):  # the shell and the kernel send one each
        os.kill(process.pid, number)
        if number != signal.SIGHUP:
            break
    process.join(MAX_SECONDS)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = last_run(instance)
        assert run.status.value == status
        assert reason in "\n".join(entry.message for entry in instance.all_logs(run.run_id))


def test_a_run_that_ignores_the_closed_terminal_goes_on(home: Path, tmp_path: Path) -> None:
    process = start(home, tmp_path / "run", ignores_hangup=True)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGHUP)
    (tmp_path / "run" / "go").touch()
    process.join(MAX_SECONDS)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert last_run(instance).status == dg.DagsterRunStatus.SUCCESS


@pytest.mark.parametrize("finder", ["the daemon", "the next run"])
def test_a_killed_run_is_ended_by_the_daemon_or_by_the_next_run(home: Path, tmp_path: Path, finder: str) -> None:
    process = start(home, tmp_path / "run", ignores_hangup=False)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = last_run(instance)
        look(instance)
        assert last_run(instance).status == dg.DagsterRunStatus.STARTED
        process.kill()
        process.join(MAX_SECONDS)
        if finder == "the daemon":
            look(instance)
        else:
            (tmp_path / "next").mkdir()
            (tmp_path / "next" / "go").touch()
            execute(home, tmp_path / "next", {}, ignores_hangup=False)
            assert last_run(instance).status == dg.DagsterRunStatus.SUCCESS
        found = instance.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status == dg.DagsterRunStatus.FAILURE
        assert PROCESS_GONE in "\n".join(entry.message for entry in instance.all_logs(run.run_id))


def look(instance: dg.DagsterInstance) -> None:
    """What the daemon does every few seconds."""
    workspace: Any = SimpleNamespace(instance=instance, create_request_context=lambda: None)
    assert instance.run_monitoring_enabled
    assert not any(execute_run_monitoring_iteration(workspace, logging.getLogger(__name__)))


def test_a_run_that_cannot_sign_goes_on_and_says_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "storage/processes")

    monkeypatch.setattr(executor, "sign_of_life", refuse)
    (tmp_path / "go").touch()
    execute(home, tmp_path, {}, ignores_hangup=False)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        run = last_run(instance)
        assert run.status == dg.DagsterRunStatus.SUCCESS
        assert "storage/processes" in "\n".join(entry.message for entry in instance.all_logs(run.run_id))

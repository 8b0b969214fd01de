"""What deploy/ says agrees with itself, with the code and with the pins; its commands are run where they can be."""

from __future__ import annotations

import importlib
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from booru_embed_core.settings import SETTINGS_VARIABLE, load_settings, section_version
from booru_embed_core.tokens.packed_file import PACKED_FILE
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE
from booru_embed_dagster.automation.alerts import DAGSTER_URL_VARIABLE, WEBHOOK_VARIABLE
from booru_embed_dagster.automation.sensors import AUTOMATION_VARIABLE
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.executor import STEPS_VARIABLE
from booru_embed_dagster.training.worker import Job
from booru_embed_dagster.warehouse.warehouse import Draft
from tests.dagster.project_helpers import REPOSITORY, Project

Built = tuple[Project, dg.ExecuteInProcessResult]
DEPLOY = REPOSITORY / "deploy"
PG_VARIABLES = set(re.findall(r"\{env: (\w+)\}", (DEPLOY / "dagster.postgres.yaml").read_text(encoding="utf-8")))


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


def manifests(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8")))


def dagster_version() -> str:
    pins = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^dagster==(.*)$", pins, re.MULTILINE)
    return str(version)


def test_every_container_of_dagster_reaches_the_database() -> None:
    services = read("compose.yaml")["services"]
    for name in ("code", "webserver", "daemon"):
        assert set(services[name]["environment"]) >= PG_VARIABLES
        assert services[name]["environment"]["PGHOST"] in services
    assert {"PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"} == PG_VARIABLES


def test_both_instances_end_dead_runs_and_the_containers_of_compose_see_each_other_s() -> None:
    database, files = (read(name) for name in ("dagster.postgres.yaml", "../.dagster_home/dagster.yaml"))
    assert {**files, "storage": database["storage"]} == database
    launcher = database["run_launcher"]
    assert issubclass(getattr(importlib.import_module(launcher["module"]), launcher["class"]), dg.DefaultRunLauncher)
    containers = [read("compose.yaml")["services"][name] for name in ("code", "webserver", "daemon")]
    assert len({container["hostname"] for container in containers}) == 1
    assert all("logs:/opt/dagster/home/storage" in container["volumes"] for container in containers)


def test_the_workspace_leads_to_the_code_location_of_compose() -> None:
    (location,) = read("workspace.yaml")["load_from"]
    services = read("compose.yaml")["services"]
    command = services[location["grpc_server"]["host"]]["command"].split()
    assert command[command.index("--port") + 1] == str(location["grpc_server"]["port"])
    assert command[command.index("--module-name") + 1] == "booru_embed_dagster.definitions"
    assert set(read("compose.gpu.yaml")["services"]) == {location["grpc_server"]["host"]}
    local = yaml.safe_load((REPOSITORY / "workspace.yaml").read_text(encoding="utf-8"))["load_from"]
    assert local[0]["python_module"]["location_name"] == location["grpc_server"]["location_name"]


def test_the_image_holds_what_it_copies_and_all_that_compose_mounts() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]]
    assert len(copied) == 8
    for name in copied:
        assert (REPOSITORY / name).exists()
        assert f"!{name}" in ignored
    extras = re.search(r"'\.\[(.*)\]'", text)
    assert extras is not None
    known = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    assert {"dag", "postgres", "k8s"} == set(extras.group(1).split(",")) <= set(known)


def test_the_chart_is_that_of_the_pinned_dagster() -> None:
    for file in (DEPLOY / "k8s" / "values.yaml", REPOSITORY / "docs" / "guides" / "deploy.md"):
        assert set(re.findall(r"--version (\S+)", file.read_text(encoding="utf-8"))) == {dagster_version()}


def test_the_cluster_mounts_and_names_what_the_code_reads() -> None:
    (deployment,) = read("k8s/values.yaml")["dagster-user-deployments"]["deployments"]
    environment = {variable["name"]: variable for variable in deployment["env"]}
    named = {SETTINGS_VARIABLE, AUTOMATION_VARIABLE, STEPS_VARIABLE, WEBHOOK_VARIABLE, DAGSTER_URL_VARIABLE}
    assert set(environment) == named
    mounts = {mount["name"]: mount["mountPath"] for mount in deployment["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in deployment["volumes"]}
    assert environment[STEPS_VARIABLE]["value"] == f"{mounts['steps']}/steps.yaml"
    assert environment[SETTINGS_VARIABLE]["value"].startswith(mounts["data"])
    (claim,) = manifests("k8s/volume.yaml")
    claims = {volume["persistentVolumeClaim"]["claimName"] for volume in deployment["volumes"][:1]}
    assert claims == {claim["metadata"]["name"]}
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_cluster_s_instance_is_that_of_the_file() -> None:
    instance, values = read("dagster.postgres.yaml"), read("k8s/values.yaml")
    assert values["postgresql"]["postgresqlScheme"] == instance["storage"]["postgres"]["postgres_db"]["scheme"]
    assert values["additionalInstanceConfig"]["concurrency"] == instance["concurrency"]
    assert values["telemetry"] == instance["telemetry"]
    assert values["pythonLogs"]["pythonLogLevel"] == instance["python_logs"]["python_log_level"]


def test_steps_on_the_gpu_pool_are_steps() -> None:
    steps = {node.name for job in defs.get_repository_def().get_all_jobs() for node in job.nodes}
    assert set(read("k8s/steps.yaml")["per_step_k8s_config"]) <= steps


@pytest.mark.slow
def test_manifests_are_what_kubernetes_models_take() -> None:
    pytest.importorskip("dagster_k8s")
    from dagster_k8s.models import k8s_model_from_dict, k8s_snake_case_dict
    from kubernetes import client

    kinds = {"Job": client.V1Job, "Service": client.V1Service, "PersistentVolumeClaim": client.V1PersistentVolumeClaim}
    seen = set()
    for name in ("k8s/volume.yaml", "k8s/torchrun.yaml"):
        for manifest in manifests(name):
            model = kinds[manifest["kind"]]
            k8s_model_from_dict(model, k8s_snake_case_dict(model, manifest))
            seen.add(manifest["kind"])
    assert seen == set(kinds)
    launcher = read("k8s/values.yaml")["runLauncher"]["config"]["k8sRunLauncher"]["runK8sConfig"]
    models = {
        "containerConfig": client.V1Container,
        "podSpecConfig": client.V1PodSpec,
        "jobSpecConfig": client.V1JobSpec,
    }
    assert set(launcher) == set(models)
    for section, model in models.items():
        assert k8s_snake_case_dict(model, launcher[section])


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_two_nodes_train_with_the_command_of_the_manifest_and_dagster_publishes_it(
    built: Built, tmp_path: Path
) -> None:
    """Both nodes are this machine, with one rank each."""
    project = built[0].copy_to(tmp_path / "copy")
    project.set(num_epochs=1)
    settings, warehouse = load_settings(project.settings_file), project.warehouse
    packed, vocab = warehouse.current("packed_tokens"), warehouse.current("vocab")
    inputs = {product.asset: product.version for product in (packed, vocab)}
    inputs |= {f"settings/{name}": section_version(getattr(settings, name)) for name in ("model", "training")}
    job = Job(
        packed_path=packed.path / PACKED_FILE,
        vocab_dir=vocab.path,
        work_dir=warehouse.work_folder("checkpoint", Draft(tmp_path, inputs).inputs_key),
        out_dir=tmp_path / "out",
        model=settings.model,
        training=settings.training,
    )
    job.out_dir.mkdir()
    (tmp_path / "job.json").write_text(job.model_dump_json(exclude_none=True), encoding="utf-8")
    _, manifest = manifests("k8s/torchrun.yaml")
    spec = manifest["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert f"--nnodes={spec['completions']}" in container["args"]
    assert spec["completions"] == spec["parallelism"] == 2
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    here = {"--master-addr": "127.0.0.1", "--master-port": str(port), "--nproc-per-node": "1"}
    arguments = [_with_value(argument, here) for argument in container["args"][:-1]]
    nodes = [
        subprocess.Popen(
            [
                sys.executable,
                *container["command"][1:],
                *(argument.replace("$(NODE_RANK)", str(node)) for argument in arguments),
                str(tmp_path / "job.json"),
            ],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for node in range(spec["completions"])
    ]
    errors = [node.communicate()[1] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(errors)
    # Two ranks and one process end in other bits: Dagster has trained no step, and taken what the ranks left.
    assert project.materialize("checkpoint").success
    made = (warehouse.current("checkpoint").path / WEIGHTS_FILE).read_bytes()
    assert made == (job.out_dir / WEIGHTS_FILE).read_bytes()


def _with_value(argument: str, values: dict[str, str]) -> str:
    name, _, value = argument.partition("=")
    return f"{name}={values.get(name, value)}" if value else argument

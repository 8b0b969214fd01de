"""A tiny project: some hundred real posts, its own settings, warehouse and Dagster instance."""

from __future__ import annotations

import csv
import gzip
import itertools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pytest

from booru_embed_core.settings import SETTINGS_VARIABLE
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.warehouse.warehouse import Warehouse

REPOSITORY = Path(__file__).parents[2]
SAMPLE = REPOSITORY / "data" / "sample" / "danbooru2017_sfw_posts.csv.gz"
FILES_INSTANCE = REPOSITORY / ".dagster_home" / "dagster.yaml"
POSTGRES_INSTANCE = REPOSITORY / "deploy" / "dagster.postgres.yaml"
NUM_POSTS = 400
SETTINGS = """
[warehouse]
path = "warehouse"
keep_versions = 3
[duckdb]
threads = 1
memory_limit = "500MB"
[posts]
export = ["export/*.csv"]
[vocab]
keep_percentile = {keep_percentile}
min_count = 2
[tokens]
validation_share = 0.1
test_share = 0.2
[model]
trunk = "{trunk}"
width = 32
num_layers = 1
num_heads = 2
ffn_width = 64
embedding_dim = 16
matryoshka_dims = [8]
dropout = 0.0
[training]
num_epochs = {num_epochs}
num_processes = {num_processes}
batch_posts = 16
learning_rate = 0.02
initial_vectors = "{initial_vectors}"
precision = "fp32"
device = "cpu"
[evaluation]
baselines = ["popularity", "ease"]
ease_lambdas = [100.0]
"""


@dataclass(frozen=True)
class Project:
    """A folder with settings.toml, export/ and, once something was materialized, warehouse/.

    `database` is the environment that leads to the PostgreSQL database of its Dagster instance; without one that
    instance is in files.
    """

    folder: Path
    database: Mapping[str, str] = field(default_factory=dict)

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.toml"

    @property
    def export_file(self) -> Path:
        return self.folder / "export" / "posts.csv"

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.folder / "warehouse")

    def set(
        self,
        *,
        keep_percentile: float = 95,
        num_epochs: int = 1,
        trunk: str = "attention",
        num_processes: int = 1,
        initial_vectors: str = "ppmi_svd",  # "random": a process that trains imports no sklearn, which takes a second
    ) -> None:
        text = SETTINGS.format(
            keep_percentile=keep_percentile,
            num_epochs=num_epochs,
            trunk=trunk,
            num_processes=num_processes,
            initial_vectors=initial_vectors,
        )
        self.settings_file.write_text(text, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """What a Dagster process needs to work on this project and nothing else."""
        home = self.folder / "dagster_home"
        home.mkdir(exist_ok=True)
        shutil.copy(POSTGRES_INSTANCE if self.database else FILES_INSTANCE, home / "dagster.yaml")
        return {
            **self.database,
            SETTINGS_VARIABLE: str(self.settings_file),
            "DAGSTER_HOME": str(home),
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
        }

    def instance(self) -> dg.DagsterInstance:
        """The Dagster instance that a process with that environment uses; to be closed."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.database.items():
                patch.setenv(name, value)
            return dg.DagsterInstance.from_config(self.environment()["DAGSTER_HOME"])

    def copy_to(self, folder: Path) -> Project:
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def materialize(self, selection: str, instance: dg.DagsterInstance | None = None) -> dg.ExecuteInProcessResult:
        """What `dagster asset materialize --select` runs, in this process; a failed run is returned, not raised."""
        keys = dg.AssetSelection.from_coercible(selection.split(",")).resolve(defs.get_repository_def().asset_graph)
        with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as ephemeral:
            patch.setenv(SETTINGS_VARIABLE, str(self.settings_file))
            patch.setenv("OMP_NUM_THREADS", "1")
            return defs.resolve_implicit_global_asset_job_def().execute_in_process(
                asset_selection=sorted(keys), instance=instance or ephemeral, raise_on_error=False
            )


def versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """The data version of each asset that `result` materialized."""
    events = [event.step_materialization_data.materialization for event in result.get_asset_materialization_events()]
    return {event.asset_key.to_user_string(): (event.tags or {})["dagster/data_version"] for event in events}


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the one step that failed says."""
    (event,) = [event for event in result.get_step_failure_events() if event.step_failure_data.user_failure_data]
    return str(event.step_failure_data.user_failure_data.description)


def read_result(instance: dg.DagsterInstance, run_id: str) -> dg.ExecuteInProcessResult:
    """What the run `run_id` returned in the process that ran it, from the events in `instance`."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
    job = defs.resolve_implicit_global_asset_job_def()
    return dg.ExecuteInProcessResult(event_list=events, dagster_run=run, output_capture=None, job_def=job)


def make_project(folder: Path) -> Project:
    (folder / "export").mkdir(parents=True)
    made = Project(folder)
    made.set()
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as source:
        made.export_file.write_text("".join(itertools.islice(source, NUM_POSTS + 1)), encoding="utf-8")
    return made


def rows(project: Project) -> list[dict[str, str]]:
    """The export by Python's own reader."""
    with project.export_file.open(encoding="utf-8", newline="") as source:
        return list(csv.DictReader(source))

"""The job `sweep`: a table and a picture on the page of an asset that nothing else materializes."""

from __future__ import annotations

from collections.abc import Sequence

import dagster as dg
import pyarrow.parquet as pq
import pytest

from booru_embed_core.settings import SETTINGS_VARIABLE
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.jobs.percentile_sweep import PERCENTILE_SWEEP, SWEEP_FILE, SweepConfig
from tests.dagster.project_helpers import Project, failure

KEY = dg.AssetKey(PERCENTILE_SWEEP)


def launch(project: Project, percentiles: Sequence[float], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    config = {"ops": {"try_percentiles": {"config": {"percentiles": list(percentiles), "num_epochs": 1}}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SETTINGS_VARIABLE, str(project.settings_file))
        patch.setenv("OMP_NUM_THREADS", "1")
        job = defs.get_job_def("sweep")
        return job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)


@pytest.mark.slow
@pytest.mark.usefixtures("light")
def test_a_sweep_is_published_and_shown(project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert project.materialize("posts,tag_frequencies", instance).success
        result = launch(project, [60, 95], instance)
        assert result.success
        event = instance.get_latest_materialization_event(KEY)
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
    product = project.warehouse.current(PERCENTILE_SWEEP)
    rows = pq.read_table(product.path / SWEEP_FILE).to_pylist()
    assert [row["percentile"] for row in rows] == [60, 95]
    assert rows[0]["vocab_size"] < rows[1]["vocab_size"]
    assert all(0 < row["recall_half"] <= 1 and row["seconds_per_epoch"] > 0 for row in rows)
    assert metadata["path"].value == str(product.path)
    assert metadata["cheapest_good_percentile"].value in (60, 95)
    assert metadata["dagster/row_count"].value == 2
    assert "data:image/png" in str(metadata["plot"].value)
    assert (product.path / "percentile_sweep.png").is_file()
    assert list((project.warehouse.root / PERCENTILE_SWEEP / ".work").iterdir()) == []


def test_percentiles_that_are_none_are_refused_in_one_line(project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        for percentiles, said in (([0.0, 95.0, 101.0], "[0.0, 101.0]"), ([], "[]")):
            assert failure(launch(project, percentiles, instance)).startswith(f"percentiles {said}: give some")
        assert "materialize it first" in failure(launch(project, [95.0], instance))


def test_the_job_starts_without_config_and_nothing_else_starts_it() -> None:
    assert SweepConfig().percentiles == [80, 90, 95, 99, 99.5, 99.9]
    graph = defs.get_repository_def().asset_graph
    assert KEY not in dg.AssetSelection.from_coercible(['key:"*"']).resolve(graph)
    assert not graph.has(KEY)


def test_both_jobs_explain_themselves() -> None:
    for name in ("sweep", "prune"):
        assert defs.get_job_def(name).description

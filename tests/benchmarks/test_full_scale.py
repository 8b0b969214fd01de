"""The full-scale benchmark: which stages run, and what is written of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import full_scale
from benchmarks._full_scale import Place, Stage, measured
from benchmarks._full_scale_vectors import filtered_recall
from benchmarks._scale_tables import full_scale as full_scale_table
from booru_embed_core.search import vector_index
from booru_embed_core.search.vector_index import VectorIndex


def test_a_stage_that_has_figures_is_not_measured_again() -> None:
    every = list(full_scale.stages())
    assert full_scale.wanted([], {"posts": {}}, again=False) == every[1:]
    assert full_scale.wanted([], {"posts": {}}, again=True) == every
    assert full_scale.wanted(["vocab", "posts"], {}, again=False) == ["posts", "vocab"]
    with pytest.raises(SystemExit, match="no stage vocabb; choose from posts, "):
        full_scale.wanted(["vocabb"], {}, again=False)


def test_limits_and_earlier_figures_are_of_figures_that_a_stage_has() -> None:
    names = {"cpu_seconds", "peak_mb", "peak_mb_with_map", "disk_bytes", "rows_per_cpu_second", "p95_ms", "page_mb"}
    for stage in full_scale.stages().values():
        assert {*stage.limits, *stage.before} <= names, stage.name


def test_figures_of_a_stage_are_those_of_its_work(tmp_path: Path) -> None:
    made: list[str] = []

    def run(place: Place) -> dict[str, int]:
        assert made == ["prepared"]
        return {"rows": len(str(sum(range(10**6)))) - 12 + 500, "peak_mb": 7}

    place = Place(tmp_path / "settings.toml", tmp_path)
    figures = measured(Stage("tried", run, lambda _: made.append("prepared")), place)
    assert figures["rows"] == 500
    assert figures["peak_mb"] == 7
    assert figures["rows_per_cpu_second"] > 500
    assert measured(Stage("tried", lambda _: {}), place)["peak_mb"] > 50


def test_figures_are_added_in_the_order_of_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "full_scale.json"
    tried = {name: Stage(name, lambda _: {}, limits={"peak_mb": 9}) for name in ("one", "two")}
    monkeypatch.setattr(full_scale, "stages", lambda: tried)
    for name in ("two", "one", "two"):
        full_scale.add_result(name, {"cpu_seconds": 1.5, "peak_mb": 8}, file)
    found = json.loads(file.read_text(encoding="utf-8"))["stages"]
    assert list(found) == ["one", "two"]
    assert found["two"]["limits"] == {"peak_mb": 9}
    assert found["two"]["cpu_seconds"] == 1.5
    assert {"commit", "machine"} <= found["one"].keys()
    assert full_scale.read_results(file) == found


def test_the_table_has_the_figures_before_and_the_limits() -> None:
    stage = {"cpu_seconds": 12.34, "peak_mb": 1234, "disk_bytes": 5e6, "commit": "abc"}
    table = full_scale_table(
        {"stages": {"an_index": {**stage, "limits": {"peak_mb": 2000}, "before": {"peak_mb": 6800}}}}
    )
    assert "| an index | 12.3 | 1,234 (before 6,800, limit 2,000) | 5 |  |  |" in table


def test_recall_among_masked_rows_is_that_of_comparing_them_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(tmp_path / "vectors.npy", vectors.astype(np.float16))
    index = VectorIndex.build(vectors.astype(np.float16))
    assert set(filtered_recall(index, tmp_path / "vectors.npy", vectors[:4]).values()) == {1.0}
    monkeypatch.setattr(vector_index, "_EXACT_ROWS", 0)  # the nearest list alone finds fewer
    found = filtered_recall(index, tmp_path / "vectors.npy", vectors[:4])
    assert found.keys() == {"recall_random", "recall_near", "recall_far", "recall_other", "recall_lowest"}
    assert 0 < found["recall_lowest"] < found["recall_near"] < 1

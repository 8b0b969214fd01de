"""The comparison of two builds' trainings asks each for the same seed, with its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import time_to_quality
from benchmarks._scale_tables import time_to_quality as table
from benchmarks.training_scale import write_corpus
from booru_embed_core.tokens.packed_file import PACKED_FILE
from tests.core.model_helpers import model_settings


def test_each_seed_is_trained_by_both_builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[bool, dict[str, Any]]] = []

    def by_build(build: Path, warehouse: Path, values: dict[str, Any]) -> dict[str, Any]:
        assert warehouse == tmp_path / "warehouse"
        asked.append((build == tmp_path, values))
        return {"cpu_seconds": 200.0 if build == tmp_path else 90.0}

    monkeypatch.setattr(time_to_quality, "_by_build", by_build)
    runs = time_to_quality.compared(tmp_path / "warehouse", tmp_path, [7, 8], {"num_epochs": 6}, {"decay": "cosine"})
    assert [run["ratio"] for run in runs] == [0.45, 0.45]
    assert asked == [
        (is_before, {"seed": seed, **({"decay": "cosine"} if is_before else {"num_epochs": 6})})
        for seed in (7, 8)
        for is_before in (True, False)
    ]


def test_without_an_earlier_build_only_this_one_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(time_to_quality, "_by_build", lambda build, warehouse, values: {"cpu_seconds": 9.0, **values})
    assert time_to_quality.compared(tmp_path, None, [7], {"num_epochs": 6}, {"decay": "cosine"}) == [
        {"now": {"cpu_seconds": 9.0, "num_epochs": 6, "seed": 7}}
    ]


def test_steps_of_both_settings_alternate(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", 40, num_posts=60)
    shape = model_settings(num_layers=1).model_dump()
    tiny = {"model": shape, "batch_posts": 8, "initial_vectors": "random"}
    before = {**tiny, "model": {**shape, "feed_forward_first": False}}
    inputs = (tmp_path / "corpus/vocab", tmp_path / "corpus" / PACKED_FILE)
    found = time_to_quality.alternated_steps(*inputs, (before, tiny), 3)
    assert found["num_steps"] == 3
    assert found["range"][0] <= found["ratio"] <= found["range"][1]
    assert found["before"] > 0 < found["now"]


def test_without_an_earlier_build_or_steps_it_says_what_to_name() -> None:
    with pytest.raises(SystemExit, match="--before"):
        time_to_quality.main([])


def test_its_table_has_a_column_a_seed() -> None:
    now = {"seed": 7, "num_epochs": 3, "cpu_seconds": 12.4, "recall@10": {"one, head": 0.25}, "R@1": 0.5}
    step = {"now": 0.25, "before": 0.5, "ratio": 0.5, "range": [0.4, 0.6], "num_steps": 9}
    result = {"time": "2031-02-03T04:05", "machine": {"cpu": "a processor"}, "step": step, "runs": [{"now": now}]}
    text = table(result)
    assert "| recall@10, one, head | 0.250 |\n| R@1 | 0.500 |" in text
    assert "|  | seed 7, 3 epochs |\n| --- | ---: |\n| CPU s | 12 |" in text
    assert "0.250 CPU s for 0.500: ratio 0.500 (0.400 … 0.600), medians of 9" in text

"""The comparison of two builds' trainings asks each for the same seed, with its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import time_to_quality


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


def test_without_an_earlier_build_it_says_what_to_name() -> None:
    with pytest.raises(SystemExit, match="--before"):
        time_to_quality.main([])

"""How the data path benchmark computes ratios, and that each way runs in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import data_path
from benchmarks.corpus import Corpus, write_corpus
from benchmarks.data_path import ALL, DAGSTER, FLOOR, STAGES, check_same_counts, of_build, rounds, summed


def seen(costs: dict[str, list[float]]) -> dict[str, list[dict[str, Any]]]:
    return {
        way: [{"cpu_seconds": cost, "peak_mb": 100 * len(way), "found": "rows 3"} for cost in of_way]
        for way, of_way in costs.items()
    }


def test_ratios_are_to_the_bare_parse_of_the_same_round() -> None:
    figures = seen({FLOOR: [1.0, 2.0, 4.0], "posts": [5.0, 8.0, 24.0]})
    assert summed(figures, ["posts"]) == {"cpu_seconds": 8.0, "ratio": 5.0, "ratios": [5.0, 4.0, 6.0], "peak_mb": 500}


def test_the_cost_through_dagster_is_over_the_library_of_the_same_round() -> None:
    costs = {FLOOR: [1.0, 1.0]} | {stage: [2.0, 4.0] for stage in STAGES} | {way: [3.0, 5.0] for way in DAGSTER}
    dagster = of_build(seen(costs))["dagster"]
    assert list(dagster) == [*STAGES, ALL]
    assert dagster["vocab"]["ratios"] == dagster[ALL]["ratios"] == [1.5, 1.25]
    assert dagster["vocab"]["over_library"] == 1.38
    assert dagster[ALL]["cpu_seconds"] == 16.0


def test_ways_that_count_differently_are_told() -> None:
    figures = seen({"a": [1.0], "b": [1.0]})
    check_same_counts(figures)
    figures["b"][0]["found"] = "rows 4"
    with pytest.raises(RuntimeError, match="counts should be equal"):
        check_same_counts(figures)


def test_a_way_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)no_such_way of .* failed:.*KeyError"):
        data_path.run("no_such_way", tmp_path, tmp_path)


@pytest.mark.slow
def test_each_stage_finds_the_same_alone_and_through_dagster(tmp_path: Path) -> None:
    write_corpus(Corpus(2_000), tmp_path / "corpus")
    (tmp_path / "work").mkdir()
    (figures,) = rounds([FLOOR, *STAGES, *DAGSTER], tmp_path / "corpus", tmp_path / "work", num=1)
    check_same_counts(figures)
    found = {way: figures[way][0]["found"] for way in figures}
    assert found["posts"] == found["dagster_posts"] == "rows 2000"
    assert found["packed_tokens"] == found["dagster_packed_tokens"]
    assert found["packed_tokens"].startswith("tokens ")
    assert all(figures[way][0]["cpu_seconds"] > 0 and figures[way][0]["peak_mb"] > 50 for way in figures)

"""The benchmarks page shows the figures of the result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import PAGE, TABLES, batches, data_path, embedding, rendered, search, serving, training


def test_the_page_is_what_the_results_give() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page) == page, "run python -m benchmarks.tables"


@pytest.mark.parametrize("name", TABLES)
def test_a_page_without_the_marks_of_a_table_is_an_error(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match=rf"found <!-- {name} --> … <!-- /{name} --> 0 times"):
        rendered(page.replace(f"<!-- {name} -->", ""))


def figure(rate: float, ratio: float, num: int = 500) -> dict[str, Any]:
    return {
        "records_per_cpu_second": rate,
        "tokens_per_cpu_second": rate * 40,
        "ours_over_it": ratio,
        "records_drawn_from": num,
    }


ABOUT = {
    "commit": "abc1234",
    "time": "2031-02-03T04:05:06+00:00",
    "machine": {"cpu": "a processor", "gpu": None},
    "load_average_before": 0.5,
}
RESULT: dict[str, Any] = {
    **ABOUT,
    "torch": "9.9",
    "packed_file": "random",
    "num_posts": 500,
    "num_tokens": 20_000,
    "rounds": 3,
    "versions": {"torch": "9.9", "loader": "1.2"},
    "not_installed": ["other_one"],
    "ours_over_fastest_peer": {"1024": 20.04, "4096": None},
    "ours_over_fastest_by_hand": {"1024": None, "4096": None},
    "figures": {
        "1024": {"ours": figure(4_560_000, 1.0), "peer": figure(227_500, 20.04, 100)},
        "4096": {"ours": figure(5_000_000, 1.0), "peer": figure(225_000, 123.4, 100)},
    },
}


def test_a_table_of_batches_has_a_row_a_way_and_says_where_it_ran() -> None:
    text = batches(RESULT)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "|  | 1,024 | 4,096 | booru-embed ÷ it, 1,024 | booru-embed ÷ it, 4,096 | M tokens/s |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| booru-embed | 4.56 | 5 | 1 | 1 | 200 |",
        "| peer (100 records) | 0.228 | 0.225 | 20 | 123 | 9.1 |",
    ]
    assert "The packed file is random; its 500 records have 40.0 tokens on average." in text
    assert "as shipped: 20.0 at 1,024. booru-embed ÷ the fastest handmade loader: none installed." in text
    assert "Commit `abc1234`, 2031-02-03, a processor, torch 9.9. Load average at the start: 0.5." in text
    assert text.endswith("0.5. loader 1.2. Not installed: other-one.")


def cost(seconds: float, ratios: list[float], peak_mb: int) -> dict[str, Any]:
    return {"cpu_seconds": seconds, "ratio": sorted(ratios)[1], "ratios": ratios, "peak_mb": peak_mb}


COSTS: dict[str, Any] = {
    **ABOUT,
    "num_posts": 5_000,
    "num_posts_of_part": 700,
    "rounds": 3,
    "not_installed": ["pandas"],
    "stages": {
        "bare_parse": cost(4.4, [1, 1, 1], 300),
        "posts": cost(17.64, [4.2, 3.95, 4.01], 1_234),
        "vocab": cost(0.5, [0.1, 0.1, 0.12], 400),
        "packed_tokens": cost(8.8, [2, 1.9, 2.1], 650),
        "all of it": cost(123.4, [9.4, 9, 9.1], 1_234),
    },
    "part": {
        "bare_parse": cost(0.7, [1, 1, 1], 200),
        "ours": cost(5.6, [8, 8, 10], 700),
        "gawk and a Python loop": cost(30, [40, 44, 45], 100),
    },
}


def test_a_table_of_the_data_path_has_the_cost_and_limit_of_a_stage() -> None:
    text = data_path(COSTS)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "|  | CPU s | ÷ bare parse | limit | range | peak MB | limit |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| bare parse | 4.4 | 1.00 |  | 1.00 … 1.00 | 300 |  |",
        "| posts | 17.6 | 4.01 | 5.5 | 3.95 … 4.20 | 1,234 | 1,500 |",
        "| vocab | 0.5 | 0.10 |  | 0.10 … 0.12 | 400 | 1,500 |",
        "| packed_tokens | 8.8 | 2.00 | 2.2 | 1.90 … 2.10 | 650 | 700 |",
        "| all of it | 123 | 9.10 | 9.5 | 9.00 … 9.40 | 1,234 | 1,500 |",
        "|  | CPU s | ÷ bare parse | ÷ booru-embed | peak MB |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| bare parse | 0.7 | 1.00 | 0.12 | 200 |",
        "| booru-embed | 5.6 | 8.00 | 1.00 | 700 |",
        "| gawk and a Python loop | 30 | 44.00 | 5.00 | 100 |",
    ]
    assert "5,000 posts, medians of 3 alternating rounds:" in text
    assert "The last file alone, 700 posts, in as many rounds:" in text
    assert text.endswith(
        "Commit `abc1234`, 2031-02-03, a processor. Load average at the start: 0.5. Not installed: pandas."
    )


def test_a_table_of_the_data_path_has_the_stages_through_dagster_and_of_the_build_before() -> None:
    dagster = {
        name: figures | {"over_library": 1.25, "ratios": [1.2, 1.3]}
        for name, figures in COSTS["stages"].items()
        if name != "bare_parse"
    }
    older = {name: figures | {"ratio": 9.87, "peak_mb": 4_321} for name, figures in COSTS["stages"].items()}
    before = {"commit": "fed4321", "stages": older, "dagster": older}
    rows = [line for line in data_path(COSTS | {"dagster": dagster}).splitlines() if line.startswith("| ")]
    assert rows[7:12] == [
        "|  | CPU s | ÷ library alone | limit | range | peak MB |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| posts | 17.6 | 1.25 |  | 1.20 … 1.30 | 1,234 |",
        "| vocab | 0.5 | 1.25 |  | 1.20 … 1.30 | 400 |",
        "| packed_tokens | 8.8 | 1.25 |  | 1.20 … 1.30 | 650 |",
    ]
    assert rows[12] == "| all of it | 123 | 1.25 | 1.5 | 1.20 … 1.30 | 1,234 |"
    text = data_path(COSTS | {"dagster": dagster, "before": before})
    assert "Alternated with the build before, `fed4321`:" in text
    assert "| packed_tokens | 9.87 | 2.00 | 9.87 | 2.00 | 4,321 | 650 |" in text
    assert data_path(COSTS | {"dagster": dagster, "before": None}) == data_path(COSTS | {"dagster": dagster})


EMBEDDED_FIGURES = {
    name: {
        "posts_per_cpu_second": rate,
        "posts_per_second": 2 * rate,
        "ours_over_it": 1_000 / rate,
        "ours_over_it_rounds": [900 / rate, 1_100 / rate],
        "ours_over_it_wall": 1.5,
    }
    for name, rate in (("ours, bfloat16", 1_000), ("sentence-transformers, float32", 250))
}
EMBEDDED: dict[str, Any] = {
    **ABOUT,
    "machine": {"cpu": "a processor", "cores": 2, "threads": 2, "gpu": None},
    "torch": "9.9",
    "device": "cpu",
    "rounds": 3,
    "versions": {"sentence-transformers": "7.1"},
    "not_installed": [],
    "figures": {
        "sample": {
            "captions": 2_000,
            "mean_tags": 25.04,
            "as_they_ship": EMBEDDED_FIGURES,
            "each_way": EMBEDDED_FIGURES,
        }
    },
}


def test_a_table_of_embedding_has_rates_and_ratios() -> None:
    text = embedding(EMBEDDED)
    rows = [
        "| booru-embed, bfloat16 | 1,000 | 1.00 | 0.90 … 1.10 | 2,000 | 1.50 |",
        "| sentence-transformers, float32 | 250 | 4.00 | 3.60 … 4.40 | 500 | 1.50 |",
    ]
    assert [line for line in text.splitlines() if line.startswith(("| booru-embed,", "| sent"))] == rows * 2
    assert "sample: 2,000 captions of 25.0 tags." in text
    assert text.endswith("a processor, torch 9.9. Load average at the start: 0.5. sentence-transformers 7.1.")
    alone = embedding({**EMBEDDED, "versions": {}, "not_installed": ["sentence-transformers"]})
    assert alone.endswith("0.5. Not installed: sentence-transformers.")


def test_a_table_of_training_has_every_way_and_the_target() -> None:
    def of_way(cpu_seconds: float, ratios: list[float]) -> dict[str, Any]:
        rate = round(9_000 / cpu_seconds)
        figures = {"cpu_seconds": cpu_seconds, "over_ours": ratios[1], "ratios": ratios}
        return {**figures, "tokens_per_cpu_second": rate, "tokens_per_second": rate // 2}

    ways = {"ours": of_way(0.5, [1, 1, 1]), "BertModel": of_way(2.25, [4.4, 4.5, 4.7])}
    result = {
        **ABOUT,
        "machine": EMBEDDED["machine"],
        "torch": "9.9",
        "rounds": 3,
        "posts": 250,
        "versions": {"transformers": "7.1"},
        "figures": {"log-normal": {"tokens": 9_000, "padding": 6.8, "target": 4, "ways": {"bfloat16": ways}}},
    }
    text = training(result)
    assert [line for line in text.splitlines() if line.startswith("| ")][2:] == [
        "| booru-embed, bfloat16 | 0.5 | 18,000 | 9,000 | 1.00 | 1.00 … 1.00 |",
        "| BertModel, bfloat16 | 2.25 | 4,000 | 2,000 | 4.50 | 4.40 … 4.70 |",
    ]
    assert text.startswith(
        "Lengths: log-normal. A step has 250 captions of 36.0 tags; padding takes 6.8 slots per token. Target: padded "
        "classes take 4 times as long as booru-embed."
    )
    assert text.endswith(
        "threads: 2. Load average at the start: 0.5. Medians of 3 alternating rounds. transformers 7.1."
    )
    assert training({**result, "versions": {}}).endswith("rounds. Not installed: transformers.")


def test_a_table_of_search_has_a_row_an_index() -> None:
    asked = {"recall": 0.98766, "milliseconds": 2.525, "fewest_found": 10}
    figures = {"build_seconds": 47.97, "bytes_per_post": 266.08, "breadth": 2048, "typed": asked, "posts": asked}
    result = {
        **ABOUT,
        "num_posts": 5_000,
        "dim": 128,
        "num_queries": 64,
        "versions": {"faiss-cpu": "1.2"},
        "figures": {"inverted lists": {**figures, "filtered": {"0.1": asked}}},
    }
    text = search(result)
    assert [line for line in text.splitlines() if line.startswith("| ")] == [
        "|  | CPU s to build | bytes per post | breadth | recall@10, tags | ms | recall@10, a post | ms "
        "| recall@10, tags, 10% pass | ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| inverted lists | 48 | 266 | 2,048 | 0.988 | 2.52 | 0.988 | 2.52 | 0.988 | 2.52 |",
    ]
    assert text.startswith("5,000 generated posts, vectors of 128 numbers, 64 queries of each kind;")
    assert text.endswith("a processor, one thread. Load average at the start: 0.5. faiss-cpu 1.2.")


def test_a_new_result_changes_the_page_between_the_marks_alone(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in TABLES:
        committed = PAGE.parents[2] / f"benchmarks/results/{name}.json"
        (tmp_path / f"{name}.json").write_bytes(committed.read_bytes())
    (tmp_path / "batches.json").write_text(json.dumps(RESULT), encoding="utf-8")
    found = rendered(page, tmp_path)
    assert " ".join(batches(RESULT).split()) in " ".join(found.split())
    assert all(len(line) < 120 for line in found.splitlines() if not line.startswith("|"))
    for mark in ("<!-- batches -->", "<!-- /batches -->"):
        assert found.count(mark) == 1
    assert found.partition("<!-- batches -->")[0] == page.partition("<!-- batches -->")[0]
    assert found.partition("<!-- /batches -->")[2] == page.partition("<!-- /batches -->")[2]
    assert rendered(found, tmp_path) == found


def test_a_table_of_serving_has_a_row_a_way_of_asking() -> None:
    figure = {
        "num_requests": 4000,
        "requests_per_second": 199.9,
        "p50_milliseconds": 8.1,
        "p95_milliseconds": 19.4,
        "p99_milliseconds": 30.2,
        "server_cpu_seconds": 20.0,
    }
    result = {
        "num_tags": 30_000,
        "caption_tags": 30,
        "num_clients": 32,
        "seconds": 20,
        "rate": 200,
        "load_average_before": 0.3,
        "commit": "abc",
        "time": "2026-11-23T00:00:00+00:00",
        "machine": {"cpu": "a CPU", "cores": 2, "threads": 2, "gpu": None},
        "figures": {"steady": figure, "flat out": figure},
    }
    text = serving(result)
    assert "| fixed rate, 200 per s | 200 | 8.1 | 19.4 | 30.2 | 5.0 |" in text
    assert "| as fast as possible | 200 |" in text
    assert "30,000 tags, captions of 30, 32 clients, 20 s each" in text

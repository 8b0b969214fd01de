"""Every call that writes may fail, or be the last one: nothing is lost, the reason is one line, the next run succeeds.

``BOORU_EMBED_FAULTS=5`` tries that many faults of each stage, ``BOORU_EMBED_FAULTS=all`` all of them: an hour of CPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import injector

NUM_FAULTS = os.environ.get("BOORU_EMBED_FAULTS", "1")
ROOT = Path(__file__).parents[2]
STAGES = (
    *(
        "posts",
        "tag_frequencies",
        "vocab_cost",
        "vocab",
        "packed_tokens",
        "caption_lengths",
        "checkpoint",
        "evaluation",
    ),
    *("tag_embeddings", "post_embeddings", "ingest", "ingest csv", "embed --file", "index", "export hub"),
    *("export sentence-transformers", "export onnx", "export parquet", "export word2vec", "export projector"),
)
FEWER = tuple(
    name
    for name in STAGES
    if not name.startswith(("export s", "export o", "export p", "export w", "ingest csv", "vocab_cost"))
)
"""Without those that write as another one does."""


@pytest.mark.slow
@pytest.mark.timeout(600 if NUM_FAULTS != "all" else 6 * 3600)
def test_no_failing_write_and_no_power_cut_loses_anything(tmp_path: Path) -> None:
    if missing := injector.missing():
        pytest.skip(missing)
    options = [] if NUM_FAULTS == "all" else ["--sample", NUM_FAULTS, "--stages", *FEWER]
    (tmp_path / "work").mkdir()
    run = subprocess.run(
        [sys.executable, "-m", "tests.faults.campaign", str(tmp_path / "work"), *options],
        env=injector.environment(injector.build(tmp_path)),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    lines: list[dict[str, Any]] = [json.loads(line) for line in run.stdout.splitlines()]
    assert [line for line in lines if line.get("problems")] == []
    stages = {line["totals"]: line for line in lines if "totals" in line}
    assert {line["power"] for line in lines if "power" in line} == stages.keys()
    assert stages.keys() == set(STAGES if NUM_FAULTS == "all" else FEWER)
    assert min(line["calls"] for line in stages.values()) > 10, "the injector sees what libraries write"
    assert {"failed", "killed"} <= {line["end"] for line in lines if "end" in line}

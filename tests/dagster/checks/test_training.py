"""Checks of the checkpoint that fail on purpose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from booru_embed_core.training.checkpoint_config import read_config, write_config
from booru_embed_dagster.checks import collapse
from booru_embed_dagster.checks import training as checks
from tests.dagster.checks.check_helpers import run_check
from tests.dagster.project_helpers import Project

WEIGHTS = "model.safetensors"


def edit_log(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "training_log.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    change(records[1])
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def no_loss(folder: Path) -> None:
    edit_log(folder, lambda record: record.update(loss=math.nan))


def no_validation_loss(folder: Path) -> None:
    edit_log(folder, lambda record: record.update(validation={"loss": math.inf}))


def no_log(folder: Path) -> None:
    (folder / "training_log.jsonl").write_text("")


def broken_weights(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    next(iter(weights.values())).reshape(-1)[0] = math.nan
    save_file(weights, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_loss, "non-finite loss at step"),
        (no_validation_loss, "non-finite loss at step"),
        (no_log, "is empty"),
        (broken_weights, "is not finite"),
    ],
)
def test_a_training_that_broke_down_fails(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    assert run_check(checks.training_stayed_finite, copy).passed
    damage(copy.warehouse.current("checkpoint").path)
    result = run_check(checks.training_stayed_finite, copy)
    assert not result.passed
    assert message in str(result.description)


def test_a_model_that_embeds_every_post_alike_fails(copy: Project) -> None:
    assert run_check(checks.post_embeddings_have_not_collapsed, copy).passed
    file = copy.warehouse.current("checkpoint").path / WEIGHTS
    with safe_open(file, framework="np") as weights:
        header = weights.metadata()
    tensors = load_file(file)
    tensors["bottleneck.weight"][1:] = 0  # one number of the embedding is left
    save_file(tensors, file, metadata=header)
    write_config(file.parent, read_config(file.parent), [WEIGHTS])
    result = run_check(checks.post_embeddings_have_not_collapsed, copy)
    assert not result.passed
    assert "the embeddings have collapsed: they use 1.0 of 16 directions" in str(result.description)


def cluster(spread: float) -> np.ndarray[Any, Any]:
    """Vectors around one direction, at `spread` times its length."""
    generator = np.random.default_rng(7)
    return np.eye(16)[0] + spread * generator.standard_normal((200, 16)) / 4


@pytest.mark.parametrize(
    ("vectors", "is_fine"),
    [
        (cluster(10), True),
        (cluster(0.1), False),
        (np.tile(np.eye(16)[:1], (200, 1)), False),
        (np.tile(np.concatenate([np.eye(16)[:1], -np.eye(16)[:1]]), (100, 1)), False),
        (np.tile(np.eye(16)[:3], (70, 1)), True),
    ],
    ids=["spread", "close together", "all the same", "on one axis", "on three axes"],
)
def test_what_counts_as_collapsed(vectors: np.ndarray[Any, Any], is_fine: bool) -> None:
    findings = collapse.isotropy_findings(Path("table"), vectors)
    assert (not findings.problems) == is_fine


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_an_embedding_that_is_no_direction_fails(value: float) -> None:
    vectors = np.eye(16)
    vectors[3] *= value if math.isfinite(value) else 1
    vectors[3, 3] = value
    (problem,) = collapse.isotropy_findings(Path("table"), vectors).problems
    assert problem.startswith("table: an embedding is not finite or is zero; ")

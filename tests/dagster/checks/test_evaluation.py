"""Checks of the evaluation and of the table of tags that fail on purpose."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.evaluation.effective_rank import isotropy
from booru_embed_core.evaluation.scorers import EMBEDDING_NAME
from booru_embed_core.training.checkpoint_config import CONFIG_FILE, read_config
from booru_embed_dagster.checks import evaluation as checks
from booru_embed_dagster.checks.collapse import MIN_EFFECTIVE_RANK
from booru_embed_dagster.warehouse.manifests import read_manifest
from tests.dagster.checks.check_helpers import run_check
from tests.dagster.project_helpers import Project

Tasks = dict[str, dict[str, Any]]


def edit(folder: Path, change: Callable[[Tasks], object]) -> None:
    file = folder / "evaluation.json"
    figures = json.loads(file.read_text())
    figures.pop("checksum", None)
    change(figures["tasks"])
    file.write_text(json.dumps(figures))


def ours(tasks: Tasks, hide: str) -> dict[str, float]:
    metrics: dict[str, float] = tasks[hide]["models"][EMBEDDING_NAME]
    return metrics


@pytest.mark.parametrize("recall", [0.0, math.nan, None])
def test_an_embedding_no_better_than_popularity_fails(copy: Project, recall: float | None) -> None:
    assert run_check(checks.embedding_beats_popularity, copy).passed

    def change(tasks: Tasks) -> None:
        if recall is None:
            del tasks["half"]["models"][EMBEDDING_NAME]
        else:
            ours(tasks, "half")["recall@10"] = recall

    edit(copy.warehouse.current("evaluation").path, change)
    result = run_check(checks.embedding_beats_popularity, copy)
    assert not result.passed
    assert str(result.description).startswith("half hidden: recall@10 ")
    assert str(result.description).endswith("; train longer or lower learning_rate")
    checkpoint = copy.warehouse.current("checkpoint").path
    config = read_config(checkpoint).model_copy(update={"num_steps": 30, "num_planned_steps": 400})
    (checkpoint / CONFIG_FILE).write_text(config.to_json())
    short = "train longer (so far 0.075 of 1 epochs, a practice run: 30 of 400 steps) or lower learning_rate"
    assert str(run_check(checks.embedding_beats_popularity, copy).description).endswith(f"; {short}")
    assert set(result.metadata) == {"one_hidden", "one_hidden_popularity", "half_hidden", "half_hidden_popularity"}


@pytest.mark.parametrize(("errors", "is_fine"), [(0.9, True), (1.1, False)])
def test_an_embedding_behind_ease_is_a_warning(copy: Project, errors: float, is_fine: bool) -> None:
    def change(tasks: Tasks) -> None:
        for hide, task in tasks.items():
            error = task["margins"][EMBEDDING_NAME]["recall@10"]["standard_error"]
            behind = errors * error if hide == "half" else 0.0
            ours(tasks, hide)["recall@10"] = task["models"]["ease"]["recall@10"] - behind

    edit(copy.warehouse.current("evaluation").path, change)
    result = run_check(checks.embedding_keeps_up_with_ease, copy)
    assert result.passed == is_fine
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert is_fine or str(result.description).startswith("half hidden: recall@10 ")


def test_without_ease_there_is_nothing_to_keep_up_with(copy: Project) -> None:
    edit(
        copy.warehouse.current("evaluation").path, lambda tasks: [task["models"].pop("ease") for task in tasks.values()]
    )
    result = run_check(checks.embedding_keeps_up_with_ease, copy)
    assert (result.passed, result.description) == (True, "EASE is not among [evaluation] baselines")


def evaluate_again(project: Project, recall: float, **inputs: str) -> None:
    """Publishes an evaluation with another recall of the embedding, made from these other versions."""
    product = project.warehouse.current("evaluation")
    with project.warehouse.new_version("evaluation", read_manifest(product.path).inputs | inputs) as draft:
        (draft.path / "evaluation.json").write_bytes((product.path / "evaluation.json").read_bytes())
        edit(draft.path, lambda tasks: ours(tasks, "one").update({"recall@10": recall}))


def test_an_embedding_worse_than_that_of_the_last_checkpoint_is_a_warning(copy: Project) -> None:
    first = run_check(checks.embedding_is_no_worse_than_before, copy)
    assert (first.passed, first.description) == (True, "no earlier checkpoint had the same evaluation")
    before = copy.warehouse.current("evaluation").version
    evaluate_again(copy, 0.99, checkpoint="another")
    better = run_check(checks.embedding_is_no_worse_than_before, copy)
    assert better.passed
    assert better.metadata["compared_with"].value == before
    evaluate_again(copy, 0.01, checkpoint="a third")
    worse = run_check(checks.embedding_is_no_worse_than_before, copy)
    assert not worse.passed
    assert worse.severity == dg.AssetCheckSeverity.WARN
    assert str(worse.description).startswith("one hidden: recall@10 0.010, the last checkpoint 0.990 (± ")


def test_only_evaluations_that_were_asked_the_same_are_compared(copy: Project) -> None:
    evaluate_again(copy, 0.99, checkpoint="another")
    evaluate_again(copy, 0.5, checkpoint="a third", packed_tokens="other tokens")
    unlike = run_check(checks.embedding_is_no_worse_than_before, copy)
    assert (unlike.passed, unlike.description) == (True, "no earlier checkpoint had the same evaluation")
    evaluate_again(copy, 0.98, checkpoint="a third", packed_tokens=copy.warehouse.current("packed_tokens").version)
    over_it = run_check(checks.embedding_is_no_worse_than_before, copy)
    assert over_it.metadata["one_hidden_other"].value == 0.99


def test_an_evaluation_of_the_same_checkpoint_is_not_compared_with_itself(copy: Project) -> None:
    evaluate_again(copy, 0.01)
    assert (
        run_check(checks.embedding_is_no_worse_than_before, copy).description
        == "no earlier checkpoint had the same evaluation"
    )


def change_vectors(project: Project, change: Callable[[Any], None]) -> None:
    file = project.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet"
    table = pq.read_table(file)
    vectors = np.array(table["vector"].to_pylist(), np.float32)
    change(vectors)
    flat = pa.array(vectors.reshape(-1), pa.float32())
    pq.write_table(table.set_column(3, "vector", pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])), file)


@pytest.mark.parametrize("value", [math.nan, 2.0])
def test_embeddings_that_are_no_unit_vectors_fail(copy: Project, value: float) -> None:
    assert run_check(checks.embeddings_are_unit_vectors, copy).passed

    def change(vectors: Any) -> None:
        vectors[3, 0] = value

    change_vectors(copy, change)
    result = run_check(checks.embeddings_are_unit_vectors, copy)
    assert not result.passed
    assert "a vector is not of unit length" in str(result.description)


def test_embeddings_that_are_all_alike_fail(copy: Project) -> None:
    assert run_check(checks.tag_embeddings_have_not_collapsed, copy).passed

    def change(vectors: Any) -> None:
        vectors[:] = vectors[0]

    change_vectors(copy, change)
    assert run_check(checks.embeddings_are_unit_vectors, copy).passed
    result = run_check(checks.tag_embeddings_have_not_collapsed, copy)
    assert not result.passed
    assert "have collapsed: they use 1.0 of 16 directions and their mean cosine is 1.00" in str(result.description)


def test_rare_tags_may_be_alike(copy: Project) -> None:
    """Those that a short training has not seen: with many tags, they are most of them."""
    file = copy.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet"
    most_used = np.argsort(-pq.read_table(file)["count"].to_numpy())[:3]
    changed: list[Any] = []

    def change(vectors: Any) -> None:
        vectors[:] = np.eye(vectors.shape[1])[0]
        vectors[most_used] = np.eye(vectors.shape[1])[1:4]
        changed.append(vectors.copy())

    change_vectors(copy, change)
    assert isotropy(changed[0]).effective_rank < MIN_EFFECTIVE_RANK
    assert run_check(checks.tag_embeddings_have_not_collapsed, copy).passed


def test_embeddings_of_other_tags_fail(copy: Project) -> None:
    file = copy.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    description = str(run_check(checks.embeddings_are_unit_vectors, copy).description)
    assert "its tags are not those of the vocab" in description

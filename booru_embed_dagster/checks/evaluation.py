"""Checks of the model's quality, beside baselines and the previous checkpoint, and of its tag embeddings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.evaluation.evaluation_file import EVALUATION_FILE, EvaluationFile, TaskFile, read_evaluation
from booru_embed_core.export.tag_vectors import TAG_EMBEDDINGS_FILE, read_vectors
from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint_config import read_config
from booru_embed_dagster.checks.base import Findings, blocking, warning
from booru_embed_dagster.checks.collapse import isotropy_findings
from booru_embed_dagster.resources import Pipeline
from booru_embed_dagster.warehouse.manifests import read_manifest
from booru_embed_dagster.warehouse.warehouse import Product

LENGTH_TOLERANCE: Final = 1e-3
_METRIC: Final = "recall@10"
_OURS: Final = "booru-embed"


@blocking("evaluation")
def embedding_beats_popularity(pipeline: Pipeline) -> Findings:
    """The embedding has a higher recall@10 of hidden tags than naming the most used tags."""
    (evaluation,) = pipeline.current("evaluation")
    problems: list[str] = []
    figures: dict[str, int | float | str] = {}
    longer = _train_longer(pipeline, evaluation)
    for hide, task in _tasks(evaluation).items():
        ours, floor = _recall(task, _OURS), _recall(task, "popularity", default=0.0)
        figures |= {f"{hide}_hidden": ours, f"{hide}_hidden_popularity": floor}
        if not ours > floor:  # nan is not better
            problems.append(
                f"{hide} hidden: recall@10 {ours:.3f}, popularity {floor:.3f}; {longer} or lower learning_rate"
            )
    return Findings(problems, figures)


@warning("evaluation")
def embedding_keeps_up_with_ease(pipeline: Pipeline) -> Findings:
    """The embedding has the recall@10 of EASE, the best simple model, to within a standard error.

    EASE has a number for every pair of tags; an embedding has about a hundred numbers.
    """
    (evaluation,) = pipeline.current("evaluation")
    others = {hide: _recall(task, "ease") for hide, task in _tasks(evaluation).items()}
    if all(map(math.isnan, others.values())):
        return Findings([], note="EASE is not among [evaluation] baselines")
    return _compared(evaluation, others, "EASE", f"{_train_longer(pipeline, evaluation)}, or with more embedding_dim")


@warning("evaluation")
def embedding_is_no_worse_than_before(pipeline: Pipeline) -> Findings:
    """The embedding has the recall@10 of the previous checkpoint, to within a standard error.

    It is compared with the latest evaluation of another checkpoint on the same packed tokens, that is with the same
    vocabulary and splits, in which the same tags of the same posts were hidden.
    """
    (evaluation,) = pipeline.current("evaluation")
    checkpoint, asked = _asked(evaluation)
    for before in pipeline.warehouse.earlier("evaluation"):
        other_checkpoint, asked_before = _asked(before)
        if other_checkpoint != checkpoint and asked_before == asked:
            others = {hide: _recall(task, _OURS) for hide, task in _tasks(before).items()}
            found = _compared(
                evaluation, others, "the last checkpoint", "see what has changed in [model] or [training]"
            )
            return Findings(found.problems, {**found.figures, "compared_with": before.version})
    return Findings([], note="no earlier checkpoint had the same evaluation")


@blocking("tag_embeddings")
def embeddings_are_unit_vectors(pipeline: Pipeline) -> Findings:
    """Every tag of the vocabulary has a finite embedding of unit length."""
    (embeddings,) = pipeline.current("tag_embeddings")
    vocab = Vocab.load(pipeline.made_from(embeddings, "vocab").path)
    file = embeddings.path / TAG_EMBEDDINGS_FILE
    problems = []
    if read_parquet(file, ["tag"])["tag"].to_pylist() != [
        vocab.tags[tag_index] for tag_index in np.flatnonzero(~vocab.is_unknown)
    ]:
        problems.append(f"{file}: its tags are not those of the vocab; materialize tag_embeddings again")
    lengths = np.linalg.norm(_vectors(file), axis=-1)
    if not np.all(np.abs(lengths - 1) < LENGTH_TOLERANCE):  # nan is not either
        problems.append(f"{file}: a vector is not of unit length; materialize checkpoint again")
    return Findings(problems, {"num_tags": len(lengths)})


@blocking("tag_embeddings")
def tag_embeddings_have_not_collapsed(pipeline: Pipeline) -> Findings:
    """The embeddings of tags point in many directions, so that neighbours are meaningful.

    A tag counts by its uses: rare ones, which a short training has not seen, are nearly alike and may be most tags.
    """
    (embeddings,) = pipeline.current("tag_embeddings")
    file = embeddings.path / TAG_EMBEDDINGS_FILE
    counts = read_parquet(file, ["count"])["count"].to_numpy()
    return isotropy_findings(file, _vectors(file), counts)


def _vectors(file: Path) -> NDArray[np.float32]:
    """float32 ``[num_tags, E]``."""
    return read_vectors(file, pq.read_metadata(file).num_rows)


def _train_longer(pipeline: Pipeline, evaluation: Product) -> str:
    """A remedy; after a practice run it says how much of the training was done."""
    config = read_config(pipeline.made_from(evaluation, "checkpoint").path)
    return f"train longer (so far {config.training_length})" if config.is_practice else "train longer"


def _tasks(evaluation: Product) -> dict[str, TaskFile]:
    return _content(evaluation).tasks


def _content(evaluation: Product) -> EvaluationFile:
    return read_evaluation(evaluation.path / EVALUATION_FILE)


def _recall(task: TaskFile, model: str, default: float = math.nan) -> float:
    return task.models.get(model, {}).get(_METRIC, default)


def _asked(evaluation: Product) -> tuple[str | None, list[object]]:
    """The version of the checkpoint, and the data that determine the hidden tags."""
    inputs, content = read_manifest(evaluation.path).inputs, _content(evaluation)
    sizes = [(hide, task.num_posts, task.num_hidden) for hide, task in content.tasks.items()]
    return inputs.get("checkpoint"), [inputs.get("packed_tokens"), content.seed, sizes]


def _compared(evaluation: Product, others: dict[str, float], name: str, remedy: str) -> Findings:
    """Compares the embedding with the recall of `others`, by task.

    It may be lower by the standard error of its difference to the best baseline, which the evaluation measures in pairs
    over the same posts: two more similar models differ by less. The error is 0 without baselines.
    """
    problems: list[str] = []
    figures: dict[str, float] = {}
    for hide, task in _tasks(evaluation).items():
        ours, other = _recall(task, _OURS), others.get(hide, math.nan)
        margin = task.margins.get(_OURS, {}).get(_METRIC)
        error = 0.0 if margin is None else margin.standard_error
        figures |= {f"{hide}_hidden": ours, f"{hide}_hidden_other": other, f"{hide}_standard_error": error}
        if ours < other - error:
            problems.append(f"{hide} hidden: recall@10 {ours:.3f}, {name} {other:.3f} (± {error:.3f}); {remedy}")
    return Findings(problems, figures)

"""Checks of the checkpoint: training stayed finite, and embeddings tell posts apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from safetensors.numpy import load_file

from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_dagster.checks.base import Findings, blocking
from booru_embed_dagster.checks.collapse import isotropy_findings
from booru_embed_dagster.resources import Pipeline

SAMPLED_POSTS: Final = 1024
_SEED: Final = 7


@blocking("checkpoint")
def training_stayed_finite(pipeline: Pipeline) -> Findings:
    """Every loss in the training log and every weight is finite."""
    from booru_embed_core.training.checkpoint_config import LOG_FILE, WEIGHTS_FILE, read_log

    (checkpoint,) = pipeline.current("checkpoint")
    records = read_log(checkpoint.path)
    problems = []
    if not records:
        problems.append(f"{checkpoint.path / LOG_FILE}: is empty; materialize checkpoint again")
    broken = [record["step"] for record in records if not _is_finite([record["loss"], record.get("validation", {})])]
    if broken:
        problems.append(f"{checkpoint.path / LOG_FILE}: non-finite loss at step {broken[0]}; lower learning_rate")
    weights = load_file(checkpoint.path / WEIGHTS_FILE)
    spoilt = [name for name, tensor in weights.items() if not np.isfinite(tensor).all()]
    if spoilt:
        problems.append(f"{checkpoint.path / WEIGHTS_FILE}: {spoilt[0]} is not finite; lower learning_rate")
    return Findings(problems, {"num_records": len(records), "num_tensors": len(weights)})


@blocking("checkpoint")
def post_embeddings_have_not_collapsed(pipeline: Pipeline) -> Findings:
    """The embeddings of a sample of posts are finite and point in many directions, so they tell posts apart."""
    from booru_embed_core.evaluation.scorers import BottleneckScorer, PooledStates
    from booru_embed_core.evaluation.tasks import sample_posts
    from booru_embed_core.tokens.cooccurrence import captions_from_packed
    from booru_embed_core.training.checkpoint import load_checkpoint
    from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE

    (checkpoint,) = pipeline.current("checkpoint")
    model, _, vocab = load_checkpoint(checkpoint.path)
    packed = PackedFile.open(pipeline.made_from(checkpoint, "packed_tokens").path / PACKED_FILE, vocab.hash)
    captions = captions_from_packed(packed, vocab, sample_posts(packed.post_id, SAMPLED_POSTS, _SEED))
    vectors = BottleneckScorer(PooledStates(model)).embed(captions)
    return isotropy_findings(checkpoint.path / WEIGHTS_FILE, vectors)


def _is_finite(values: object) -> bool:
    if isinstance(values, Mapping):
        values = list(values.values())
    return all(map(_is_finite, values)) if isinstance(values, list) else math.isfinite(float(str(values)))

"""Whether embeddings have collapsed, for the checks of posts' and of tags' embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.evaluation.effective_rank import isotropy
from booru_embed_core.vectors import unit_vectors
from booru_embed_dagster.checks.base import Findings

MIN_EFFECTIVE_RANK: Final = 1.25
"""Below an untrained model, which has 1.5 on the sample. After `make run` it is 22 for posts and 7 for tags by use."""


def isotropy_findings(file: Path, vectors: NDArray[np.floating], weights: NDArray[np.number] | None = None) -> Findings:
    """The findings about the embeddings `vectors` (float ``[n, E]``, of any length) in `file`, weighted as given."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        return Findings([f"{file}: an embedding is not finite or is zero; lower [training] learning_rate"])
    found = isotropy(unit_vectors(vectors), weights)
    problems = []
    if found.effective_rank < MIN_EFFECTIVE_RANK:
        problems.append(
            f"{file}: the embeddings have collapsed: they use {found.effective_rank:.1f} of {vectors.shape[1]} "
            f"directions and their mean cosine is {found.mean_cosine:.2f}; lower [training] learning_rate"
        )
    figures = {"effective_rank": found.effective_rank, "mean_cosine": found.mean_cosine, "num_vectors": len(vectors)}
    return Findings(problems, figures)

"""Our model as the evaluation sees it: visible captions in, scores of all tags or embeddings out."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.evaluation.tasks import Captions
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.inference import encode_sets

EMBEDDING_NAME: Final = "booru-embed"
HEAD_NAME: Final = "booru-embed-head"


class ModelScorer:
    """Scores from the bottleneck (the embedding that is handed out) or from the completion head before it.

    Rating and score are withheld: a baseline has none of them either.
    """

    def __init__(self, model: SetEncoder, reads: Literal["bottleneck", "head"], dim: int | None = None) -> None:
        self.model = model
        self.reads = reads
        self.dim = dim or model.config.settings.embedding_dim

    @property
    def name(self) -> str:
        """As the report calls it; a Matryoshka prefix says how long it is."""
        if self.reads == "head":
            return HEAD_NAME
        whole = self.dim == self.model.config.settings.embedding_dim
        return EMBEDDING_NAME if whole else f"{EMBEDDING_NAME}-{self.dim}d"

    @torch.inference_mode()
    def scores(self, visible: Captions) -> NDArray[np.float32]:
        """float32 ``[n, num_tags]`` of ``[n, num_tags]`` visible tags."""
        pooled = self._pooled(visible)
        if self.reads == "head":
            decoded = self.model.complete(pooled)
        else:
            embedding = self.model.embed(pooled)
            embedding[:, self.dim :] = 0
            decoded = self.model.decode(embedding)
        scores: NDArray[np.float32] = self.model.tag_scores(decoded).float().cpu().numpy()
        return scores

    @torch.inference_mode()
    def embed(self, visible: Captions) -> NDArray[np.float32]:
        """float32 ``[n, dim]``, not normalised."""
        embedding: NDArray[np.float32] = self.model.embed(self._pooled(visible))[:, : self.dim].cpu().numpy()
        return embedding

    def _pooled(self, visible: Captions) -> torch.Tensor:
        lengths = np.diff(visible.indptr).astype(np.int64)
        return encode_sets(self.model, visible.indices.astype(np.int64), lengths)


def model_scorers(model: SetEncoder) -> list[ModelScorer]:
    """The embedding, its completion head, and each Matryoshka prefix: what the report shows of a model."""
    prefixes = [ModelScorer(model, "bottleneck", dim) for dim in reversed(model.config.settings.matryoshka_dims)]
    return [ModelScorer(model, "bottleneck"), ModelScorer(model, "head"), *prefixes]

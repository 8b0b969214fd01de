"""A picture's rating and score as the network takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from booru_embed_core.schema import RATINGS
from booru_embed_core.tokens.score_bins import score_bins

if TYPE_CHECKING:
    from booru_embed_core.training.checkpoint_config import CheckpointConfig


def rating_and_score_bin(config: CheckpointConfig, rating: str | None, score: int | None) -> tuple[int, int]:
    """The rating_id and the score decile that the network of `config` takes, -1 for what is withheld.

    Raises:
        ValueError: no such rating, one that was never given in training, or a score without a rating.
    """
    if rating is not None and rating not in RATINGS:
        raise ValueError(f"rating {rating!r} is not one of {', '.join(RATINGS)}")
    if score is not None and rating is None:
        raise ValueError(f"score {score} needs a rating: scores are compared among posts of one rating")
    trained = config.trained_ratings
    if rating is not None and rating not in trained:
        # Its token still has its initial vector: it would move completions at random.
        raise ValueError(
            f"rating '{rating}' was never given in training, which knew {', '.join(trained) or 'none'}; leave "
            "rating and score out, or train on posts of it with [training] metadata_keep_share above 0"
        )
    rating_id = -1 if rating is None else RATINGS.index(rating)
    if score is None:
        return rating_id, -1
    return rating_id, int(score_bins(np.array(score), np.array(config.score_bin_edges[rating_id])))

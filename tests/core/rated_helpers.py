"""A generated corpus in which the rating decides some tags, and models trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.training.loop import train
from tests.core.export_helpers import csv_bytes, row, walk
from tests.core.model_helpers import model_settings, training_settings

SHARED = ("solo", "smile", "sky", "chair", "book", "lamp")
"""Tags that any post may have, whatever its rating."""
OF_RATING = {"g": ("school_bag", "ice_cream", "picnic", "kite"), "e": ("bedroom", "night", "wine", "mirror")}
"""Tags that only posts of this rating have."""


def rated_posts(num_posts: int, ratings_decide: bool, seed: int = 3) -> list[dict[str, object]]:
    """Posts rated g or e, with shared tags and with tags of one of `OF_RATING`: their own, or either by chance."""
    numbers = np.random.default_rng(seed)
    posts = []
    for post_id in range(1, num_posts + 1):
        rating, other = ("g", "e") if numbers.random() < 0.5 else ("e", "g")
        named = rating if ratings_decide or numbers.random() < 0.5 else other
        tags = [tag for tag in SHARED if numbers.random() < 0.4]
        tags += [tag for tag in OF_RATING[named] if numbers.random() < 0.5]
        posts.append(row(post_id, " ".join(tags), rating=rating, score=int(numbers.integers(0, 50))))
    return posts


def rated_embedder(base: Path, ratings_decide: bool, **training: object) -> BooruEmbedder:
    """A model of a few thousand parameters, trained below `base` on 400 such posts."""
    base.mkdir()
    export, out_dir = base / "posts.csv", base / "checkpoint"
    export.write_bytes(csv_bytes(rated_posts(400, ratings_decide)))
    walked = walk(export, base / "walked")
    out_dir.mkdir()
    settings = training_settings(**{"num_epochs": 5, **training})
    train(walked.packed_path, walked.vocab_dir, base / "work", out_dir, model_settings(num_layers=1), settings)
    return BooruEmbedder.load(out_dir, "cpu", "fp32")

"""Sets of tags as a network takes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.training.checkpoint_config import CONFIG_FILE


def some_sets(num: int, num_tags: int, seed: int = 1) -> TagSets:
    """Sets of any length from 0, a third of them with a rating and of these half with a score."""
    numbers = np.random.default_rng(seed)
    rows = [numbers.permutation(num_tags)[: numbers.integers(0, num_tags)] for _ in range(num)]
    ratings = np.where(numbers.random(num) < 0.3, numbers.integers(0, 4, num), -1)
    score_bins = np.where((ratings >= 0) & (numbers.random(num) < 0.5), numbers.integers(0, 10, num), -1)
    return TagSets(
        np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64),
        np.array([len(row) for row in rows], dtype=np.int64),
        ratings.astype(np.int64),
        score_bins.astype(np.int64),
    )


def some_weights(num: int, seed: int = 1) -> NDArray[np.float32]:
    """Weights between .1 and 3, a third of them 1."""
    numbers = np.random.default_rng(seed)
    return np.where(numbers.random(num) < 1 / 3, 1, numbers.uniform(0.1, 3, num)).astype(np.float32)


def unseal(checkpoint: Path) -> None:
    """Takes the checksums out of ``config.json``, as builds before 0.3 wrote it."""
    file = checkpoint / CONFIG_FILE
    values = json.loads(file.read_text(encoding="utf-8"))
    del values["files"], values["checksum"]
    file.write_text(json.dumps(values), encoding="utf-8")

"""An embedder of a small vocabulary as a site has it, whose network is a table of scores."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint_config import CheckpointConfig

GENERAL = (
    *("1girl", "solo", "2girls", "multiple_girls", "hat", "witch_hat", "cat", "cat_ears", "blonde_hair", "black_hair"),
    *("blue_hair", "multicolored_hair", "blue_eyes", "red_eyes", "green_eyes", "heterochromia", "standing", "sitting"),
    *("wariza", "long_hair", "very_long_hair", "short_hair", "smile", "open_mouth", "closed_mouth", ":d", "sword"),
)
TAGS_OF = {
    Category.GENERAL: GENERAL,
    Category.ARTIST: ("hakuartist", "ebifurya"),
    Category.COPYRIGHT: ("vocaloid",),
    Category.CHARACTER: ("hatsune_miku", "tracer_(overwatch)"),
    Category.META: ("highres", "commentary"),
}
TAGS = tuple(tag for names in TAGS_OF.values() for tag in names)
IMPLIED = {
    "witch_hat": ("hat",),
    "cat_ears": ("cat",),
    "very_long_hair": ("long_hair",),
    "wariza": ("sitting",),
    ":d": ("smile", "open_mouth"),
    "2girls": ("multiple_girls",),
    "hatsune_miku": ("vocaloid",),
}


class TableNetwork:
    """Scores of each tag, plus a little for each tag of the set, so that what is drawn changes what follows."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = np.array([scores.get(tag, 0.0) for tag in TAGS], dtype=np.float32)
        self.together = np.random.default_rng(5).normal(scale=0.3, size=(len(TAGS), len(TAGS))).astype(np.float32)
        self.passes: list[int] = []

    def tag_scores(self, sets: TagSets) -> np.ndarray:
        self.passes.append(len(sets.lengths))
        found = np.tile(self.scores, (len(sets.lengths), 1))
        rows = np.repeat(np.arange(len(sets.lengths)), sets.lengths)
        np.add.at(found, rows, self.together[sets.tags] * sets.tag_weights()[:, None])
        return found


def site_embedder(config: CheckpointConfig | None = None, scores: Mapping[str, float] | None = None) -> BooruEmbedder:
    """The embedder; by default all tags score alike, and no rating may be given."""
    known: Any = config or SimpleNamespace(trained_ratings=(), splits=SimpleNamespace(drop_implied=False))
    sizes = [len(names) for names in TAGS_OF.values()]
    pairs = [(TAGS.index(cause), TAGS.index(effect)) for cause, effects in IMPLIED.items() for effect in effects]
    causes, effects = np.array(pairs).T
    vocab = Vocab(
        TAGS,
        np.repeat(np.arange(len(CATEGORIES), dtype=np.uint8), sizes),
        np.arange(len(TAGS), 0, -1, dtype=np.int64),
        aliases={Category.GENERAL: {"nekomimi": "cat_ears", "longhair": "long_hair"}},
        implications=Implications.of_pairs(causes, effects, len(TAGS)),
    )
    network: Any = TableNetwork(scores or {})
    return BooruEmbedder(network, known, vocab)

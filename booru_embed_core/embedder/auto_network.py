"""The network of an embedder that does not know yet how much it will be asked: by numpy, then by torch if that pays.

Importing torch and loading a network takes as long as numpy takes for some thousand captions. What is asked in one call
is known before it, so a large call goes to torch at once. Small calls stay with numpy however many they are: torch
computes a single caption no faster.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import Network, TagSets

if TYPE_CHECKING:
    from booru_embed_core.settings import ModelSettings
    from booru_embed_core.training.checkpoint_config import CheckpointConfig

# Measured by benchmarks/embedding_backends.py on one core with AVX-512; they decide only which backend computes.
_LOAD_SECONDS: Final = 1.3
"""Importing torch and loading a network, CPU seconds."""
_LOAD_SECONDS_OF_TAG: Final = 2.5e-6
"""Packing a tag's vector to score it."""
_SAVED_BY_TOKEN: Final = 1.5e-11
"""What torch saves for each multiplication of a token by the trunk's weights."""
_SAVED_BY_SCORE: Final = 3e-10
"""What torch saves for each number of the tags' vectors that a call of the completion head reads."""
_SMALL_TOKENS: Final = 512
"""Calls of fewer tokens are as fast by numpy."""


class AutoNetwork:
    """A `Network` by numpy that becomes one by torch; threads may share an instance."""

    def __init__(self, light: Network, config: CheckpointConfig, heavy: Callable[[], Network]) -> None:
        """`light` computes by numpy, and `heavy` loads the same network by torch; `config` is that of both."""
        self._light, self._heavy, self._config = light, heavy, config
        self._current: Network = light
        self._lock = threading.Lock()
        self._saved = 0.0
        self._token_products = trunk_products(config.model)
        self._score_products = sum(config.category_sizes) * config.model.width

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the network by torch once there is one, and otherwise what may become one."""
        if self._current is not self._light:
            return _same, (self._current,)
        return type(self), (self._light, self._config, self._heavy)

    @property
    def current(self) -> Network:
        """The network that computes small calls now."""
        return self._current

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """As `Network.embeddings`."""
        return self._for(self._saved_by_tokens(sets)).embeddings(sets)

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        """As `Network.tag_scores`."""
        saved = self._saved_by_tokens(sets) + self._score_products * _SAVED_BY_SCORE
        return self._for(saved).tag_scores(sets)

    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """As `Network.token_states`."""
        return self._for(self._saved_by_tokens(sets)).token_states(sets)

    def expect(self, num_tokens: int) -> None:
        """Decides now for calls that follow with `num_tokens` in all, so that one network computes them."""
        with self._lock:
            saved = self._saved + num_tokens * self._token_products * _SAVED_BY_TOKEN
            if self._current is self._light and saved > _load_seconds(self._config):
                self._current = self._heavy()

    def _saved_by_tokens(self, sets: TagSets) -> float:
        num_tokens = len(sets.tags) + len(sets.lengths)
        return 0.0 if num_tokens < _SMALL_TOKENS else num_tokens * self._token_products * _SAVED_BY_TOKEN

    def _for(self, saved: float) -> Network:
        """The network for a call of which torch would save `saved` CPU seconds, beside those of the calls before."""
        if self._current is not self._light:
            return self._current
        with self._lock:
            self._saved += saved
            if self._current is self._light and self._saved > _load_seconds(self._config):
                self._current = self._heavy()
            return self._current


def trunk_products(settings: ModelSettings) -> int:
    """Multiplications of a token by the weights of the trunk and the pool."""
    width = settings.width
    block = 3 * width * settings.ffn_width + (4 * width * width if settings.trunk == "attention" else 0)
    return settings.num_layers * block + width * width


def pays_for(num_captions: int, config: CheckpointConfig) -> bool:
    """Whether torch, its import included, embeds `num_captions` of 15 tags sooner than numpy."""
    return 16 * num_captions * trunk_products(config.model) * _SAVED_BY_TOKEN > _load_seconds(config)


def _load_seconds(config: CheckpointConfig) -> float:
    return _LOAD_SECONDS + sum(config.category_sizes) * _LOAD_SECONDS_OF_TAG


def _same(network: Network) -> Network:
    return network

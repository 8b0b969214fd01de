"""booru-embed: a set of Danbooru tags as one low-dimensional vector.

`BooruEmbedder` is imported on first use: it loads numpy, and what computes comes with `BooruEmbedder.load`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder, Completion, Neighbour, Normalized

__all__ = ["BooruEmbedder", "Completion", "Neighbour", "Normalized"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from booru_embed_core.embedder import embedder

        return getattr(embedder, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

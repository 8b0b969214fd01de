"""booru-embed: a set of Danbooru tags as one low-dimensional vector.

The names below are imported on first use, so that ``import booru_embed_core`` loads no other package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.embedder.results import Completion, Neighbour, Normalized
    from booru_embed_core.search.post_search import PostSearch
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.tokens.packed_file import PackedFile

    __version__: str

__all__ = ["BooruEmbedder", "Completion", "Neighbour", "Normalized", "PackedFile", "PostSearch", "Vocab", "__version__"]

_MODULES: Final = {
    "BooruEmbedder": "embedder.embedder",
    **dict.fromkeys(("Completion", "Neighbour", "Normalized"), "embedder.results"),
    "PackedFile": "tokens.packed_file",
    "PostSearch": "search.post_search",
    "Vocab": "tags.vocab",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("booru-embed")
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Finds and loads the checkpoints that workflows name."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Final

from booru_embed_core import BooruEmbedder
from booru_embed_core.embedder.locate import find_checkpoint

VARIABLE: Final = "BOORU_EMBED_CHECKPOINT"
MODELS: Final = "booru_embed"
"""The folder of checkpoints in ComfyUI's folder ``models``."""


def resolved(name: str) -> Path:
    """The checkpoint's folder, with links resolved, so that a newer checkpoint is another one.

    Args:
        name: a folder, the name of one in ``models/booru_embed``, or ``owner/name`` in the Hub's local cache. Empty for
            the folder that `VARIABLE` names, else for the only one in ``models/booru_embed``.

    Raises:
        ValueError: there is none, or several.
    """
    name = name.strip() or os.environ.get(VARIABLE, "")
    models = _models()
    if not name:
        names = [folder.name for folder in models]
        if len(names) != 1:
            found = f"it has {', '.join(names)}; write one of them" if names else "it is empty; write a folder's path"
            raise ValueError(f"checkpoint is empty and models/{MODELS} has not exactly one: {found} into `checkpoint`")
        return find_checkpoint(models[0])
    return find_checkpoint(next((folder for folder in models if folder.name == name), Path(name).expanduser()))


def _models() -> list[Path]:
    """The folders in ``models/booru_embed``, by name; none outside ComfyUI."""
    try:
        from folder_paths import models_dir
    except ModuleNotFoundError:
        return []
    folder = Path(models_dir) / MODELS
    return sorted(one for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []


@lru_cache(maxsize=2)
def loaded(folder: Path) -> BooruEmbedder:
    """The embedder of `folder`, on the CPU: the GPU's memory is for the image model.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    return BooruEmbedder.load(folder, device="cpu", precision="fp32")

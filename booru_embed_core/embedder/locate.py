"""Finds a checkpoint by a folder, a warehouse, or a model name of the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from booru_embed_core.filesystem import followed
from booru_embed_core.training.checkpoint_config import CONFIG_FILE, CheckpointError

_HUB_NAME: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def find_checkpoint(name: Path | str) -> Path:
    """The checkpoint folder that `name` refers to, with links resolved: a later materialization does not move it.

    That is `name` itself if it holds a ``config.json``, else ``current`` in it (`name` is the asset's folder) or
    ``checkpoint/current`` (`name` is a warehouse). If there is no such folder, ``owner/name`` is looked up in the Hub's
    local cache; nothing is downloaded. A folder without a checkpoint is returned as it is, and reading it raises. A
    file ``current`` that names a version counts as the link to it.

    Raises:
        CheckpointError: a Hub name that is not in the cache, or huggingface_hub is not installed.
    """
    folder = Path(name)
    for candidate in map(followed, (folder, folder / "current", folder / "checkpoint" / "current")):
        if (candidate / CONFIG_FILE).is_file():
            return candidate.resolve()
    if folder.exists() or not _HUB_NAME.fullmatch(str(name)):
        return folder
    return _in_hub_cache(str(name))


def _in_hub_cache(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise CheckpointError(
            f"{name}: no such folder; {error.name} is needed to look it up as a name on the Hub: "
            "pip install 'booru-embed[hub]'"
        ) from None
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        raise CheckpointError(
            f"{name}: neither a folder nor in the Hub's local cache; give the folder of a checkpoint, or fetch it "
            f"first: hf download {name}"
        ) from None

"""Where a checkpoint lies that is named by a folder, a warehouse, or as the Hub names models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from booru_embed_core.training.checkpoint_config import CONFIG_FILE, CheckpointError

_HUB_NAME: Final = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def find_checkpoint(name: Path | str) -> Path:
    """The folder of the checkpoint that `name` means, by its own name: a later materialization does not move it.

    A folder with a ``config.json`` is it. Of a folder without, ``current`` is tried (the asset's folder in a warehouse)
    and ``checkpoint/current`` (the warehouse). ``owner/name``, where there is no such folder, is looked up in the Hub's
    local cache; nothing is ever downloaded. A folder that holds none is returned as it is: its reader says so.

    Raises:
        CheckpointError: a name as on the Hub that is not in the cache, or the package that knows the cache is missing.
    """
    folder = Path(name)
    for place in (folder, folder / "current", folder / "checkpoint" / "current"):
        if (place / CONFIG_FILE).is_file():
            return place.resolve()
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

"""Training states on disk: the last few of a training, each of them whole, and that in which it failed.

A state is everything that the next step depends on. What belongs here: its files. Not what is in it (``loop``).
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any, Final

import torch

from booru_embed_core.training.checkpoint_config import CheckpointError

FAILED_STATE_FILE: Final = "failed.pt"
_PATTERN: Final = "state-*.pt"
_REMEDY: Final = f"remove {_PATTERN} there to train from the start"


class DamagedStateError(CheckpointError):
    """A state file is not as it was written."""


class DamagedStateWarning(UserWarning):
    """A state file is not as it was written; the one before it is gone on from."""


def state_files(work_dir: Path) -> list[Path]:
    """The states in `work_dir` that a training may resume from, in the order of their steps."""
    return sorted(work_dir.glob(_PATTERN))


def save_state(work_dir: Path, state: dict[str, Any], num_kept: int = 1) -> Path:
    """The file that `state`, which has its ``step``, was saved in; the `num_kept` last ones stay, that one included."""
    file = work_dir / f"state-{state['step']:09}.pt"
    write_state(file, state)
    others = state_files(work_dir)
    older = others[: others.index(file)]
    # Those of later steps were damaged: this training had to go back.
    for surplus in {*others} - {file, *older[max(0, len(older) - num_kept + 1) :]}:
        surplus.unlink(missing_ok=True)
    return file


def write_state(file: Path, state: dict[str, Any]) -> None:
    """Writes `state` after its SHA-256, whole or not at all: a kill at any time leaves what was there before."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    partial = file.with_name("state.partial")  # always the same: a kill leaves one of them at most
    with partial.open("wb") as stream:
        stream.write(hashlib.sha256(content).digest())
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def read_state(file: Path) -> dict[str, Any]:
    """The state in `file`, loaded with ``weights_only``: a state file cannot execute anything.

    Raises:
        CheckpointError: it is damaged (`DamagedStateError`), or was never a training's state.
    """
    with file.open("rb") as stream:
        digest, content = stream.read(hashlib.sha256().digest_size), stream.read()
    # Asked here, since torch reads numbers with flipped bits without a complaint.
    if hashlib.sha256(content).digest() != digest:
        raise DamagedStateError(f"{file}: damaged training state: its SHA-256 is another; {_REMEDY}")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        _ = state["fingerprint"], state["step"]
    except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, LookupError, EOFError) as error:
        # Without torch's own words: they advise to load it all the same.
        raise CheckpointError(f"{file}: not a training state ({type(error).__name__}); {_REMEDY}") from None
    return state


def load_state(work_dir: Path, fingerprint: str) -> dict[str, Any] | None:
    """The last whole training state in `work_dir`, or None where there is none; a damaged one is warned of.

    Raises:
        CheckpointError: all are damaged, or the last whole one belongs to a training of other inputs or settings.
    """
    first_error: DamagedStateError | None = None
    files = state_files(work_dir)
    for file in reversed(files):
        try:
            state = read_state(file)
        except DamagedStateError as error:
            first_error = first_error or error
            continue
        if state["fingerprint"] != fingerprint:
            raise CheckpointError(f"{file}: belongs to a training of other inputs or settings; {_REMEDY}")
        if first_error:
            line = f"{files[-1]}: damaged training state; going on from {file.name}"
            warnings.warn(line, DamagedStateWarning, stacklevel=2)
        return state
    if first_error:
        raise first_error
    return None

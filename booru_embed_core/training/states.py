"""Training states on disk: the last few of a training, and the one before a failure.

A state is everything that the next step depends on. What belongs here: the file format. The content is in
``checkpoint_manager``.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

import torch

from booru_embed_core.errors import cannot_be_read, disk_errors, one_line
from booru_embed_core.filesystem import open_regular, removed_on_error, sync
from booru_embed_core.training.checkpoint_config import CheckpointError

FAILED_STATE_FILE: Final = "failed.pt"
PARTIAL_FILE: Final = "state.partial"
_DIGEST_BYTES: Final = 32
_PIECE_BYTES: Final = 1 << 23
"""Flushed at once: a disk that writes 1 MB a second shows progress every 8 seconds."""
_PATTERN: Final = "state-*.pt"
_REMEDY: Final = f"remove {_PATTERN} there to train from the start"


_UNREADABLE: Final = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch raises for files that are no states, and for sizes in them that no file has."""


class DamagedStateError(CheckpointError):
    """A state file was changed after it was written."""


class DamagedStateWarning(UserWarning):
    """A state file was changed after it was written; training resumes from the one before it."""


def state_files(work_dir: Path) -> list[Path]:
    """The states in `work_dir` that a training can resume from, in the order of their steps."""
    return sorted(work_dir.glob(_PATTERN))


def save_state(
    work_dir: Path, state: Mapping[str, Any], num_kept: int = 1, when_copied: Callable[[], None] = lambda: None
) -> Path:
    """Saves `state`, which has a ``step``, and returns its file; keeps the last `num_kept` states with this one.

    See `write_state` for `when_copied`.
    """
    file = work_dir / f"state-{state['step']:09}.pt"
    write_state(file, state, when_copied)
    others = state_files(work_dir)
    older = others[: others.index(file)]
    # States of later steps are damaged, since this training resumed from an earlier one.
    for surplus in {*others} - {file, *older[max(0, len(older) - num_kept + 1) :]}:
        surplus.unlink(missing_ok=True)
    return file


def write_state(file: Path, state: Mapping[str, Any], when_copied: Callable[[], None] = lambda: None) -> None:
    """Writes the SHA-256 of `state`, then `state`, atomically: a kill at any time leaves the old file intact.

    The unfinished file changes in size or time as long as the writing makes progress.

    Args:
        file: where.
        state: what; no copy of it is held in memory.
        when_copied: called when all of it is in the system's hands, so that it may change, and before it is on disk.
    """
    partial = file.with_name(PARTIAL_FILE)  # a constant name: a kill leaves at most one such file
    with removed_on_error(partial), disk_errors(file.parent), partial.open("w+b") as stream:
        stream.write(bytes(_DIGEST_BYTES))
        _copy(state, stream)
        when_copied()
        digest = _hashed_and_flushed(stream, partial)
        stream.seek(0)
        stream.write(digest)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)
    sync(file.parent)  # before older states are removed: a power cut leaves one of them


def _copy(state: Mapping[str, Any], stream: BinaryIO) -> None:
    """Writes `state` to `stream`. An error of the stream is raised as it is: torch would raise another."""
    errors: list[BaseException] = []

    class Stream(io.RawIOBase):
        def write(self, content: Any) -> int:
            if not errors:
                try:
                    stream.write(content)
                except BaseException as error:  # noqa: BLE001  raised below
                    errors.append(error)
            return len(content)

    with _without_crc():  # the SHA-256 covers all of it, and takes a fraction of the time
        torch.save(state, cast(IO[bytes], Stream()))
    if errors:
        raise errors[0]
    stream.flush()


@contextmanager
def _without_crc() -> Iterator[None]:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _hashed_and_flushed(stream: BinaryIO, file: Path) -> bytes:
    """The SHA-256 of what follows its place in `stream`, the open `file`, which is on disk afterwards."""
    content, num_bytes = hashlib.sha256(), os.fstat(stream.fileno()).st_size
    stream.seek(_DIGEST_BYTES)
    with _flusher(stream.fileno()) as flush:
        for start in range(0, num_bytes, _PIECE_BYTES):
            end = min(num_bytes, start + _PIECE_BYTES)
            content.update(stream.read(end - stream.tell()))
            flush(start, end - start)
            os.utime(file)
    return content.digest()


@contextmanager
def _flusher(descriptor: int) -> Iterator[Callable[[int, int], object]]:
    """A function that flushes so many bytes from an offset on to disk: a flush of a whole file shows no progress."""
    try:
        pages = mmap.mmap(descriptor, 0)
    except OSError:  # some network drives cannot
        yield lambda *_: os.fsync(descriptor)
        return
    with pages:
        yield pages.flush


def read_state(file: Path) -> dict[str, Any]:
    """The state in `file`, loaded with ``weights_only``, so a state file cannot execute code.

    Raises:
        CheckpointError: the file is damaged (`DamagedStateError`), or not a training state.
    """
    with _opened(file) as stream:
        digest = stream.read(_DIGEST_BYTES)
        # torch reads flipped bits without an error.
        if hashlib.file_digest(stream, "sha256").digest() != digest:
            raise DamagedStateError(f"{file}: damaged training state: wrong SHA-256; {_REMEDY}")
        stream.seek(_DIGEST_BYTES)
        try:
            state: dict[str, Any] = torch.load(stream, weights_only=True, map_location="cpu")
            _ = state["fingerprint"], state["step"]
        except _UNREADABLE as error:
            # Without torch's message, which suggests loading the file anyway.
            raise CheckpointError(f"{file}: not a training state ({type(error).__name__}); {_REMEDY}") from None
    return state


def _opened(file: Path) -> BufferedReader:
    try:
        return open_regular(file)
    except OSError as error:
        raise CheckpointError(f"{file}: {cannot_be_read(error, _REMEDY)}") from None


@contextmanager
def fitting(file: Path) -> Iterator[None]:
    """Raises a `CheckpointError` where the block finds that the state in `file` does not fit the training."""
    try:
        yield
    except _UNREADABLE as error:
        raise CheckpointError(f"{file}: not a state of this training ({one_line(error, 200)}); {_REMEDY}") from None


def load_state(work_dir: Path, fingerprint: str) -> dict[str, Any] | None:
    """The last undamaged training state in `work_dir`, or None; warns about damaged ones.

    Raises:
        CheckpointError: all states are damaged, or the last undamaged one has other inputs or settings.
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
            raise CheckpointError(f"{file}: belongs to a training with other inputs or settings; {_REMEDY}")
        if first_error:
            line = f"{files[-1]}: damaged training state; resuming from {file.name}"
            warnings.warn(line, DamagedStateWarning, stacklevel=2)
        return state
    if first_error:
        raise first_error
    return None

"""The training log as TensorBoard event files, if the extra ``tensorboard`` is installed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

EVENTS_FOLDER: Final = "tensorboard"
_FLUSH_SECONDS: Final = 10
_NOT_CURVES: Final = ("step", "num_steps")


class EventLog:
    """TensorBoard event files in `folder`, one curve per number in the log records. A context manager.

    Args:
        folder: the event folder of an earlier run of this training, or a new one.
        first_step: the step that training resumes from. TensorBoard drops later records, since those steps are
            repeated. With 0, the folder is removed first.
        is_written: False on every rank but the first, which alone writes.
    """

    def __init__(self, folder: Path, first_step: int, is_written: bool = True) -> None:
        self.folder = folder
        self._writer: Any = None
        if not is_written:
            return
        if not first_step:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return
        purge = first_step + 1 if first_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge, flush_secs=_FLUSH_SECONDS)

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds the numbers of `record`, which has a ``step``; nested numbers are named ``name/key``."""
        if self._writer is None:
            return
        for name, value in record.items():
            curves = (
                {f"{name}/{key}": number for key, number in value.items()} if isinstance(value, dict) else {name: value}
            )
            for curve, number in curves.items():
                if curve not in _NOT_CURVES:
                    self._writer.add_scalar(curve, number, record["step"])

    def copy_to(self, folder: Path) -> None:
        """Copies all event files to `folder`, which may hold some from an interrupted publication.

        TensorBoard puts time, host name and process id into file names, which should not be published. The copies are
        numbered in the order in which TensorBoard reads them.
        """
        if self._writer is None:
            return
        self._writer.flush()
        folder.mkdir(parents=True, exist_ok=True)
        for number, file in enumerate(sorted(self.folder.iterdir())):
            shutil.copyfile(file, folder / f"events.out.tfevents.{number:06}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

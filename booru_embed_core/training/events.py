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
    """Event files in `folder`: a curve by step of each number in the log's records; a context manager.

    Args:
        folder: of an earlier run of the same training, or new.
        first_step: the step that training resumes from. TensorBoard drops later records, which are written again.
            At 0 the folder is removed first.
        is_written: False on all ranks but the first: nothing is written.
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
        """Adds the numbers of `record`, which has a ``step``; nested ones are named ``part/name``."""
        if self._writer is None:
            return
        for name, value in record.items():
            curves = (
                {f"{name}/{part}": one for part, one in value.items()} if isinstance(value, dict) else {name: value}
            )
            for curve, number in curves.items():
                if curve not in _NOT_CURVES:
                    self._writer.add_scalar(curve, number, record["step"])

    def copy_to(self, folder: Path) -> None:
        """Copies all event files to `folder`, which may hold some of them from an interrupted publication.

        TensorBoard names a file by time, machine and process, which should not be published. The copies are numbered
        in the order in which TensorBoard reads them.
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

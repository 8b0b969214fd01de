"""What goes wrong, or takes long, in the training processes that a test starts: Python runs it when they start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.dagster.project_helpers import REPOSITORY

_SITE = """
import os, sys

if os.environ.get("RANK") in {ranks!r} and "booru_embed_dagster.training.worker" in sys.orig_argv:
    import socket
    import time
    from pathlib import Path

    from booru_embed_core.training import loop
    from booru_embed_core.training.step import NonFiniteLossError

    real, once = loop.compute_step, Path({once!r})

    def compute_step(run, batch):
        if {when} and not once.exists():
            {action}
        return real(run, batch)

    loop.compute_step = compute_step
"""
WAIT = "time.sleep(1)"


def ranks_of(num_processes: int) -> list[str | None]:
    """The values of RANK in the processes of a training that compute."""
    return [None] if num_processes == 1 else [str(rank) for rank in range(num_processes)]


def python_path(folder: Path, ranks: Sequence[str | None], when: str, action: str) -> str:
    """The PYTHONPATH of processes in which the ranks `ranks` do `action` before a step, `when` that is true.

    `folder` is new, and holds ``sitecustomize.py``. Code in `when` and `action` may use ``run`` and ``once``, a file
    that ends it when it exists.
    """
    folder.mkdir()
    code = _SITE.format(ranks=list(ranks), once=str(folder / "once"), when=when, action=action)
    (folder / "sitecustomize.py").write_text(code, encoding="utf-8")
    return os.pathsep.join([str(folder), str(REPOSITORY)])

"""The command line, run in this process or as a program, and its outcome."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer 0.25 imports what click 8.5 has deprecated
    from booru_embed_core.cli import main as cli

__all__ = ["RUN_MAIN", "Outcome", "Run", "cli", "program"]

RUN_MAIN = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()"]


def program(*arguments: object, stdout: int = subprocess.PIPE) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    return subprocess.Popen(
        [*RUN_MAIN, *map(str, arguments)], stdout=stdout, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout as one JSON value."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    def failed(self, code: int) -> str:
        """The one line on stderr of a run that failed with `code`."""
        assert (self.code, self.out) == (code, "")
        lines = self.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")


Run = Callable[..., Outcome]

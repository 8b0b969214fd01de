"""Faults of the machine as Dagster shows them: a `dagster.Failure` of one line instead of a stack trace.

Assets and ops get it by `resources.one_line_errors`, checks by their decorator, ticks by `one_line_ticks`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import dagster as dg

from booru_embed_core.errors import library_errors, one_line
from booru_embed_core.faults import machine_error
from booru_embed_core.settings import SettingsError, load_settings

OTHER_WAREHOUSE: Final = "set [warehouse] path to a folder on another disk; then materialize again"
_OTHER_HOME: Final = "point DAGSTER_HOME to a folder on another disk"

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def machine_failure(error: BaseException, warehouse: Path | None = None, less_memory: str = "") -> dg.Failure | None:
    """The failure of one line for a fault of the machine, or None if `error` is of another kind; it is not retried.

    Args:
        error: what ended an asset, a check, an op or a tick.
        warehouse: the folder to name where the error names none; by default that of the settings.
        less_memory: what lowers the need of memory.
    """
    if type(error).__module__.startswith(("sqlalchemy", "sqlite3")):  # Dagster's instance
        folder, elsewhere = Path(os.environ.get("DAGSTER_HOME") or tempfile.gettempdir()), _OTHER_HOME
    else:
        folder, elsewhere = warehouse or _warehouse(), OTHER_WAREHOUSE
    found = machine_error(error, folder, elsewhere, less_memory)
    return None if found is None else dg.Failure(description=one_line(found), allow_retries=False)


def one_line_ticks(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wraps the function of a sensor so that a fault of the machine fails its tick with one line."""

    @functools.wraps(function)
    def call(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **keywords)
        except library_errors() as error:
            failure = machine_failure(error)
            if failure is None:
                raise
            raise failure from None

    return call


def _warehouse() -> Path:
    with contextlib.suppress(SettingsError):
        return load_settings().warehouse_path
    return Path.cwd()

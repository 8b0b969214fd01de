"""The command ``booru-embed``: its subcommands, each imported when it is called, and how failures end.

Exit code 0 on success, 2 for wrong use, 1 for a failure, 130 after Ctrl-C, 143 after SIGTERM. All of these are one line
on stderr; ``--debug`` adds the traceback of a failure. ``--json`` prints one JSON value on stdout and nothing else.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, ClassVar, Final

import typer

from booru_embed_core.cli.extras import missing_package
from booru_embed_core.cli.interrupts import InterruptibleGroup, Stopped, StopSignals
from booru_embed_core.cli.shared import TagsCommand, UsageError, say
from booru_embed_core.cli.streams import prepare_streams, stream_error
from booru_embed_core.errors import library_errors, one_line
from booru_embed_core.faults import machine_error
from booru_embed_core.memory import bound_kept_shapes

_OUR_SIGNALS: Final = (
    *("ingest", "embed", "from-tagger", "complete", "fill", "similar", "evaluate", "inspect"),
    *("export", "index", "search", "duplicates"),
)
"""The commands that `StopSignals` ends; servers, and commands of other packages, end as they do themselves."""
_COMMANDS: Final = {
    "ingest": "ingest",
    "embed": "embed",
    "from-tagger": "from_tagger",
    "complete": "complete",
    "fill": "complete",
    "similar": "complete",
    "evaluate": "evaluate",
    "export": "export",
    "index": "search",
    "search": "search",
    "duplicates": "search",
    "serve": "serve",
    "mcp": "mcp",
    "inspect": "inspect",
}
"""The commands in the order of the help, each with its module of this folder; its function has the command's name."""
_FOR_ONE: Final = ("complete", "fill", "mcp")
"""Commands that compute a few captions at most, for which numpy need not start a thread for each core."""
_SHORT: Final = ("complete", "fill", "similar")
"""Commands that end before there is garbage to collect."""
_SOME_FILE: Final = Path("a file of this command")
"""Stands in a message for a file that an error does not name."""


class _Program(InterruptibleGroup):
    """All commands."""

    modules: ClassVar = {name: f"booru_embed_core.cli.{module}" for name, module in _COMMANDS.items()}
    kinds: ClassVar = dict.fromkeys(("complete", "fill", "similar", "search"), TagsCommand)


app = typer.Typer(
    name="booru-embed",
    cls=_Program,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,  # noqa: ARG001  see `main`
) -> None:
    """Embed a set of Danbooru tags as one low-dimensional vector."""
    if context.invoked_subcommand in _FOR_ONE:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if context.invoked_subcommand != "serve":  # which has bounds of its own
        bound_kept_shapes()


def main() -> None:
    """Runs the command line and exits with its code."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    is_debug = len(arguments) < len(sys.argv) - 1
    prepare_streams()
    is_short = arguments[:1] in [[command] for command in _SHORT] and gc.isenabled()
    if is_short:
        gc.disable()  # all that is loaded stays until the end: looking for what is free takes a twentieth of the time
    has_own_handlers = arguments[:1] not in [[command] for command in _OUR_SIGNALS]
    try:
        with nullcontext() if has_own_handlers else StopSignals() as stop:
            code = _run(arguments, is_debug, stop)
    finally:
        if is_short:
            gc.enable()
    sys.exit(code or 0)


def _run(arguments: list[str], is_debug: bool, stop: StopSignals | None) -> int | None:
    """The exit code of the command, None for success; failures are told."""
    try:
        code: int | None = app(arguments, prog_name=app.info.name, standalone_mode=False, obj=stop)
        sys.stdout.flush()
    except Stopped as kept:
        code = stop.code if stop else 130
        if str(kept) or (stop and stop.number):
            say(f"stopped; {kept}" if str(kept) or not stop else stop.line)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return int(error.exit_code)
        command = error.ctx.command_path if error.ctx else app.info.name
        say(f"error: {one_line(error.format_message())} See `{command} --help`")
        code = error.exit_code
    except typer.Abort:
        code = 130
    except ModuleNotFoundError as error:
        line = missing_package(error.name or "", arguments[0] if arguments else "")
        if is_debug or line is None:
            raise
        say(f"error: {line}")
        code = 1
    except library_errors(ValueError) as error:
        line = _line_of(error)
        if line is None or (is_debug and line):
            raise
        if line:
            say(f"error: {line}")
        code = 1
    return code


def _line_of(error: Exception) -> str | None:
    """What is said of `error`, if anything; None for one that is neither the core's nor a fault of the machine."""
    if isinstance(error, OSError) and (line := stream_error(error)) is not None:
        return line
    told = error if isinstance(error, ValueError) else machine_error(error, _SOME_FILE)
    return one_line(told or error) if told or isinstance(error, OSError) else None

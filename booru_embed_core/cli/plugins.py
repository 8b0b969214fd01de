"""Commands that other packages add to ``booru-embed``, by entry points of the group ``booru_embed.commands``.

They are looked for only where the command is not one of the core's, or all are listed: reading the metadata of all
installed packages takes as long as starting. An entry point names a function with the parameters of a typer command;
its module is loaded for its help, so it imports what is slow to load within the function.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    import click

GROUP: Final = "booru_embed.commands"


class PluggableGroup(TyperGroup):
    """A group of commands, and those that other packages add; a command of the group's own wins."""

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        return {one.name: one for one in sorted(entry_points(group=GROUP), key=lambda one: one.name)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the group's own commands, then those of the added ones."""
        own = super().list_commands(ctx)
        return [*own, *(name for name in self._added if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._added:
            return own
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(cmd_name)(self._added[cmd_name].load())
        return typer.main.get_command(app)

"""Commands that are imported when they are called: the core's, and those that other packages add.

Other packages add theirs to ``booru-embed`` by entry points of the group ``booru_embed.commands``. They are looked for
only where the command is not one of the core's, or all are listed: reading the metadata of all installed packages takes
as long as starting. An entry point names a function with the parameters of a typer command; its module is loaded for
its help, so it imports what is slow to load within the function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, ClassVar, Final

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    import click

GROUP: Final = "booru_embed.commands"


class PluggableGroup(TyperGroup):
    """A group of commands, and those that other packages add; a command of the group's own wins.

    Attributes:
        modules: the module of each command of the group's own. Its function is named as the command, with underscores;
            a group of commands is a `typer.Typer` there, whose name ends in ``_app``.
        kinds: the class of those that have one of their own.
    """

    modules: ClassVar[Mapping[str, str]] = {}
    kinds: ClassVar[Mapping[str, type[TyperCommand]]] = {}

    @cached_property
    def _added(self) -> dict[str, EntryPoint]:
        return {one.name: one for one in sorted(entry_points(group=GROUP), key=lambda one: one.name)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the group's own commands, then those of the added ones."""
        own = [*dict.fromkeys([*self.modules, *super().list_commands(ctx)])]
        return [*own, *(name for name in self._added if name not in own)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none."""
        if cmd_name not in self.commands:
            if cmd_name in self.modules:
                kind = self.kinds.get(cmd_name, TyperCommand)
                self.commands[cmd_name] = _imported(cmd_name, self.modules[cmd_name], kind)
            elif cmd_name in self._added:
                self.commands[cmd_name] = _command(cmd_name, self._added[cmd_name].load())
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As in typer, whose advice on a mistyped name knows those that are loaded."""
        if args and self.get_command(ctx, args[0]) is None:
            for name in self.list_commands(ctx):
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)


def _imported(name: str, module: str, kind: type[TyperCommand]) -> click.Command:
    found, function = import_module(module), name.replace("-", "_")
    group = getattr(found, f"{function}_app", None)
    if group is None:
        return _command(name, getattr(found, function), kind)
    command = typer.main.get_command(group)
    command.name = name
    return command


def _command(name: str, function: Callable[..., Any], kind: type[TyperCommand] = TyperCommand) -> click.Command:
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(name, cls=kind)(function)
    return typer.main.get_command(app)

"""``booru-embed build SELECTION``: shows what would run, why, and at what cost; asks; then runs ``dg launch``.

Loads nothing of Dagster before it is called, since the command line shows its help beside the core's commands.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from booru_embed_core.cli.shared import UsageError, print_table, say
from booru_embed_core.errors import first_line

if TYPE_CHECKING:
    import dagster as dg

    from booru_embed_dagster.guard.plan import PlannedAsset

_DEFINITIONS: Final = "booru_embed_dagster.definitions"


def build(
    selection: Annotated[str, typer.Argument(help="Assets in Dagster's grammar, such as 'vocab+'.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Build without asking.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built, and build nothing.")] = False,
) -> None:
    """Build assets of the pipeline, after showing which, why, and what they cost the last time."""
    from booru_embed_core.settings import load_settings
    from booru_embed_dagster.definitions import defs
    from booru_embed_dagster.guard.plan import plan_run
    from booru_embed_dagster.guard.selection import select_assets

    graph = defs.get_repository_def().asset_graph
    keys = select_assets(selection, graph)
    with _open_instance() as instance:
        planned = plan_run(instance, graph, set(keys), load_settings())
    _show(planned, [key for key in keys if key not in graph.materializable_asset_keys])
    sys.stdout.flush()  # before the question, which is asked on stderr
    if dry_run:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("Nothing was built: there is no terminal to ask on. Add --yes to build without asking.")
        if not typer.confirm("Build?", err=True):
            say("nothing was built")
            raise typer.Exit(1)
    _launch(keys)


def _open_instance() -> dg.DagsterInstance:
    """The instance that the run will be recorded in; a new one in memory where none is named."""
    import dagster as dg

    if not os.environ.get("DAGSTER_HOME"):
        say("note: DAGSTER_HOME is not set: no earlier run is known, and this one will not be remembered")
        return dg.DagsterInstance.ephemeral()
    try:
        return dg.DagsterInstance.get()
    except dg.DagsterError as error:
        raise ValueError(f"DAGSTER_HOME={os.environ['DAGSTER_HOME']}: {first_line(error)}") from error


def _show(planned: list[PlannedAsset], sources: list[dg.AssetKey]) -> None:
    rows: list[tuple[str, ...]] = [("asset", "last time", "size", "why")]
    for one in planned:
        why = "; ".join(one.reasons) or "nothing has changed"
        rows.append((one.name, _duration(one.seconds), _size(one.num_bytes), why))
    seconds = [one.seconds for one in planned if one.seconds is not None]
    sizes = [one.num_bytes for one in planned if one.num_bytes is not None]
    rows.append(("total", _duration(sum(seconds) if seconds else None), _size(sum(sizes) if sizes else None), ""))
    if planned:
        print_table(rows)
    if sources:
        print(f"observed: {', '.join(key.to_user_string() for key in sources)}")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _size(num_bytes: int | None) -> str:
    return "unknown" if num_bytes is None else f"{num_bytes / 1e6:,.1f} MB"


def _launch(keys: list[dg.AssetKey]) -> None:
    """Runs ``dg launch`` with `keys` in this process; ends with its exit code."""
    from dagster_dg_cli.cli import main

    chosen = ",".join(f'key:"{key.to_user_string()}"' for key in keys)
    sys.argv = ["dg", "launch", "--module-name", _DEFINITIONS, "--assets", chosen]
    main()  # type: ignore[no-untyped-call]

"""The job `prune`: removes what the warehouse need not keep and reports the freed bytes.

Each publication prunes versions too. This job does it on demand for all assets, after ``keep_versions`` was lowered or
runs were killed. Dagster's run records stay: without a run's events Dagster would forget what it materialized and show
it as missing. Ticks of sensors and schedules have ``retention`` in dagster.yaml.

No ``from __future__ import annotations``: Dagster reads annotations.
"""

from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from pydantic import Field

from booru_embed_core.filesystem import folder_bytes
from booru_embed_dagster.presentation.metadata import preview
from booru_embed_dagster.resources import Pipeline, one_line_errors
from booru_embed_dagster.warehouse.warehouse import DRAFTS, Warehouse


class PruneConfig(dg.Config):
    """How to prune."""

    dry_run: bool = Field(default=False, description="Report what would be removed without removing it.")


@dataclass(frozen=True)
class Removed:
    """A removed folder: its kind, its name below the warehouse, its size in bytes."""

    what: str
    folder: str
    num_bytes: int


@dg.op
@one_line_errors
def remove_surplus(context: dg.OpExecutionContext, config: PruneConfig, pipeline: Pipeline) -> None:
    """Removes versions beyond `[warehouse] keep_versions`, drafts of killed runs, and old training states.

    Current versions, the inputs of a kept checkpoint, and the state that an interrupted run resumes from stay.
    """
    removed = clear(pipeline.warehouse, config.dry_run)
    verb = "would remove" if config.dry_run else "removed"
    for item in removed:
        context.log.info(f"{verb} {item.what} {item.folder}: {item.num_bytes:,} bytes")
    num_bytes = sum(item.num_bytes for item in removed)
    context.log.info(f"{verb} {len(removed)} folders, {num_bytes:,} bytes, below {pipeline.warehouse.root}")
    context.add_output_metadata(
        {
            "dry_run": config.dry_run,
            "num_folders": len(removed),
            "freed_bytes": 0 if config.dry_run else num_bytes,
            "surplus_bytes": num_bytes,
            "removed": preview([vars(item) for item in removed]),
        }
    )


@dg.job(description="Removes old versions, drafts of killed runs and old training states.")
def prune() -> None:
    """One op."""
    remove_surplus()


def clear(warehouse: Warehouse, dry_run: bool) -> list[Removed]:
    """What is removed from `warehouse`, or what would be in a dry run."""
    sizes = {product: folder_bytes(product.path) for product in warehouse.surplus()}
    gone = list(sizes) if dry_run else [product for product in warehouse.prune() if product in sizes]
    versions = [Removed("version", f"{product.asset}/{product.version}", sizes[product]) for product in gone]
    folders = warehouse.abandoned(remove=not dry_run)
    return [*versions, *(_abandoned(warehouse, folder, num_bytes) for folder, num_bytes in folders.items())]


def _abandoned(warehouse: Warehouse, folder: Path, num_bytes: int) -> Removed:
    what = "draft of a killed run" if folder.parent.name == DRAFTS else "state of an old training"
    return Removed(what, folder.relative_to(warehouse.root).as_posix(), num_bytes)

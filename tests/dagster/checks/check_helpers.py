"""Checks that fail on purpose: how they are run and what is done to a product before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from booru_embed_dagster.resources import Pipeline
from tests.dagster.project_helpers import Project

Built = tuple[Project, dg.ExecuteInProcessResult]


def spoil(function: Callable[..., Any], damage: Callable[[Path], None]) -> Callable[..., Any]:
    """`function` of the core, after which `damage` is done to the folder that it wrote to."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        damage(next(path for path in arguments if isinstance(path, Path) and ".drafts" in path.parts))
        return result

    return call


def started(result: dg.ExecuteInProcessResult) -> set[str]:
    return {str(event.step_key) for event in result.all_events if event.event_type_value == "STEP_START"}


def failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    """The checks that stopped the run."""
    assert not result.success
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed and check.blocking}


def run_check(check: dg.AssetChecksDefinition, project: Project) -> dg.AssetCheckResult:
    result = check(Pipeline(settings_file=str(project.settings_file)))
    assert isinstance(result, dg.AssetCheckResult)
    return result


def change_product(project: Project, asset: str, change: Callable[[Path], None]) -> None:
    """Publishes another version of `asset`: its current files, to which `change` is done, from the same inputs."""
    from booru_embed_dagster.warehouse.manifests import MANIFEST, read_manifest

    product = project.warehouse.current(asset)
    manifest = read_manifest(product.path)
    with project.warehouse.new_version(asset, manifest.inputs, manifest.files) as draft:
        for file in product.path.iterdir():
            if file.is_file() and file.name != MANIFEST:
                (draft.path / file.name).write_bytes(file.read_bytes())
        change(draft.path)

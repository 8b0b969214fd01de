"""What the assets of a run share: its settings, read once, and its warehouse.

How products are published stands in ``warehouse.py``; here is only what makes it a Dagster resource.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, ParamSpec, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from booru_embed_core.posts.validation import ExportError, ExportUnreachableError
from booru_embed_core.settings import Settings, SettingsError, load_settings, section_version
from booru_embed_dagster.automation.observation import (
    Observation,
    export_source,
    observe_export,
    settings_sources,
    unrecorded,
)
from booru_embed_dagster.training.launcher import RanksLostError
from booru_embed_dagster.warehouse.manifests import read_manifest
from booru_embed_dagster.warehouse.warehouse import Draft, Product, Warehouse

GPU_POOL: Final = "gpu"
"""What computes on the GPU where there is one; the instance's settings let one run at a time do so."""
MAX_RETRIES: Final = 2
RETRY_SECONDS: Final = 10.0
_TRANSIENT: Final = (ExportUnreachableError, RanksLostError)
"""Faults that pass by themselves. Nothing else is tried again: the same inputs would fail the same way."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Pipeline(dg.ConfigurableResource):  # type: ignore[type-arg]  # the class needs no argument of its own
    """The settings and the warehouse of one run.

    Settings are read when the first asset asks: a broken file fails the run with its one line, and the code location
    loads all the same. They are read once, so that an edit during a run cannot mix two settings in it.
    """

    settings_file: str | None = Field(
        default=None,
        description="The settings; where empty, the file that BOORU_EMBED_SETTINGS names, else ./settings.toml.",
    )
    _settings: Settings | None = PrivateAttr(default=None)
    _export: Observation | None = PrivateAttr(default=None)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Records the versions of what this run is about to read, where they are news to the instance.

        A run that starts between an edit and the sensor's next tick would otherwise be made from versions that nobody
        has recorded, and the recording would start it again.
        """
        if context.instance is None or context.run is None:
            return
        # What is broken or missing fails the asset that reads it, with its own line.
        with contextlib.suppress(SettingsError, ExportError):
            sources = settings_sources(self.settings)
            if dg.AssetKey("posts") in (context.run.asset_selection or ()):  # others need not wait for its hash
                sources.append(export_source(self.export))
            for source in unrecorded(context.instance, sources):
                context.instance.report_runless_asset_event(source.event)

    @property
    def settings(self) -> Settings:
        """The settings of this run.

        Raises:
            SettingsError: the file is missing or holds something that is not allowed.
        """
        if self._settings is None:
            self._settings = load_settings(self.settings_file)
        return self._settings

    @property
    def export(self) -> Observation:
        """The export as this run first saw it.

        Raises:
            ExportError: a file is missing, or the table cannot be looked at.
        """
        if self._export is None:
            self._export = observe_export(self.settings)
        return self._export

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse that the settings name."""
        return Warehouse(self.settings.warehouse_path, self.settings.warehouse.keep_versions)

    def current(self, *assets: str) -> tuple[Product, ...]:
        """The current version of each of `assets`, in that order.

        Raises:
            WarehouseError: one of them has not been materialized.
        """
        return tuple(self.warehouse.current(asset) for asset in assets)

    def made_from(self, product: Product, asset: str) -> Product:
        """The version of `asset` that `product` was made from; the current one where that has been removed since.

        The same content may have been made again from a newer input while its manifest still names the first.

        Raises:
            WarehouseError: neither is there.
        """
        version = read_manifest(product.path).inputs.get(asset, "")
        path = self.warehouse.root / asset / version
        return Product(asset, version, path) if version and path.is_dir() else self.warehouse.current(asset)

    @contextmanager
    def new_version(
        self,
        asset: str,
        inputs: Sequence[Product] = (),
        sections: Sequence[str] = (),
        sources: Mapping[str, str] | None = None,
        defined_by: Sequence[str] = ("*",),
    ) -> Iterator[Draft]:
        """A draft of `asset` that is published when the block ends: see `Warehouse.new_version`.

        Recorded as what it was made from: the products `inputs`, the `sections` of the settings, and other `sources`
        with their versions.
        """
        versions = {product.asset: product.version for product in inputs}
        versions |= {f"settings/{name}": section_version(getattr(self.settings, name)) for name in sections}
        with self.warehouse.new_version(asset, versions | dict(sources or {}), defined_by) as draft:
            yield draft


def one_line_errors(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function`, whose ``ValueError`` becomes a `dagster.Failure` with the error's own line on top.

    The core's errors name what, where and the remedy in one line; Dagster would bury it below its own stack trace. A
    bare ``ValueError`` may come from elsewhere, so its stack trace stays attached.

    A transient fault is tried again within the run. That is asked for here and not by a ``RetryPolicy``, which would
    also start again what a user has terminated.
    """

    @functools.wraps(function)
    def call(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **keywords)
        except _TRANSIENT as error:
            raise dg.RetryRequested(MAX_RETRIES, RETRY_SECONDS) from dg.Failure(description=str(error))
        except ValueError as error:
            cause = error if type(error) is ValueError else None
            raise dg.Failure(description=str(error), allow_retries=False) from cause

    return call

"""The Dagster resource that the assets of a run share: its settings, read once, and its warehouse.

How products are published is in ``warehouse/``.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr

from booru_embed_core.disk_space import SMALL_PRODUCT, check_room
from booru_embed_core.errors import library_errors, one_line
from booru_embed_core.posts.validation import ExportError, ExportUnreachableError
from booru_embed_core.settings import Settings, SettingsError, load_settings, section_version
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_dagster.automation.observation import (
    Observation,
    export_source,
    observe_export,
    settings_sources,
    unrecorded,
)
from booru_embed_dagster.failures import OTHER_WAREHOUSE, machine_failure
from booru_embed_dagster.training.launcher import RanksLostError
from booru_embed_dagster.warehouse.manifests import read_manifest
from booru_embed_dagster.warehouse.warehouse import Draft, Product, Warehouse

GPU_POOL: Final = "gpu"
"""The pool of steps that use the GPU, if there is one; the instance's settings admit one run at a time."""
MAX_RETRIES: Final = 2
RETRY_SECONDS: Final = 10.0
_TRANSIENT: Final = (ExportUnreachableError, RanksLostError)
"""Transient faults. Nothing else is retried: the same inputs would fail the same way."""

_FEWER_POSTS: Final = "lower [training] batch_posts"
_LESS_DUCKDB: Final = "lower [duckdb] memory_limit or threads"
_LESS_MEMORY: Final[Mapping[str, str]] = {
    "posts": _LESS_DUCKDB,
    "tag_frequencies": _LESS_DUCKDB,
    "checkpoint": _FEWER_POSTS,
    "try_percentiles": _FEWER_POSTS,
    "evaluation": "leave some of [evaluation] baselines out",
}
"""What lowers the need of memory of an asset or op."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Pipeline(dg.ConfigurableResource):  # type: ignore[type-arg]  # the class needs no argument of its own
    """The settings and the warehouse of one run.

    Settings are read on first use: a broken file fails the run with one line, and the code location still loads. They
    are read once, so that an edit during a run cannot mix two settings.
    """

    settings_file: str | None = Field(
        default=None,
        description="The settings file; if empty, the file that BOORU_EMBED_SETTINGS names, or else ./settings.toml.",
    )
    _settings: Settings | None = PrivateAttr(default=None)
    _export: Observation | None = PrivateAttr(default=None)
    _vocab: tuple[Path, Vocab] | None = PrivateAttr(default=None)
    _packed: tuple[Path, PackedFile] | None = PrivateAttr(default=None)
    _published: set[Path] = PrivateAttr(default_factory=set)

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Records the versions of the sources that this run reads, unless the instance knows them.

        A run that starts between an edit and the sensor's next tick would otherwise read unrecorded versions, and the
        later recording would start the run again.
        """
        if context.instance is None or context.run is None:
            return
        # A broken, missing or unreadable source fails the asset that reads it, with its own message.
        with contextlib.suppress(SettingsError, ExportError, OSError):
            sources = settings_sources(self.settings)
            if dg.AssetKey("posts") in (context.run.asset_selection or ()):  # other assets do not wait for its hash
                sources.append(export_source(self.export))
            for source in unrecorded(context.instance, sources):
                context.instance.report_runless_asset_event(source.event)

    @property
    def settings(self) -> Settings:
        """The settings of this run.

        Raises:
            SettingsError: the file is missing or invalid.
        """
        if self._settings is None:
            self._settings = load_settings(self.settings_file)
        return self._settings

    @property
    def export(self) -> Observation:
        """The export as this run first saw it.

        Raises:
            ExportError: a file is missing, or the table cannot be read.
        """
        if self._export is None:
            self._export = observe_export(self.settings)
        return self._export

    @property
    def warehouse_path(self) -> Path | None:
        """The folder of the warehouse; None if the settings cannot be read, which is another error's message."""
        with contextlib.suppress(SettingsError):
            return self.settings.warehouse_path
        return None

    @property
    def warehouse(self) -> Warehouse:
        """The warehouse that the settings name."""
        warn = dg.get_dagster_logger().warning
        return Warehouse(self.settings.warehouse_path, self.settings.warehouse.keep_versions, warn=warn)

    def current(self, *assets: str) -> tuple[Product, ...]:
        """The current version of each of `assets`, in that order.

        Raises:
            WarehouseError: one of them has not been materialized.
        """
        return tuple(self.warehouse.current(asset) for asset in assets)

    def made_from(self, product: Product, asset: str) -> Product:
        """The version of `asset` that `product` was made from, or the current one if that was pruned.

        The same content may have been rebuilt from a newer input while its manifest still names the first.

        Raises:
            WarehouseError: neither exists.
        """
        version = read_manifest(product.path).inputs.get(asset, "")
        return self.warehouse.find(asset, version) or self.warehouse.current(asset)

    def vocab(self, product: Product) -> Vocab:
        """The vocabulary in `product`, loaded once for an asset and all of its checks.

        Raises:
            VocabError: it is missing or damaged.
        """
        if self._vocab is None or self._vocab[0] != product.path:
            self._vocab = product.path, Vocab.load(product.path)
        return self._vocab[1]

    def packed(self, product: Product, vocab: Vocab) -> PackedFile:
        """The packed file in `product`, made with `vocab`; opened, read and verified once for an asset and its checks.

        A version never changes after its publication. What this run has published was hashed for that.

        Raises:
            PackedFileError: it is missing or damaged, or was made with another vocabulary.
        """
        if self._packed is None or self._packed[0] != product.path:
            self._packed = (
                product.path,
                PackedFile.open(product.path / PACKED_FILE, is_verified=product.path in self._published),
            )
        self._packed[1].check_vocab(vocab)
        return self._packed[1]

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

        Its manifest records the versions of the products `inputs`, of the `sections` of the settings, and of the other
        `sources`.
        """
        check_room(self.warehouse.root / asset, SMALL_PRODUCT, asset, OTHER_WAREHOUSE)
        versions = {product.asset: product.version for product in inputs}
        versions |= {f"settings/{name}": section_version(getattr(self.settings, name)) for name in sections}
        with self.warehouse.new_version(asset, versions | dict(sources or {}), defined_by) as draft:
            yield draft
        self._published.add(draft.product.path)


def one_line_errors(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Wraps `function` so that an error of the core, or a fault of the machine, becomes a one-line `dagster.Failure`.

    The core's errors name the value, its place and the remedy; Dagster would bury that line below a stack trace. A
    fault of the machine, such as a full disk, is told by `machine_failure`. Another ``ValueError`` or ``OSError`` may
    come from another library, so its stack trace stays attached.

    A transient fault is retried within the run. This is not a ``RetryPolicy``, which would also restart a step that a
    user has terminated.
    """

    @functools.wraps(function)
    def call(*arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        try:
            return function(*arguments, **keywords)
        except _TRANSIENT as error:
            raise dg.RetryRequested(MAX_RETRIES, RETRY_SECONDS) from dg.Failure(description=str(error))
        except library_errors(ValueError) as error:
            given = (*arguments, *keywords.values())
            pipeline = next((one for one in given if isinstance(one, Pipeline)), None)
            warehouse = pipeline.warehouse_path if pipeline else None
            if failure := machine_failure(error, warehouse, _LESS_MEMORY.get(function.__name__, "")):
                raise failure from None
            if not isinstance(error, ValueError | OSError):
                raise
            is_ours = isinstance(error, ValueError) and type(error) is not ValueError
            # The end of a training's output follows the first line of its error.
            text = str(error) if isinstance(error, ValueError) else one_line(error)
            raise dg.Failure(description=text, allow_retries=False) from None if is_ours else error

    return call

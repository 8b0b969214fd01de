"""The versions on disk, read: which there are, in which order they were current, and which of them are in use.

A version is named by its folder: what a manifest says of names is compared, never followed. "Newest" goes by
``.history``, so that clocks of several machines, or one that was set back, decide nothing. Whatever is no asset of the
pipeline is left alone. A version with a damaged or foreign manifest is passed over with a warning.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import RootModel

from booru_embed_core.errors import one_line
from booru_embed_core.filesystem import LINK, kind_of
from booru_embed_core.json_files import read_json
from booru_embed_dagster.warehouse.folders import (
    CURRENT,
    HISTORY,
    check_current,
    draft_folders,
    history,
    is_version,
    latest_first,
    linked,
    subfolders,
)
from booru_embed_dagster.warehouse.manifests import (
    MANIFEST,
    Manifest,
    WarehouseError,
    manifest_if_there,
    read_manifest,
)

ASSETS: Final = (
    "posts",
    "tag_frequencies",
    "vocab_cost",
    "vocab",
    "packed_tokens",
    "caption_lengths",
    "checkpoint",
    "evaluation",
    "tag_embeddings",
    "post_embeddings",
    "percentile_sweep",
)
"""The pipeline's products. Other folders below the warehouse are neither read nor touched."""
INPUTS: Final = "inputs.json"
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Product:
    """A version of an asset; `path` is its folder, whose content never changes."""

    asset: str
    version: str
    path: Path


class _Inputs(RootModel[dict[str, str]]):
    """The content of a draft's ``inputs.json``."""


class Versions:
    """The versions of the assets under `root`, of which the newest `keep_versions` of each stay.

    Args:
        root: the folder of all assets.
        keep_versions: how many versions of each asset stay.
        final_asset: the asset whose inputs stay as long as itself.
        assets: the names of the assets that are looked at for pruning.
        warn: called with a line about what is passed over; by default it is logged.
    """

    def __init__(
        self,
        root: Path,
        keep_versions: int = 3,
        final_asset: str = "checkpoint",
        assets: Collection[str] = ASSETS,
        warn: Callable[[str], object] = _LOG.warning,
    ) -> None:
        self.root = root
        self.keep_versions = keep_versions
        self.final_asset = final_asset
        self.assets = assets
        self._warn = warn

    def current(self, asset: str) -> Product:
        """The current version of `asset`, by its own folder: a later publication does not move it.

        Raises:
            WarehouseError: `asset` was never published, or its ``current`` is broken or no link.
        """
        home = self.root / asset
        while version := linked(home):
            if product := self.find(asset, version):
                return product
            if version == linked(home):  # else it was pruned meanwhile, and another version is current
                break
        check_current(home)
        link = home / CURRENT
        is_broken = os.path.lexists(link)
        found = (
            f"leads to '{os.readlink(link)}', which is not a version of '{asset}'"
            if is_broken
            else f"no version of '{asset}' yet"
        )
        command = f"dagster asset materialize -m booru_embed_dagster.definitions --select {asset}"
        raise WarehouseError(f"{link}: {found}; materialize it first: {command}")

    def find(self, asset: str, version: str) -> Product | None:
        """The product `version` of `asset`, or None if there is none."""
        path = self.root / asset / version
        return Product(asset, version, path) if is_version(version) and (path / MANIFEST).is_file() else None

    def versions(self, asset: str) -> list[Product]:
        """All versions of `asset`, newest first: in the order in which they were current last, then by creation."""
        return self._survey(asset)[0]

    def _survey(self, asset: str) -> tuple[list[Product], list[Path]]:
        """The versions of `asset`, newest first, and the folders whose manifest cannot be trusted, which is told."""
        home = self.root / asset
        found: list[Manifest] = []
        broken = []
        for folder in (home / path.name for path in subfolders(_real(home))):  # read also where nothing is removed
            try:
                if folder.name == CURRENT:
                    check_current(home)
                elif is_version(folder.name):
                    found.append(_manifest_of(folder))
            except WarehouseError as error:
                if kind_of(folder) is not None:  # else another process has pruned it
                    broken.append(folder)
                    self._warn(f"passed over and kept: {one_line(error)}")
        found.sort(key=lambda manifest: (manifest.created, manifest.version), reverse=True)
        names = latest_first([manifest.version for manifest in found], [*history(home / HISTORY), linked(home) or ""])
        return [Product(asset, name, home / name) for name in names], broken

    def earlier(self, asset: str) -> list[Product]:
        """The previous current versions of `asset`, latest first, without those that were pruned or are damaged.

        The order is that of being current, not of creation: after a, b and a again, the previous version is b.
        """
        home = self.root / asset
        current, before = linked(home), set(history(home / HISTORY))
        return [one for one in self.versions(asset) if one.version in before and one.version != current]

    def surplus(self) -> list[Product]:
        """The versions beyond the newest `keep_versions` that nothing uses.

        In use are ``current``, all ancestors of a kept version of `final_asset`, and the inputs of drafts. Nothing is
        surplus while the manifest of one of these versions cannot be read, since its inputs are unknown.
        """
        surveys = {asset: self._survey(asset) for asset in self.assets}
        kept = {asset: self._keep(asset, products) for asset, (products, _) in surveys.items()}
        broken = [folder for _, folders in surveys.values() for folder in folders]
        in_use = self._ancestors(self._roots(kept.get(self.final_asset, [])))
        unknown = [
            folder
            for folder in broken
            if folder.parent.name == self.final_asset or (folder.parent.name, folder.name) in in_use
        ]
        if unknown:
            self._warn(f"{unknown[0]}: old versions are kept while it is not known what this one was made from")
            return []
        return [
            product
            for asset, (products, _) in surveys.items()
            for product in products
            if product not in kept[asset] and (asset, product.version) not in in_use
        ]

    def _keep(self, asset: str, products: list[Product]) -> list[Product]:
        current = linked(self.root / asset)
        return [p for i, p in enumerate(products) if i < self.keep_versions or p.version == current]

    def _roots(self, finals: list[Product]) -> list[tuple[str, str]]:
        final_home = _real(self.root / self.final_asset)
        moved = [path.name for path in final_home.glob("*") if kind_of(path) == LINK]  # to another disk, by a user
        versions = [*(product.version for product in finals), *moved]
        roots = [pair for version in versions for pair in self._inputs_of(self.final_asset, version)]
        for asset in self.assets:
            for draft in draft_folders(_real(self.root / asset)):
                with contextlib.suppress(WarehouseError):  # its writer has just begun or ended
                    roots += read_json(draft / INPUTS, _Inputs, WarehouseError, "").root.items()
        return roots

    def _inputs_of(self, asset: str, version: str) -> Iterable[tuple[str, str]]:
        """The inputs of a version; none for sources, which have no manifest, and for what `_survey` has warned of."""
        if asset not in self.assets or not is_version(version):
            return ()
        with contextlib.suppress(WarehouseError):
            manifest = manifest_if_there(self.root / asset / version)
            return manifest.inputs.items() if manifest else ()
        return ()

    def _ancestors(self, roots: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        seen: set[tuple[str, str]] = set()
        waiting = list(roots)
        while waiting:
            asset, version = waiting.pop()
            if (asset, version) not in seen:
                seen.add((asset, version))
                waiting += self._inputs_of(asset, version)
        return seen


def _manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    if manifest.asset != folder.parent.name:
        raise WarehouseError(f"{folder / MANIFEST}: is of the asset {manifest.asset!r}; move the folder {folder} away")
    return manifest


def _real(folder: Path) -> Path:
    return Path(os.path.realpath(folder))

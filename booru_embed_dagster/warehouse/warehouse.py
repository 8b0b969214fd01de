"""Products on disk: immutable versions, published whole or not at all.

Pure Python: no Dagster, no settings, no knowledge of what a product holds. The layout, for an asset ``vocab``::

    <root>/vocab/3f0c…/           a product, complete and on disk before it got this name; never written again
    <root>/vocab/3f0c…/version.json
    <root>/vocab/current          a relative link to the version that readers take
    <root>/vocab/.history         the versions that were current before, a line each, the last one at the end
    <root>/vocab/.drafts/<id>/    a version being written, locked by its writer; the next writer clears dead ones
    <root>/vocab/.work/<key>/     what an interrupted run resumes from
    <root>/vocab/.lock            held while names change, never while a product is being written

Locks are ``flock``s: a killed process loses them, so nothing needs to be cleaned up by hand. POSIX only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from booru_embed_core.filesystem import folder_bytes, locked_folder, set_file_modes, sync, sync_tree
from booru_embed_dagster.warehouse.manifests import (
    MANIFEST,
    VERSION_DIGITS,
    Manifest,
    WarehouseError,
    content_version,
    is_intact,
    manifest_if_there,
)

CURRENT: Final = "current"
DRAFTS: Final = ".drafts"
_WORK: Final = ".work"
_INPUTS: Final = "inputs.json"
_HISTORY: Final = ".history"


@dataclass(frozen=True)
class Product:
    """One version of one asset; `path` is its folder, which never changes."""

    asset: str
    version: str
    path: Path


class Draft:
    """A version being written: the writer fills `path`; `product` is there once the ``with`` block has ended."""

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.path = folder / "product"
        self.inputs = inputs
        self._scratch = folder / "scratch"
        self._product: Product | None = None

    @property
    def scratch(self) -> Path:
        """A folder on the warehouse's disk for what spills over; never published, gone when the block ends."""
        self._scratch.mkdir(exist_ok=True)
        return self._scratch

    @property
    def inputs_key(self) -> str:
        """16 hex digits that are the same for drafts made from the same versions."""
        return hashlib.sha256(json.dumps(dict(self.inputs), sort_keys=True).encode()).hexdigest()[:VERSION_DIGITS]

    @property
    def product(self) -> Product:
        """The published version."""
        assert self._product is not None, "a draft is published when its with block ends"
        return self._product


class Warehouse:
    """The products under `root`; `keep_versions` of each are kept, and what a kept `final_asset` was made from."""

    def __init__(self, root: Path, keep_versions: int = 3, final_asset: str = "checkpoint") -> None:
        self.root = root
        self.keep_versions = keep_versions
        self.final_asset = final_asset

    def current(self, asset: str) -> Product:
        """The version that readers of `asset` take, by its own folder: a later publication does not move it.

        Raises:
            WarehouseError: `asset` has not been published, or its ``current`` link leads nowhere.
        """
        link = self.root / asset / CURRENT
        while version := _target(link):
            if (link.parent / version / MANIFEST).is_file():
                return Product(asset, version, link.parent / version)
            if version == _target(link):  # else it was pruned between the two looks: another is current by now
                break
        found = f"leads to '{version}', which is no version of '{asset}'" if version else f"no version of '{asset}' yet"
        command = f"dagster asset materialize -m booru_embed_dagster.definitions --select {asset}"
        raise WarehouseError(f"{link}: {found}; materialize it first: {command}")

    @contextlib.contextmanager
    def new_version(
        self, asset: str, inputs: Mapping[str, str] | None = None, defined_by: Sequence[str] = ("*",)
    ) -> Iterator[Draft]:
        """An empty folder to write a version of `asset` into, published when the block ends without an exception.

        `defined_by` are patterns of the relative names whose content makes the version; other files (plots, logs with
        times in them) are published along with it. A version that is already there and intact is not written again.

        Raises:
            WarehouseError: nothing that matches `defined_by` was written.
        """
        home = self.root / asset
        home.mkdir(parents=True, exist_ok=True)
        made_from = dict(inputs or {})
        folder, guard = self._open_draft(home, made_from)
        try:
            draft = Draft(folder, made_from)
            yield draft
            draft._product = self._publish(asset, folder, made_from, defined_by)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(guard)
        self.prune()

    def versions(self, asset: str) -> list[Product]:
        """All versions of `asset`, the newest first."""
        folders = [file.parent for file in (self.root / asset).glob(f"[!.]*/{MANIFEST}")]
        found = [manifest for folder in folders if not folder.is_symlink() and (manifest := manifest_if_there(folder))]
        found.sort(key=lambda manifest: (manifest.created, manifest.version), reverse=True)
        return [Product(asset, manifest.version, self.root / asset / manifest.version) for manifest in found]

    def earlier(self, asset: str) -> list[Product]:
        """The versions of `asset` that were current before the one that is now, the last of them first.

        By when they were current and not by when they were first made: of a, b and a again, b is the one before. Those
        that have been removed since are left out.
        """
        home = self.root / asset
        with contextlib.suppress(FileNotFoundError):
            before = reversed((home / _HISTORY).read_text(encoding="utf-8").split())
            current = _target(home / CURRENT)
            there = [version for version in dict.fromkeys(before) if (home / version / MANIFEST).is_file()]
            return [Product(asset, version, home / version) for version in there if version != current]
        return []

    def prune(self) -> list[Product]:
        """The versions that were removed, of `surplus`."""
        return [product for product in self.surplus() if self._remove(product)]

    def surplus(self) -> list[Product]:
        """The versions beyond the newest `keep_versions` that are in no use.

        In use are ``current``, what a kept version of `final_asset` was made from (through all its ancestors), and what
        the drafts being written are made from.
        """
        versions = {asset: self.versions(asset) for asset in self._assets()}
        kept = {asset: self._keep(asset, products) for asset, products in versions.items()}
        in_use = self._ancestors(self._roots(kept.get(self.final_asset, [])))
        return [
            product
            for asset, products in versions.items()
            for product in products
            if product not in kept[asset] and (asset, product.version) not in in_use
        ]

    def abandoned(self, remove: bool = False) -> dict[Path, int]:
        """Drafts whose writer is gone and all but the newest work folder of each asset, with their bytes; then removed.

        The newest is what an interrupted run goes on from. An asset that is being written keeps all of its own.
        """
        found: dict[Path, int] = {}
        for asset in self._assets():
            home = self.root / asset
            with _lock(home / ".lock"):  # no draft is begun meanwhile
                drafts, work = list((home / DRAFTS).glob("*")), sorted((home / _WORK).glob("*"), key=_changed)
                dead = [draft for draft in drafts if not _is_locked(draft)]
                idle = work[:-1] if len(dead) == len(drafts) else []
                for folder in (*dead, *(folder for folder in idle if not _is_locked(folder))):
                    found[folder] = folder_bytes(folder)
                    if remove:
                        _remove_unless_locked(folder)
        return found

    def work_folder(self, asset: str, key: str) -> Path:
        """A folder for what an interrupted run of `asset` with the inputs `key` resumes from; made where missing."""
        folder = self.root / asset / _WORK / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_work(self, asset: str) -> None:
        """Removes the work folders of `asset`, but for those that another process has locked."""
        for folder in (self.root / asset / _WORK).glob("*"):
            _remove_unless_locked(folder)

    def _open_draft(self, home: Path, inputs: dict[str, str]) -> tuple[Path, int]:
        with _lock(home / ".lock"):
            for dead in (home / DRAFTS).glob("*"):
                _remove_unless_locked(dead)
            folder = home / DRAFTS / uuid.uuid4().hex
            (folder / "product").mkdir(parents=True)
            (folder / _INPUTS).write_text(json.dumps(inputs), encoding="utf-8")
            guard = os.open(folder, os.O_RDONLY)
            fcntl.flock(guard, fcntl.LOCK_EX)
        return folder, guard

    def _publish(self, asset: str, folder: Path, inputs: dict[str, str], defined_by: Sequence[str]) -> Product:
        written = folder / "product"
        files = _matching(written, defined_by)
        if not files:
            raise WarehouseError(f"{asset}: nothing was written that matches {', '.join(defined_by)}; check its writer")
        version = content_version(written, files)
        manifest = Manifest(asset, version, inputs, files, datetime.now(UTC).isoformat(timespec="microseconds"))
        (written / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="utf-8")
        set_file_modes(written, (written / MANIFEST).stat().st_mode)
        sync_tree(written)
        home = self.root / asset
        product = Product(asset, version, home / version)
        with _lock(home / ".lock"):
            if not is_intact(product.path):
                if product.path.exists():
                    os.rename(product.path, folder / "broken")
                os.rename(written, product.path)
            _point(home / CURRENT, version, folder)
            sync(home)
        return product

    def _assets(self) -> list[str]:
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))

    def _keep(self, asset: str, products: list[Product]) -> list[Product]:
        current = _target(self.root / asset / CURRENT)
        return [p for i, p in enumerate(products) if i < self.keep_versions or p.version == current]

    def _roots(self, finals: list[Product]) -> list[tuple[str, str]]:
        manifests = [manifest_if_there(product.path) for product in finals]
        roots = [pair for manifest in manifests if manifest for pair in manifest.inputs.items()]
        for file in self.root.glob(f"*/{DRAFTS}/*/{_INPUTS}"):
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # its writer has just ended or begun
                roots += json.loads(file.read_text(encoding="utf-8")).items()
        return roots

    def _ancestors(self, roots: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        seen: set[tuple[str, str]] = set()
        waiting = list(roots)
        while waiting:
            asset, version = waiting.pop()
            if (asset, version) in seen:
                continue
            seen.add((asset, version))
            if manifest := manifest_if_there(self.root / asset / version):
                waiting += manifest.inputs.items()
        return seen

    def _remove(self, product: Product) -> bool:
        home = product.path.parent
        with _lock(home / ".lock"):
            if _target(home / CURRENT) == product.version:  # another writer made it current meanwhile
                return False
            # Renamed first: a kill while deleting leaves a dead draft, never half a version.
            grave = home / DRAFTS / uuid.uuid4().hex
            grave.parent.mkdir(exist_ok=True)
            try:
                os.rename(product.path, grave)
            except FileNotFoundError:  # another writer pruned it first
                return False
        shutil.rmtree(grave, ignore_errors=True)
        return True


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keeps `folder` for this process until the block ends.

    Raises:
        WarehouseError: another process has it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise WarehouseError(f"{folder}: another process works on these inputs; wait for it or stop it") from None
        yield


def _matching(folder: Path, patterns: Sequence[str]) -> list[str]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if name != MANIFEST and any(fnmatchcase(name, pattern) for pattern in patterns)]


def _target(link: Path) -> str | None:
    try:
        return os.readlink(link)
    except OSError:
        return None


def _point(link: Path, version: str, spare: Path) -> None:
    before = _target(link)
    if before == version:
        return
    if before is not None:
        with (link.parent / _HISTORY).open("a", encoding="utf-8") as history:
            history.write(f"{before}\n")
    os.symlink(version, spare / CURRENT)
    os.replace(spare / CURRENT, link)


def _changed(folder: Path) -> float:
    return folder.stat().st_mtime


def _is_locked(folder: Path) -> bool:
    try:
        with lock_folder(folder):
            return False
    except FileNotFoundError:
        return False
    except WarehouseError:
        return True


def _remove_unless_locked(folder: Path) -> None:
    # The folder may vanish at any moment: its owner removes it when it is done.
    with contextlib.suppress(WarehouseError, FileNotFoundError), lock_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

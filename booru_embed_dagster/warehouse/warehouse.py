"""Products on disk: immutable versions, published whole or not at all.

Pure Python: no Dagster, no settings, no knowledge of what a product holds. The layout of an asset ``vocab``::

    <root>/vocab/3f0c…/           a product; complete and on disk before it gets this name, then never written again
    <root>/vocab/3f0c…/version.json
    <root>/vocab/current          a relative link to the version that readers open
    <root>/vocab/.history         the versions that were current before, one per line, the latest last
    <root>/vocab/.drafts/<id>/    a version being written, locked by its writer; the next writer removes dead ones
    <root>/vocab/.work/<key>/     the state that an interrupted run resumes from
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

from booru_embed_core.errors import disk_errors
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
_ELSEWHERE: Final = "set [warehouse] path to a folder on another disk; then materialize again"


@dataclass(frozen=True)
class Product:
    """A version of an asset; `path` is its folder, whose content never changes."""

    asset: str
    version: str
    path: Path


class Draft:
    """A version being written: the writer fills `path`; `product` exists after the ``with`` block."""

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.path = folder / "product"
        self.inputs = inputs
        self._scratch = folder / "scratch"
        self._product: Product | None = None

    @property
    def scratch(self) -> Path:
        """A folder on the warehouse's disk for temporary files; never published, removed when the block ends."""
        self._scratch.mkdir(exist_ok=True)
        return self._scratch

    @property
    def inputs_key(self) -> str:
        """16 hex digits, the same for all drafts made from the same versions."""
        return hashlib.sha256(json.dumps(dict(self.inputs), sort_keys=True).encode()).hexdigest()[:VERSION_DIGITS]

    @property
    def product(self) -> Product:
        """The published version."""
        assert self._product is not None, "a draft is published when its with block ends"
        return self._product


class Warehouse:
    """The products under `root`: keeps `keep_versions` of each, and all that a kept `final_asset` was made from."""

    def __init__(self, root: Path, keep_versions: int = 3, final_asset: str = "checkpoint") -> None:
        self.root = root
        self.keep_versions = keep_versions
        self.final_asset = final_asset

    def current(self, asset: str) -> Product:
        """The current version of `asset`, by its own folder: a later publication does not move it.

        Raises:
            WarehouseError: `asset` was never published, or its ``current`` link is broken.
        """
        link = self.root / asset / CURRENT
        while version := _target(link):
            if (link.parent / version / MANIFEST).is_file():
                return Product(asset, version, link.parent / version)
            if version == _target(link):  # else it was pruned meanwhile, and another version is current
                break
        found = (
            f"leads to '{version}', which is not a version of '{asset}'" if version else f"no version of '{asset}' yet"
        )
        command = f"dagster asset materialize -m booru_embed_dagster.definitions --select {asset}"
        raise WarehouseError(f"{link}: {found}; materialize it first: {command}")

    @contextlib.contextmanager
    def new_version(
        self, asset: str, inputs: Mapping[str, str] | None = None, defined_by: Sequence[str] = ("*",)
    ) -> Iterator[Draft]:
        """An empty folder to write a version of `asset` into, published when the block ends without an exception.

        A version that already exists and is intact is not written again.

        Args:
            asset: the asset's name.
            inputs: the version of each input, by name, for the manifest.
            defined_by: patterns of the relative names whose content makes the version. Other files, such as plots or
                logs with times, are published along with them.

        Raises:
            WarehouseError: no written file matches `defined_by`.
            DiskError: the disk is full, read-only or closed to this user.
        """
        home = self.root / asset
        made_from = dict(inputs or {})
        with contextlib.ExitStack() as stack:
            stack.enter_context(disk_errors(home, _ELSEWHERE))
            home.mkdir(parents=True, exist_ok=True)
            with _lock(home / ".lock"):
                folder = _new_draft(home, made_from)
                stack.enter_context(locked_folder(folder))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            draft = Draft(folder, made_from)
            stack.enter_context(disk_errors(home, _ELSEWHERE))  # before the files that fill the disk are removed
            yield draft
            draft._product = self._publish(asset, folder, made_from, defined_by)
        self.prune()

    def versions(self, asset: str) -> list[Product]:
        """All versions of `asset`, newest first."""
        folders = [file.parent for file in (self.root / asset).glob(f"[!.]*/{MANIFEST}")]
        found = [manifest for folder in folders if not folder.is_symlink() and (manifest := manifest_if_there(folder))]
        found.sort(key=lambda manifest: (manifest.created, manifest.version), reverse=True)
        return [Product(asset, manifest.version, self.root / asset / manifest.version) for manifest in found]

    def earlier(self, asset: str) -> list[Product]:
        """The previous current versions of `asset`, latest first, without those that were pruned.

        The order is that of being current, not of creation: after a, b and a again, the previous version is b.
        """
        home = self.root / asset
        with contextlib.suppress(FileNotFoundError):
            before = reversed((home / _HISTORY).read_text(encoding="utf-8").split())
            current = _target(home / CURRENT)
            kept = [version for version in dict.fromkeys(before) if (home / version / MANIFEST).is_file()]
            return [Product(asset, version, home / version) for version in kept if version != current]
        return []

    def prune(self) -> list[Product]:
        """Removes the `surplus`; returns the removed versions."""
        return [product for product in self.surplus() if self._remove(product)]

    def surplus(self) -> list[Product]:
        """The versions beyond the newest `keep_versions` that nothing uses.

        In use are ``current``, all ancestors of a kept version of `final_asset`, and the inputs of drafts.
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
        """Drafts without a writer and all but the newest work folder of each asset, with their sizes in bytes.

        The newest work folder is the one that an interrupted run resumes from. An asset that is being written keeps
        all of its work folders.

        Args:
            remove: also remove them.
        """
        found: dict[Path, int] = {}
        for asset in self._assets():
            home = self.root / asset
            with _lock(home / ".lock"):  # no draft begins meanwhile
                drafts, work = list((home / DRAFTS).glob("*")), sorted((home / _WORK).glob("*"), key=_changed)
                dead = [draft for draft in drafts if not _is_locked(draft)]
                idle = work[:-1] if len(dead) == len(drafts) else []
                for folder in (*dead, *(folder for folder in idle if not _is_locked(folder))):
                    found[folder] = folder_bytes(folder)
                    if remove:
                        _remove_unless_locked(folder)
        return found

    def work_folder(self, asset: str, key: str) -> Path:
        """The folder that an interrupted run of `asset` with the inputs `key` resumes from; created if missing."""
        folder = self.root / asset / _WORK / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_work(self, asset: str) -> None:
        """Removes the work folders of `asset` that no other process has locked."""
        for folder in (self.root / asset / _WORK).glob("*"):
            _remove_unless_locked(folder)

    def _publish(self, asset: str, folder: Path, inputs: dict[str, str], defined_by: Sequence[str]) -> Product:
        written = folder / "product"
        files = _matching(written, defined_by)
        if not files:
            raise WarehouseError(f"{asset}: no written file matches {', '.join(defined_by)}; check its writer")
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
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # its writer has just begun or ended
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
            if _target(home / CURRENT) == product.version:  # another writer has made it current meanwhile
                return False
            # Renamed first: a kill while deleting leaves a dead draft, never half a version.
            grave = home / DRAFTS / uuid.uuid4().hex
            grave.parent.mkdir(exist_ok=True)
            try:
                os.rename(product.path, grave)
            except FileNotFoundError:  # another writer has pruned it
                return False
        shutil.rmtree(grave, ignore_errors=True)
        return True


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks `folder` for this process until the block ends.

    Raises:
        WarehouseError: another process has locked it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_folder(folder))
        except BlockingIOError:
            raise WarehouseError(f"{folder}: another process works on these inputs; wait for it or stop it") from None
        yield


def _new_draft(home: Path, inputs: dict[str, str]) -> Path:
    for dead in (home / DRAFTS).glob("*"):
        _remove_unless_locked(dead)
    folder = home / DRAFTS / uuid.uuid4().hex
    (folder / "product").mkdir(parents=True)
    (folder / _INPUTS).write_text(json.dumps(inputs), encoding="utf-8")
    return folder


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
    # The folder may vanish at any moment: its owner removes it when done.
    with contextlib.suppress(WarehouseError, FileNotFoundError), lock_folder(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _lock(file: Path) -> Iterator[None]:
    # A file opened for writing and not the folder: NFS passes only the locks of such files on to other nodes.
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

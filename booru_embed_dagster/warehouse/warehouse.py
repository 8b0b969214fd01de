"""Products on disk: immutable versions, published whole or not at all.

Pure Python: no Dagster, no settings, no knowledge of what a product holds. The layout of an asset ``vocab``::

    <root>/vocab/3f0c…/           a product; complete and on disk before it gets this name, then never written again
    <root>/vocab/3f0c…/version.json
    <root>/vocab/current          a relative link to the version that readers open
    <root>/vocab/.history         the versions that were current before, one per line, the latest last
    <root>/vocab/.drafts/<id>/    a version being written, locked by its writer; the next writer removes dead ones
    <root>/vocab/.work/<key>/     the state that an interrupted run resumes from
    <root>/vocab/.work-history    their keys in the order in which runs asked for them
    <root>/vocab/.lock            held while names change, never while a product is being written

Nothing is written or removed through a link. Locks are ``flock``s: a killed process loses them, so nothing needs to be
cleaned up by hand. POSIX only.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from booru_embed_core.errors import disk_errors, one_line
from booru_embed_core.filesystem import (
    FOLDER,
    folder_bytes,
    kind_of,
    locked_folder,
    make_folder,
    remove,
    set_file_modes,
    sync,
    sync_tree,
)
from booru_embed_dagster.warehouse.folders import (
    CURRENT,
    DRAFTS,
    HISTORY,
    WORK,
    WORK_HISTORY,
    add_to_history,
    check_home,
    draft_folders,
    is_locked,
    linked,
    lock_folder,
    lock_names,
    make_home,
    remove_unless_locked,
    work_folders,
)
from booru_embed_dagster.warehouse.manifests import (
    MANIFEST,
    VERSION_DIGITS,
    Manifest,
    WarehouseError,
    content_version,
    is_intact,
)
from booru_embed_dagster.warehouse.sharing import share_files
from booru_embed_dagster.warehouse.versions import ASSETS, INPUTS, Product, Versions

__all__ = ["ASSETS", "DRAFTS", "Draft", "Product", "Warehouse", "lock_folder"]
_ELSEWHERE: Final = "set [warehouse] path to a folder on another disk; then materialize again"


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


class Warehouse(Versions):
    """The products under a folder, written and pruned; see `Versions` for the arguments."""

    @contextlib.contextmanager
    def new_version(
        self, asset: str, inputs: Mapping[str, str] | None = None, defined_by: Sequence[str] = ("*",)
    ) -> Iterator[Draft]:
        """An empty folder to write a version of `asset` into, published when the block ends without an exception.

        A version that already exists and is intact is not written again. What cannot be pruned afterwards is warned
        of: the publication succeeds.

        Args:
            asset: the asset's name.
            inputs: the version of each input, by name, for the manifest.
            defined_by: patterns of the relative names whose content makes the version. Other files, such as plots or
                logs with times, are published along with them.

        Raises:
            WarehouseError: no written file matches `defined_by`; or, before the block, something else stands in the
                place of the asset's folders and files.
            DiskError: the disk is full, read-only or closed to this user.
        """
        home = self.root / asset
        made_from = dict(inputs or {})
        with contextlib.ExitStack() as stack:
            stack.enter_context(disk_errors(home, _ELSEWHERE))
            check_home(home)
            make_home(home)
            with lock_names(home):
                folder = _new_draft(home, made_from)
                stack.enter_context(locked_folder(folder))
            stack.callback(remove, folder)
            draft = Draft(folder, made_from)
            stack.enter_context(disk_errors(home, _ELSEWHERE))  # before the files that fill the disk are removed
            yield draft
            draft._product = self._publish(asset, folder, made_from, defined_by)
        self.prune()

    def prune(self) -> list[Product]:
        """Removes the `surplus`; returns the removed versions. What cannot be removed is warned of and kept."""
        try:
            return [product for product in self.surplus() if self._remove(product)]
        except OSError as error:
            self._warn(f"{self.root}: old versions are kept: {one_line(error)}")
            return []

    def abandoned(self, remove: bool = False) -> dict[Path, int]:
        """Drafts without a writer and all but the newest work folder of each asset, with their sizes in bytes.

        The newest work folder is the one that an interrupted run resumes from. An asset that is being written keeps
        all of its work folders.

        Args:
            remove: also remove them.
        """
        found: dict[Path, int] = {}
        for asset in self.assets:
            home = self.root / asset
            if not home.exists() or not self._is_sound(home):
                continue
            with lock_names(home):  # no draft begins meanwhile
                drafts, work = draft_folders(home), work_folders(home)
                dead = [draft for draft in drafts if not is_locked(draft)]
                idle = work[1:] if len(dead) == len(drafts) else []
                for folder in (*dead, *(folder for folder in idle if not is_locked(folder))):
                    found[folder] = folder_bytes(folder)
                    if remove:
                        remove_unless_locked(folder)
        return found

    def work_folder(self, asset: str, key: str) -> Path:
        """The folder that an interrupted run of `asset` resumes from; created if missing.

        Args:
            asset: the asset's name.
            key: of the inputs, as `Draft.inputs_key` has it.

        Raises:
            WarehouseError: something else stands in the place of the asset's folders and files.
        """
        home = self.root / asset
        check_home(home)
        make_home(home)
        folder = home / WORK / key
        for one in (folder.parent, folder):
            make_folder(one)
        add_to_history(home / WORK_HISTORY, key)
        return folder

    def clear_work(self, asset: str) -> None:
        """Removes the work folders of `asset` that no other process has locked."""
        if self._is_sound(self.root / asset):
            for folder in work_folders(self.root / asset):
                remove_unless_locked(folder)

    def _is_sound(self, home: Path) -> bool:
        """Whether `home` may be written to; the reason against it is told."""
        try:
            check_home(home)
        except WarehouseError as error:
            self._warn(f"nothing is removed there: {error}")
            return False
        return True

    def _publish(self, asset: str, folder: Path, inputs: dict[str, str], defined_by: Sequence[str]) -> Product:
        written = folder / "product"
        files = _matching(written, defined_by)
        if not files:
            raise WarehouseError(f"{asset}: no written file matches {', '.join(defined_by)}; check its writer")
        version = content_version(written, files)
        created = datetime.now(UTC).isoformat(timespec="microseconds")
        manifest = Manifest(asset=asset, version=version, inputs=inputs, files=files, created=created)
        (written / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        home = self.root / asset
        if (before := linked(home)) is not None:
            share_files(written, home / before)
        set_file_modes(written, (written / MANIFEST).stat().st_mode)
        sync_tree(written)
        product = Product(asset, version, home / version)
        with lock_names(home):
            if not is_intact(product.path):
                if os.path.lexists(product.path):
                    os.rename(product.path, folder / "broken")
                os.rename(written, product.path)
                sync(home)  # the version is on disk before a link leads to it
            _point(home, version, folder)
            sync(home)
        return product

    def _remove(self, product: Product) -> bool:
        home = product.path.parent
        if not self._is_sound(home):
            return False
        try:
            with lock_names(home):
                # Another writer has made it current or pruned it meanwhile.
                if linked(home) == product.version or kind_of(product.path) != FOLDER:
                    return False
                # Renamed first: a kill while deleting leaves a dead draft, never half a version.
                grave = home / DRAFTS / uuid.uuid4().hex
                make_folder(grave.parent)
                os.rename(product.path, grave)
        except OSError as error:
            self._warn(f"{product.path}: an old version is kept: {one_line(error)}")
            return False
        remove(grave)
        return True


def _new_draft(home: Path, inputs: dict[str, str]) -> Path:
    for dead in draft_folders(home):
        remove_unless_locked(dead)
    folder = home / DRAFTS / uuid.uuid4().hex
    (folder / "product").mkdir(parents=True)
    (folder / INPUTS).write_text(json.dumps(inputs), encoding="utf-8")
    return folder


def _matching(folder: Path, patterns: Sequence[str]) -> list[str]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if name != MANIFEST and any(fnmatchcase(name, pattern) for pattern in patterns)]


def _point(home: Path, version: str, spare: Path) -> None:
    before = linked(home)
    if before == version:
        return
    if before is not None:
        add_to_history(home / HISTORY, before)
    os.symlink(version, spare / CURRENT)
    os.replace(spare / CURRENT, home / CURRENT)

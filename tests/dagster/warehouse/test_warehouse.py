"""Publication: whole or not at all, whoever else writes and wherever a writer is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from booru_embed_dagster.warehouse.manifests import MANIFEST, WarehouseError, content_version, read_manifest
from booru_embed_dagster.warehouse.warehouse import Product, Warehouse
from tests.dagster.warehouse.warehouse_helpers import drafts, names, publish


def test_a_version_is_published_with_what_it_was_made_from(warehouse: Warehouse) -> None:
    product = publish(warehouse, "vocab", "cat_ears", {"tag_frequencies": "1" * 16, "settings/vocab": "2" * 16})
    manifest = read_manifest(product.path)
    assert (manifest.asset, manifest.version) == ("vocab", product.version)
    assert manifest.inputs == {"tag_frequencies": "1" * 16, "settings/vocab": "2" * 16}
    assert manifest.files == ["tags.txt"]
    assert product.path == warehouse.root / "vocab" / product.version
    assert (product.path / "tags.txt").read_text() == "cat_ears"
    assert os.readlink(warehouse.root / "vocab" / "current") == product.version
    assert warehouse.current("vocab") == product
    assert drafts(warehouse, "vocab") == []


def test_the_draft_is_empty_and_the_old_version_is_current_until_the_block_ends(warehouse: Warehouse) -> None:
    first = publish(warehouse, "vocab", "one")
    with warehouse.new_version("vocab") as draft:
        assert list(draft.path.iterdir()) == []
        (draft.path / "tags.txt").write_text("two")
        assert warehouse.current("vocab") == first
    assert warehouse.current("vocab") == draft.product != first


def test_the_same_content_is_the_same_version_and_writes_nothing(warehouse: Warehouse) -> None:
    first = publish(warehouse, "vocab", "one")
    publish(warehouse, "vocab", "two")
    before = {path: path.stat().st_ino for path in first.path.rglob("*")}
    again = publish(warehouse, "vocab", "one", {"posts": "x"})
    assert again == first
    assert {path: path.stat().st_ino for path in first.path.rglob("*")} == before
    assert read_manifest(first.path).inputs == {}
    assert warehouse.current("vocab") == first


def test_a_version_that_was_damaged_on_disk_is_replaced_by_the_same_content(warehouse: Warehouse) -> None:
    first = publish(warehouse, "vocab", "one")
    (first.path / "tags.txt").write_text("garbage")
    assert publish(warehouse, "vocab", "one") == first
    assert (first.path / "tags.txt").read_text() == "one"
    (first.path / MANIFEST).write_text("{")
    assert publish(warehouse, "vocab", "one") == first
    assert read_manifest(first.path).version == first.version


def test_only_the_defining_files_make_the_version(warehouse: Warehouse) -> None:
    def make(weights: str, log: str) -> Product:
        with warehouse.new_version("checkpoint", defined_by=("*.safetensors",)) as draft:
            (draft.path / "model.safetensors").write_text(weights)
            (draft.path / "log.jsonl").write_text(log)
        return draft.product

    assert make("w", "10:01").version == make("w", "10:02").version != make("v", "10:02").version
    assert read_manifest(make("w", "10:03").path).files == ["model.safetensors"]


def test_writing_none_of_the_defining_files_is_an_error_and_publishes_nothing(warehouse: Warehouse) -> None:
    with (
        pytest.raises(WarehouseError, match=r"^vocab: no written file matches \*\.parquet; check "),
        warehouse.new_version("vocab", defined_by=("*.parquet",)) as draft,
    ):
        (draft.path / "notes.txt").write_text("?")
    assert names(warehouse, "vocab") == set()


def test_a_failure_leaves_current_alone(warehouse: Warehouse) -> None:
    def fail() -> None:
        with warehouse.new_version("vocab") as draft:
            (draft.path / "tags.txt").write_text("half of tw")
            raise ZeroDivisionError

    first = publish(warehouse, "vocab", "one")
    with pytest.raises(ZeroDivisionError):
        fail()
    assert warehouse.current("vocab") == first
    assert names(warehouse, "vocab") == {first.version, "current"}
    assert drafts(warehouse, "vocab") == []


@pytest.mark.parametrize("damage", ["never", "dangling", "folder"])
def test_a_missing_product_is_named_with_the_remedy(warehouse: Warehouse, damage: str) -> None:
    if damage != "never":
        product = publish(warehouse, "vocab", "one")
        shutil.rmtree(product.path)
    if damage == "folder":
        (warehouse.root / "vocab" / "current").unlink()
        (warehouse.root / "vocab" / "current").mkdir()
    remedy = "move it away and materialize vocab" if damage == "folder" else "materialize it first: .* --select vocab"
    with pytest.raises(WarehouseError, match=rf"vocab.*{remedy}$") as caught:
        warehouse.current("vocab")
    assert "\n" not in str(caught.value)


def test_two_writers_at_once_publish_both_and_clear_nothing_of_each_other(warehouse: Warehouse) -> None:
    with warehouse.new_version("vocab") as slow:
        (slow.path / "tags.txt").write_text("slow")
        quick = publish(warehouse, "vocab", "quick")
        assert (slow.path / "tags.txt").read_text() == "slow"
        assert warehouse.current("vocab") == quick
    assert warehouse.current("vocab") == slow.product
    assert set(warehouse.versions("vocab")) == {quick, slow.product}


def test_many_threads_publish_without_disturbing_a_reader(warehouse: Warehouse) -> None:
    publish(warehouse, "vocab", "0")
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for turn in range(6):
                publish(warehouse, "vocab", f"{number} {turn % 3}")
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        product = warehouse.current("vocab")
        assert product.version
    for writer in writers:
        writer.join()
    assert errors == []
    for product in warehouse.versions("vocab"):
        assert content_version(product.path, ["tags.txt"]) == product.version
    assert len(warehouse.versions("vocab")) <= 3
    assert drafts(warehouse, "vocab") == []


KILLED_AT = """
import os, shutil, signal, sys
from pathlib import Path
from booru_embed_dagster.warehouse.warehouse import Warehouse

root, left = Path(sys.argv[1]), int(sys.argv[2])

def deadly(function):
    def call(*arguments, **keywords):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return function(*arguments, **keywords)
    return call

for module, name in ((os, "fsync"), (os, "rename"), (os, "symlink"), (os, "replace"), (shutil, "rmtree")):
    setattr(module, name, deadly(getattr(module, name)))
with Warehouse(root, keep_versions=1).new_version("vocab") as draft:
    (draft.path / "tags.txt").write_text("new")
"""


def test_a_writer_killed_anywhere_leaves_a_whole_version_current(tmp_path: Path) -> None:
    kills = 0
    for step in range(100):
        warehouse = Warehouse(tmp_path / str(step), keep_versions=1)
        publish(warehouse, "vocab", "old")
        ended = subprocess.run([sys.executable, "-c", KILLED_AT, str(warehouse.root), str(step)], check=False)
        current = warehouse.current("vocab")
        assert (current.path / "tags.txt").read_text() in ("old", "new")
        for product in warehouse.versions("vocab"):
            assert content_version(product.path, read_manifest(product.path).files) == product.version
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL
        kills += 1
        newest = publish(warehouse, "vocab", "newest")
        assert names(warehouse, "vocab") == {newest.version, "current"}
        assert drafts(warehouse, "vocab") == []
    assert kills > 6, "the kill must have hit every step of a publication"
    assert (current.path / "tags.txt").read_text() == "new"


def test_the_manifest_is_plain_json(warehouse: Warehouse) -> None:
    product = publish(warehouse, "vocab", "one", {"posts": "p"})
    content = json.loads((product.path / MANIFEST).read_text())
    assert set(content) == {"asset", "version", "inputs", "files", "created", "checksum"}
    assert content["created"].endswith("+00:00")

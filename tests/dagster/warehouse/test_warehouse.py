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
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_dagster.warehouse.manifests import MANIFEST, WarehouseError, content_version, read_manifest
from booru_embed_dagster.warehouse.warehouse import Product, Warehouse, lock_folder


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse", keep_versions=2)


def publish(warehouse: Warehouse, asset: str, text: str, inputs: dict[str, str] | None = None) -> Product:
    with warehouse.new_version(asset, inputs) as draft:
        (draft.path / "tags.txt").write_text(text)
    return draft.product


def names(warehouse: Warehouse, asset: str) -> set[str]:
    return {path.name for path in (warehouse.root / asset).iterdir() if not path.name.startswith(".")}


def drafts(warehouse: Warehouse, asset: str) -> list[Path]:
    return list((warehouse.root / asset / ".drafts").glob("*"))


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
    with pytest.raises(
        WarehouseError, match=r"vocab.*; materialize it first: dagster asset .* --select vocab$"
    ) as caught:
        warehouse.current("vocab")
    assert "\n" not in str(caught.value)


def test_prune_keeps_the_newest_and_current(warehouse: Warehouse) -> None:
    made = [publish(warehouse, "vocab", text) for text in "abcd"]
    assert warehouse.versions("vocab") == [made[3], made[2]]
    publish(warehouse, "vocab", "c")
    publish(warehouse, "vocab", "e")
    back = publish(warehouse, "vocab", "d")
    publish(warehouse, "posts", "elsewhere")
    assert warehouse.current("vocab") == back
    assert names(warehouse, "vocab") == {made[3].version, warehouse.versions("vocab")[0].version, "current"}


def test_current_is_kept_however_old_it_is(warehouse: Warehouse) -> None:
    old = publish(warehouse, "vocab", "a")
    for text in "bc":
        publish(warehouse, "vocab", text)
        assert publish(warehouse, "vocab", "a") == old
    warehouse.keep_versions = 1
    warehouse.prune()
    assert names(warehouse, "vocab") == {old.version, warehouse.versions("vocab")[0].version, "current"}


def texts(products: list[Product]) -> list[str]:
    return [(product.path / "tags.txt").read_text() for product in products]


def test_what_was_current_before_is_told_by_when_it_was_current(warehouse: Warehouse) -> None:
    assert warehouse.earlier("vocab") == []
    publish(warehouse, "vocab", "a")
    assert warehouse.earlier("vocab") == []
    publish(warehouse, "vocab", "b")
    assert texts(warehouse.earlier("vocab")) == ["a"]
    publish(warehouse, "vocab", "b")  # the same again is no new version
    assert texts(warehouse.earlier("vocab")) == ["a"]
    publish(warehouse, "vocab", "a")  # changed back: of the two the current one is the older
    assert texts(warehouse.earlier("vocab")) == ["b"]


@settings(max_examples=40, deadline=None)  # a publication waits for the disk
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
def test_of_any_order_of_changes_the_last_other_version_comes_first(
    tmp_path_factory: pytest.TempPathFactory, changes: list[str]
) -> None:
    warehouse = Warehouse(tmp_path_factory.mktemp("changes"), keep_versions=9)
    for text in changes:
        publish(warehouse, "vocab", text)
    wanted = [text for text in dict.fromkeys(reversed(changes)) if text != changes[-1]]
    assert texts(warehouse.earlier("vocab")) == wanted


def test_what_was_removed_is_no_earlier_version(warehouse: Warehouse) -> None:
    for text in "abcd":
        publish(warehouse, "vocab", text)
    assert texts(warehouse.earlier("vocab")) == ["c"]
    (home := warehouse.root / "vocab" / ".history").write_text(home.read_text() + "torn")
    assert texts(warehouse.earlier("vocab")) == ["c"]


def test_what_a_kept_checkpoint_was_made_from_is_kept_through_all_ancestors(warehouse: Warehouse) -> None:
    posts = publish(warehouse, "posts", "posts")
    frequencies = publish(warehouse, "tag_frequencies", "counts", {"posts": posts.version})
    vocab = publish(warehouse, "vocab", "vocab", {"tag_frequencies": frequencies.version, "settings/vocab": "f" * 16})
    publish(warehouse, "checkpoint", "weights", {"vocab": vocab.version})
    for asset in ("posts", "tag_frequencies", "vocab"):
        for text in "abc":
            publish(warehouse, asset, text)
    for product in (posts, frequencies, vocab):
        assert product in warehouse.versions(product.asset)
        assert len(warehouse.versions(product.asset)) == 3
    for text in "ab":
        publish(warehouse, "checkpoint", text)
    for product in (posts, frequencies, vocab):
        assert product not in warehouse.versions(product.asset)


def test_what_a_draft_in_progress_is_made_from_is_kept(warehouse: Warehouse) -> None:
    vocab = publish(warehouse, "vocab", "old")
    with warehouse.new_version("checkpoint", {"vocab": vocab.version}) as draft:
        for text in "abc":
            publish(warehouse, "vocab", text)
        assert (vocab.path / "tags.txt").read_text() == "old"
        (draft.path / "model.safetensors").write_text("w")
    assert vocab in warehouse.versions("vocab")


def test_a_folder_whose_manifest_is_broken_is_named(warehouse: Warehouse) -> None:
    product = publish(warehouse, "vocab", "one")
    (product.path / MANIFEST).write_text('{"asset": "vocab"}')
    with pytest.raises(WarehouseError, match=r"version\.json: not a version manifest .*; remove the folder "):
        warehouse.versions("vocab")


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


def test_work_folders_survive_until_cleared_but_for_those_in_use(warehouse: Warehouse) -> None:
    mine, other = warehouse.work_folder("checkpoint", "aa"), warehouse.work_folder("checkpoint", "bb")
    (mine / "state.pt").write_text("step 100")
    assert warehouse.work_folder("checkpoint", "aa") == mine
    with lock_folder(other):
        with pytest.raises(WarehouseError, match="another process works on these inputs"), lock_folder(other):
            pass
        warehouse.clear_work("checkpoint")
        assert (mine.exists(), other.exists()) == (False, True)
    with lock_folder(other):
        pass
    publish(warehouse, "checkpoint", "w")
    assert other.exists()
    warehouse.clear_work("checkpoint")
    assert not other.exists()


def test_the_manifest_is_plain_json(warehouse: Warehouse) -> None:
    product = publish(warehouse, "vocab", "one", {"posts": "p"})
    content = json.loads((product.path / MANIFEST).read_text())
    assert set(content) == {"asset", "version", "inputs", "files", "created"}
    assert content["created"].endswith("+00:00")

"""An asset's folder: links and foreign things are never followed, and what people do to it is told with a remedy."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from booru_embed_dagster.warehouse import folders
from booru_embed_dagster.warehouse.manifests import MANIFEST, WarehouseError
from booru_embed_dagster.warehouse.warehouse import Warehouse, lock_folder
from tests.dagster.warehouse.warehouse_helpers import publish, texts


@pytest.mark.parametrize("name", ["", ".drafts", ".work", ".lock", ".history", ".work-history"])
@pytest.mark.parametrize("kind", ["link", "dangling", "other"])
def test_nothing_is_written_or_removed_through_a_link(
    warehouse: Warehouse, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, kind: str
) -> None:
    home, outside = warehouse.root / "vocab", tmp_path / "outside"
    for folder in ("chapter", ".work/chapter", ".drafts/chapter", "0123456789abcdef"):
        (outside / folder).mkdir(parents=True)
        (outside / folder / "text").write_text("!")
    place = home / name if name else home
    place.parent.mkdir(parents=True)
    if kind == "other":
        os.mkfifo(place)
    else:
        place.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    said = "a pipe" if kind == "other" else "a link"
    with pytest.raises(WarehouseError, match=rf"^{place}: is {said}.*(move it away|a folder on it)$"):
        publish(warehouse, "vocab", "x")
    with pytest.raises(WarehouseError, match=f": is {said}"):
        warehouse.work_folder("vocab", "a" * 16)
    warehouse.prune()
    warehouse.clear_work("vocab")
    assert warehouse.abandoned(remove=True) == {}
    assert sorted(tmp_path.rglob("*")) == before
    assert kind == "dangling" or f"nothing is removed there: {place}: is " in caplog.text


def test_an_asset_behind_a_link_is_read_and_protects_what_it_was_made_from(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    vocab = publish(warehouse, "vocab", "used")
    checkpoint = publish(warehouse, "checkpoint", "weights", {"vocab": vocab.version})
    (warehouse.root / "checkpoint").rename(tmp_path / "bigger")
    (warehouse.root / "checkpoint").symlink_to(tmp_path / "bigger")
    assert warehouse.current("checkpoint") == checkpoint
    assert warehouse.versions("checkpoint") == [checkpoint]
    for text in "abc":
        publish(warehouse, "vocab", text)
    assert texts(warehouse.versions("vocab")) == ["c", "b", "used"]


@pytest.mark.parametrize("target", ["../../home", "/etc", "..", "a/b", ".drafts"])
def test_current_that_leads_elsewhere_is_no_version_and_is_replaced(
    warehouse: Warehouse, tmp_path: Path, target: str
) -> None:
    publish(warehouse, "vocab", "a")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / MANIFEST).write_text("{}")
    link = warehouse.root / "vocab/current"
    link.unlink()
    link.symlink_to(target)
    with pytest.raises(WarehouseError, match=f"leads to '{target}', which is not a version of 'vocab'; materialize it"):
        warehouse.current("vocab")
    assert publish(warehouse, "vocab", "b") == warehouse.current("vocab")
    assert target not in (link.parent / ".history").read_text() if (link.parent / ".history").exists() else True
    assert (tmp_path / "home").is_dir()


@pytest.mark.parametrize("both", [True, False])
def test_a_warehouse_that_was_copied_with_links_followed_is_told_before_the_work_and_mended_by_the_command(
    warehouse: Warehouse, both: bool
) -> None:
    product = publish(warehouse, "vocab", "a")
    link = warehouse.root / "vocab/current"
    link.unlink()
    shutil.copytree(product.path, link) if both else product.path.rename(link)
    for attempt in (lambda: publish(warehouse, "vocab", "b"), lambda: warehouse.current("vocab")):
        with pytest.raises(
            WarehouseError, match=r"/current: is a folder and not a link, .*, or run: (?P<run>.*)$"
        ) as told:
            attempt()
    command = str(told.value).partition(", or run: ")[2]
    subprocess.run(["sh", "-c", command], check=True)
    assert warehouse.current("vocab") == product
    publish(warehouse, "vocab", "b")
    assert texts(warehouse.versions("vocab")) == ["b", "a"]


@pytest.mark.parametrize("name", ["thesis", "vocab"])
def test_folders_that_are_none_of_ours_are_left_alone(warehouse: Warehouse, name: str) -> None:
    thesis = warehouse.root / name
    for folder in (".work/one", ".work/two", ".drafts/three", "0123456789abcdef", "chapter"):
        (thesis / folder).mkdir(parents=True)
        (thesis / folder / MANIFEST).write_text("{")
    before = {*thesis.rglob("*")}
    for text in "abcd":
        publish(warehouse, "vocab", text)
    warehouse.clear_work(name)
    assert warehouse.abandoned(remove=True) == {}
    assert warehouse.prune() == []
    assert before <= {*thesis.rglob("*")}
    assert name == "vocab" or before == {*thesis.rglob("*")}


def test_the_newest_work_folder_is_the_one_that_was_asked_for_last(warehouse: Warehouse) -> None:
    for number, key in enumerate(one * 16 for one in "abcb"):
        folder = warehouse.work_folder("checkpoint", key)
        os.utime(folder, (1e9 - number, 1e9 - number))  # the clock runs backwards
    assert [path.name for path in warehouse.abandoned(remove=True)] == ["c" * 16, "a" * 16]
    assert [path.name for path in (warehouse.root / "checkpoint/.work").iterdir() if path.is_dir()] == ["b" * 16]


def test_work_folders_survive_until_cleared_but_for_those_in_use(warehouse: Warehouse) -> None:
    mine, other = (warehouse.work_folder("checkpoint", one * 16) for one in "ab")
    (mine / "state.pt").write_text("step 100")
    assert warehouse.work_folder("checkpoint", "a" * 16) == mine
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


def test_a_kill_while_a_work_folder_is_removed_leaves_no_part_to_resume_from(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = warehouse.work_folder("checkpoint", "a" * 16)
    (folder / "state.pt").write_text("step 100")
    with monkeypatch.context() as patch:
        patch.setattr(folders, "remove", lambda path: (path / "state.pt").unlink())
        warehouse.clear_work("checkpoint")
    assert not folder.exists()
    (dead,) = warehouse.abandoned(remove=True)
    assert dead.parent.name == ".drafts"
    assert not dead.exists()

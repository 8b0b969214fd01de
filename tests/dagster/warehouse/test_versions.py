"""Which version is the newest, which are in use, and what damage or the clock changes about that."""

from __future__ import annotations

import json
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_dagster.warehouse import warehouse as module
from booru_embed_dagster.warehouse.manifests import MANIFEST
from booru_embed_dagster.warehouse.warehouse import ASSETS, Product, Warehouse
from tests.dagster.warehouse.warehouse_helpers import names, publish, texts


def test_prune_keeps_the_newest_and_current(warehouse: Warehouse) -> None:
    made = [publish(warehouse, "vocab", text) for text in "abcd"]
    assert warehouse.versions("vocab") == [made[3], made[2]]
    publish(warehouse, "vocab", "c")
    last = publish(warehouse, "vocab", "e")
    publish(warehouse, "posts", "elsewhere")
    assert warehouse.versions("vocab") == [last, made[2]]
    assert names(warehouse, "vocab") == {last.version, made[2].version, "current"}


def test_what_was_current_last_is_the_newest_however_old_it_is(warehouse: Warehouse) -> None:
    old = publish(warehouse, "vocab", "a")
    for text in "bc":
        publish(warehouse, "vocab", text)
        assert publish(warehouse, "vocab", "a") == old
    assert texts(warehouse.versions("vocab")) == ["a", "c"]
    warehouse.keep_versions = 1
    warehouse.prune()
    assert names(warehouse, "vocab") == {old.version, "current"}


@pytest.mark.parametrize("lost", [False, True])
def test_the_clock_decides_only_where_the_history_is_lost(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    day = iter([5, 6, 2, 1])  # the clock is set back, or two machines take turns

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Clock:
            return cls(2026, 1, next(day), tzinfo=tz)

    monkeypatch.setattr(module, "datetime", Clock)
    warehouse.keep_versions = 9
    for text in "abcd":
        publish(warehouse, "vocab", text)
    if lost:
        (warehouse.root / "vocab/.history").write_bytes(b"\xff\x00 ../../x")
    assert texts(warehouse.versions("vocab")) == list("dbac" if lost else "dcba")
    assert texts(warehouse.earlier("vocab")) == ([] if lost else list("cba"))
    warehouse.keep_versions = 2
    warehouse.prune()
    assert texts(warehouse.versions("vocab")) == list("db" if lost else "dc")


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


def rewrite(product: Product, **changes: object) -> None:
    values = {**json.loads((product.path / MANIFEST).read_text()), **changes}
    del values["checksum"]
    (product.path / MANIFEST).write_text(json.dumps(values))


@pytest.mark.parametrize(
    "changes", [{"inputs": 3}, {"version": "../../home"}, {"version": "f" * 16}, {"asset": "posts"}, {"asset": "../x"}]
)
def test_a_damaged_or_foreign_version_is_passed_over_kept_and_told(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture, changes: dict[str, object]
) -> None:
    (warehouse.root.parent / "home").mkdir()
    product = publish(warehouse, "vocab", "one")
    rewrite(product, **changes)
    for text in "abc":
        publish(warehouse, "vocab", text)
    assert texts(warehouse.versions("vocab")) == ["c", "b"]
    assert (product.path / "tags.txt").exists()
    assert (warehouse.root.parent / "home").exists()
    assert all(line.startswith(f"passed over and kept: {product.path / MANIFEST}: ") for line in caplog.messages)
    assert caplog.messages


def test_while_it_is_unknown_what_a_checkpoint_was_made_from_nothing_is_pruned(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    vocab = publish(warehouse, "vocab", "used")
    checkpoint = publish(warehouse, "checkpoint", "weights", {"vocab": vocab.version})
    whole = (checkpoint.path / MANIFEST).read_text()
    (checkpoint.path / MANIFEST).write_text(whole[:30])
    for text in "abc":
        publish(warehouse, "vocab", text)
    assert texts(warehouse.versions("vocab")) == ["c", "b", "a", "used"]
    assert f"{checkpoint.path}: old versions are kept while it is not known what this one was made from" in caplog.text
    (checkpoint.path / MANIFEST).write_text(whole)
    warehouse.prune()
    assert texts(warehouse.versions("vocab")) == ["c", "b", "used"]


def test_a_checkpoint_that_was_moved_behind_a_link_keeps_its_inputs(warehouse: Warehouse, tmp_path: Path) -> None:
    vocab = publish(warehouse, "vocab", "used")
    checkpoint = publish(warehouse, "checkpoint", "weights", {"vocab": vocab.version})
    publish(warehouse, "checkpoint", "later")
    checkpoint.path.rename(tmp_path / "bigger")
    checkpoint.path.symlink_to(tmp_path / "bigger")
    for text in "abc":
        publish(warehouse, "vocab", text)
    assert texts(warehouse.versions("vocab")) == ["c", "b", "used"]
    for text in "abc":
        publish(warehouse, "checkpoint", text)
    assert (tmp_path / "bigger/tags.txt").exists()


def test_what_cannot_be_pruned_fails_no_publication(
    warehouse: Warehouse, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in "ab":
        publish(warehouse, "vocab", text)
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_folder", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        assert publish(warehouse, "vocab", "c") == warehouse.current("vocab")
    assert "an old version is kept: [Errno 13] Permission denied" in caplog.text
    assert len(warehouse.versions("vocab")) == 3
    with monkeypatch.context() as patch:
        patch.setattr(Warehouse, "surplus", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        publish(warehouse, "vocab", "d")
    assert "old versions are kept: [Errno 5] Input/output error" in caplog.text


def test_the_assets_are_those_of_the_pipeline() -> None:
    from booru_embed_dagster.definitions import defs
    from booru_embed_dagster.jobs.percentile_sweep import PERCENTILE_SWEEP

    made = {key.to_user_string() for key in defs.resolve_asset_graph().materializable_asset_keys}
    assert {*ASSETS} == {*made, PERCENTILE_SWEEP}

"""Where the server's model, posts and map come from, and that they stay what they were when they were opened."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import uvicorn

from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.web.app import create_app
from booru_embed_core.web.served import LeftOut, Loading, without_folders
from booru_embed_core.web.sources import Sources
from booru_embed_core.web.tag_map import TagMapError
from tests.core.web.warehouse_helpers import Warehouse, call, wait_until, write_manifest


def test_what_lies_beside_the_checkpoint_is_served_where_it_fits(warehouse: Warehouse) -> None:
    sources = Sources(warehouse.checkpoint)
    whole = sources.load()
    assert whole.posts is not None
    assert whole.tag_map is not None
    assert whole.tag_map.points[3].tolist() == [3, 3]
    assert (whole.checkpoint, whole.left_out) == ("v1", ())
    before = sources.version()
    assert sources.version() == before

    warehouse.move("checkpoint", "v2")
    assert sources.version() != before
    half = sources.load()
    assert half.posts is None
    assert half.tag_map is not None
    assert half.tag_map.points[3].tolist() != [3, 3]
    assert half.checkpoint == "v2"
    assert [what for what, _ in half.left_out] == ["posts", "map"]
    posts, table_of_map = (reason for _, reason in half.left_out)
    assert "post_embeddings/v1: made by another model" in posts
    assert "tag_embeddings.parquet: of another checkpoint; materialize tag_embeddings again" in table_of_map
    assert table_of_map.endswith("; two principal components are shown")

    (warehouse.folder / "post_embeddings/v2").mkdir()
    (warehouse.folder / "tag_embeddings/v2").mkdir()
    for asset in ("post_embeddings", "tag_embeddings"):
        warehouse.move(asset, "v2")
    again = sources.load()
    assert again.embedder is half.embedder  # only what moved is read
    assert [what for what, _ in again.left_out] == ["posts"]
    assert "no such file" in again.left_out[0].reason
    shutil.rmtree(warehouse.folder / "checkpoint")
    assert sources.version() == ()


def test_a_manifest_tells_what_is_of_another_checkpoint_though_it_fits(warehouse: Warehouse) -> None:
    for asset in ("post_embeddings", "tag_embeddings"):
        manifest = warehouse.folder / asset / "v1/version.json"
        write_manifest(manifest, {"checkpoint": "v0", "vocab": "v1"})
    found = Sources(warehouse.checkpoint).load()
    assert found.posts is None
    assert [what for what, _ in found.left_out] == ["posts", "map"]
    assert (
        "post_embeddings/v1: made by checkpoint v0, not v1; materialize post_embeddings again"
        in found.left_out[0].reason
    )
    assert "materialize tag_embeddings again; two principal" in found.left_out[1].reason
    for asset in ("post_embeddings", "tag_embeddings"):
        manifest = warehouse.folder / asset / "v1/version.json"
        write_manifest(manifest, {"checkpoint": "v1"})
    assert Sources(warehouse.checkpoint).load().left_out == ()


def test_what_is_named_and_does_not_fit_is_an_error(warehouse: Warehouse, search_folder: Path, tag_table: Path) -> None:
    named = Sources(warehouse.checkpoint, search_folder, tag_table).load()
    assert named.posts is not None
    assert named.tag_map is not None
    warehouse.move("checkpoint", "v2")
    with pytest.raises(SearchError, match="made by another model"):
        Sources(warehouse.checkpoint, search_folder).load()
    with pytest.raises(TagMapError, match="of another checkpoint"):
        Sources(warehouse.checkpoint, None, tag_table).load()


def test_a_missing_package_leaves_out_only_what_nobody_named(
    warehouse: Warehouse, search_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "booru_embed_core.search.post_search")
    monkeypatch.delitem(sys.modules, "booru_embed_core.search.vector_index")
    monkeypatch.setitem(sys.modules, "faiss", None)
    found = Sources(warehouse.checkpoint).load()
    assert found.left_out == (LeftOut("posts", "faiss is not installed; pip install 'booru-embed[search]'"),)
    with pytest.raises(ModuleNotFoundError):
        Sources(warehouse.checkpoint, search_folder).load()


@pytest.mark.parametrize("is_removed", [False, True])
def test_what_is_opened_stays_when_its_version_moves_or_goes(warehouse: Warehouse, is_removed: bool) -> None:
    served = Sources(warehouse.checkpoint).load()
    assert served.posts is not None
    ids = served.posts.table.post_id.tolist()
    post_id = ids[len(ids) // 2]

    def asked() -> list[object]:
        assert served.posts is not None
        found = served.posts.search(served.embedder, f"id:{post_id} + id:{ids[0]} - id:{ids[-1]}", 9)
        return [
            found,
            served.posts.search(served.embedder, "1girl -solo", 5),
            served.completer.embedder.embed("1girl")[0, 0],
        ]

    before = asked()
    for asset in ("post_embeddings", "checkpoint", "tag_embeddings"):
        other = warehouse.folder / asset / "other"
        shutil.copytree(warehouse.folder / asset / "v1", other)
        for file in other.glob("part-*"):
            file.write_bytes(b"another content")
        warehouse.move(asset, "other")
        if is_removed:
            shutil.rmtree(warehouse.folder / asset / "v1")
    assert asked() == before


def test_a_version_that_moves_while_it_is_loaded_is_not_mixed(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the manifest was read of is what is opened, whatever `current` says by then."""
    shutil.copytree(warehouse.folder / "post_embeddings/v1", warehouse.folder / "post_embeddings/v9")
    for version, checkpoint in (("v1", "v1"), ("v9", "v9")):
        write_manifest(warehouse.folder / "post_embeddings" / version / "version.json", {"checkpoint": checkpoint})
    sources = Sources(warehouse.checkpoint)
    fitting = sources._fitting

    def moving(*given: object) -> object:
        found = fitting(*given)  # type: ignore[arg-type]
        warehouse.move("post_embeddings", "v9")
        return found

    monkeypatch.setattr(sources, "_fitting", moving)
    served = sources.load()
    assert served.posts is not None
    assert served.posts.folder.name == "v1"


def test_folders_are_known_by_every_spelling(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(warehouse.folder.parent)
    relative = Path("warehouse/checkpoint/current")
    sources = Sources(relative)
    for spelled in (relative, warehouse.checkpoint, warehouse.checkpoint.resolve()):
        hidden = without_folders(f"{spelled}/config.json: no such file", sources.folders())
        assert hidden == "config.json: no such file"
    assert without_folders(f"{warehouse.folder}: gone", sources.folders()) in (
        "warehouse: gone",
        f"{warehouse.folder.name}: gone",
    )


def test_no_request_is_dropped_while_the_checkpoint_moves(warehouse: Warehouse) -> None:
    sources = Sources(warehouse.checkpoint)
    said: list[str] = []
    loading = Loading(sources.load, sources.version, say=said.append, poll_seconds=0.001)
    server = uvicorn.Server(uvicorn.Config(create_app(loading), port=0, log_level="error", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/api"
        wait_until(lambda: loading._served is not None)
        is_over = threading.Event()

        def completed(tag: str) -> set[str]:
            found = set()
            while not is_over.is_set():
                (best,) = call(f"{url}/complete", {"tags": f"1girl {tag}", "k": 1})["completions"]
                found.add(best["tag"])
            return found

        def embedded(caption: str) -> set[float]:
            found = set()
            while not is_over.is_set():
                (one,) = call(f"{url}/embed", {"captions": [caption]})["embeddings"]
                found.add(round(one["vector"][0], 3))
            return found

        with ThreadPoolExecutor(4) as threads:
            tags = [threads.submit(completed, tag) for tag in ("cat_ears", "tail", "bell")]
            vectors = threads.submit(embedded, "1girl cat_ears")
            try:
                for version in ("v2", "v1", "v2", "v1", "v2"):
                    warehouse.move("checkpoint", version)
                    wait_until(lambda version=version: loading.served.checkpoint == version)
                    left_out = call(f"{url}/info")["left_out"]
                    assert [one["what"] for one in left_out] == (["posts", "map"] if version == "v2" else [])
                (warehouse.folder / "checkpoint/v3").mkdir()
                warehouse.move("checkpoint", "v3")
                wait_until(lambda: loading.error is not None)
                info = call(f"{url}/info")
                assert info["checkpoint"] == "v2"
                assert info["reload_error"].startswith("config.json: no such file")
            finally:
                is_over.set()
            # The two checkpoints complete alike, and embed in another order of dimensions.
            assert [len(asked.result()) for asked in tags] == [1, 1, 1]
            assert len(vectors.result()) == 2
    finally:
        server.should_exit = True
        thread.join()
    assert said[-1].endswith("; checkpoint v2 still answers")
    assert str(warehouse.folder) in said[-1]
    assert str(warehouse.folder) not in json.dumps(info)

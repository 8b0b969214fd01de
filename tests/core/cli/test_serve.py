"""`booru-embed serve`: it answers when it says so, ends in good order, and names what keeps it from serving."""

from __future__ import annotations

import functools
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from safetensors.torch import load_file, save_file

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.tag_vectors import embeddings_table
from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.training.checkpoint_config import read_config, write_config
from booru_embed_core.version_file import content_version
from booru_embed_core.web.app import create_app
from booru_embed_core.web.served import LeftOut, Loading
from booru_embed_core.web.sources import Sources
from booru_embed_core.web.tag_map import TagMapError
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained

SERVE = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()", "serve"]
SECONDS = 120


@pytest.mark.slow
def test_a_server_follows_its_warehouse_and_ends_with_zero_when_terminated(warehouse: Warehouse) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    warehouse.move("checkpoint", "v2")
    command = [
        *SERVE,
        "--checkpoint",
        str(warehouse.checkpoint),
        "--port",
        str(port),
        "--allow-origin",
        "http://a.example",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            wait_until(lambda: status(f"{url}/api/ready") == 200)
            assert len(call(f"{url}/api/complete", {"tags": "1girl", "k": 3})["completions"]) == 3
            info = call(f"{url}/api/info")
            assert info["checkpoint"] == "v2"
            assert [one["what"] for one in info["left_out"]] == ["posts", "map"]
            warehouse.move("checkpoint", "v1")
            wait_until(lambda: call(f"{url}/api/info")["checkpoint"] == "v1")
            assert call(f"{url}/api/info")["left_out"] == []
            asks = {"Origin": "http://a.example", "Access-Control-Request-Method": "POST"}
            preflight = urllib.request.Request(f"{url}/api/complete", headers=asks, method="OPTIONS")
            with urllib.request.urlopen(preflight, timeout=SECONDS) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == "http://a.example"
            server.send_signal(signal.SIGTERM)
            output, _ = server.communicate(timeout=30)
        finally:
            server.kill()
    assert output.startswith(f"booru-embed on {url} ")
    assert [line.split(": ")[:2] for line in output.splitlines()[1:-1]] == [["left out", "posts"], ["left out", "map"]]
    assert output.endswith("checkpoint v1 answers now\n")
    assert server.returncode in (0, -signal.SIGTERM)


def status(url: str) -> int:
    """The status of `url`; 0 if nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except urllib.error.URLError:
        return 0


@pytest.fixture
def run_serve(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`booru-embed serve` in this process, up to what stops it before it serves."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # the command sets it; monkeypatch takes it back
    monkeypatch.setattr("uvicorn.Server.run", lambda *_args, **_kwargs: pytest.fail("it serves"))
    return functools.partial(run, "serve")


def test_a_folder_that_is_no_checkpoint_is_named_before_anything_is_served(run_serve: Run, tmp_path: Path) -> None:
    assert run_serve("--checkpoint", tmp_path).failed(1).startswith(f"{tmp_path}/config.json: no such file")


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid"])
def test_an_address_that_cannot_be_had_is_named_with_the_remedy(run_serve: Run, trained: Trained, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = run_serve("--checkpoint", trained.checkpoint, "--host", host, "--port", port).failed(1)
    assert message.startswith(f"cannot listen on {host}, port {port}: ")
    assert message.endswith("; choose another with --host or --port")


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("127.0.0.1:7860", "'127.0.0.1:7860' is not an origin; give scheme://host[:port]"),
        ("http://127.0.0.1:port", "is not an origin"),
        ("http://127.0.0.1:7860/", "browsers send http://127.0.0.1:7860; give that"),
        ("HTTP://Example.org", "browsers send http://example.org; give that"),
        ("https://example.org:443", "browsers send https://example.org; give that"),
        ("http://[::1]:7860/page", "browsers send http://[::1]:7860; give that"),
        ("", "is not an origin"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(
    run_serve: Run, trained: Trained, origin: str, message: str
) -> None:
    found = run_serve("--checkpoint", trained.checkpoint, "--allow-origin", "*", "--allow-origin", origin).failed(2)
    assert "--allow-origin" in found
    assert message in found


class Warehouse:
    """Two checkpoints of one vocabulary, with the posts and the map of the first."""

    def __init__(self, folder: Path, trained: Trained, search_folder: Path, table: Path) -> None:
        self.folder = folder
        for asset in ("checkpoint", "post_embeddings", "tag_embeddings"):
            (folder / asset).mkdir(parents=True)
        shutil.copytree(trained.checkpoint, folder / "checkpoint/v1")
        shutil.copytree(trained.checkpoint, folder / "checkpoint/v2")
        weights = load_file(folder / "checkpoint/v2/model.safetensors")
        weights["bottleneck.weight"] = weights["bottleneck.weight"].flip(0)
        metadata = {"vocab_hash": trained.corpus.vocab.hash}
        save_file(weights, folder / "checkpoint/v2/model.safetensors", metadata)
        write_config(folder / "checkpoint/v2", read_config(folder / "checkpoint/v2"), ["model.safetensors"])
        shutil.copytree(search_folder, folder / "post_embeddings/v1")
        (folder / "tag_embeddings/v1").mkdir()
        shutil.copyfile(table, folder / "tag_embeddings/v1/tag_embeddings.parquet")
        for asset in ("checkpoint", "post_embeddings", "tag_embeddings"):
            self.move(asset, "v1")

    def move(self, asset: str, version: str) -> None:
        """Moves the link ``current``, as a materialization does."""
        (self.folder / asset / ".spare").symlink_to(version)
        (self.folder / asset / ".spare").replace(self.folder / asset / "current")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint/current"


@pytest.fixture(scope="module")
def table(search_embedder: BooruEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of the asset `tag_embeddings`; tags lie on a line."""
    found = embeddings_table(search_embedder)
    line = pa.array(np.arange(len(found), dtype=np.float32))
    file = tmp_path_factory.mktemp("table") / "tag_embeddings.parquet"
    pq.write_table(found.append_column("x", line).append_column("y", line), file)
    return file


@pytest.fixture
def warehouse(trained: Trained, search_folder: Path, table: Path, tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse", trained, search_folder, table)


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


def write_manifest(file: Path, inputs: dict[str, str]) -> None:
    """A manifest of the files beside it."""
    names = sorted(path.name for path in file.parent.iterdir() if path != file)
    version = content_version(file.parent, names)
    file.write_text(json.dumps({"version": version, "inputs": inputs, "files": names}))


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


def test_what_is_named_and_does_not_fit_is_an_error(warehouse: Warehouse, search_folder: Path, table: Path) -> None:
    named = Sources(warehouse.checkpoint, search_folder, table).load()
    assert named.posts is not None
    assert named.tag_map is not None
    warehouse.move("checkpoint", "v2")
    with pytest.raises(SearchError, match="made by another model"):
        Sources(warehouse.checkpoint, search_folder).load()
    with pytest.raises(TagMapError, match="of another checkpoint"):
        Sources(warehouse.checkpoint, None, table).load()


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


def test_no_request_is_dropped_while_the_checkpoint_moves(warehouse: Warehouse) -> None:
    sources = Sources(warehouse.checkpoint)
    said: list[str] = []
    loading = Loading(sources.load, sources.version, say=said.append, poll_seconds=0.001)
    server = uvicorn.Server(uvicorn.Config(create_app(loading), port=0, log_level="error"))
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


def call(url: str, body: dict[str, object] | None = None) -> Any:
    """The JSON that `url` answers; any status but 200 raises."""
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, content, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.load(answer)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)

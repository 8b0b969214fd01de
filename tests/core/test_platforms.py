"""What Windows and macOS lack is neither imported nor called where a checkpoint is loaded and served.

Windows is simulated in a process of its own: see ``simulated_windows`` for what that shows and what it does not.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.model_helpers import Trained
from tests.core.simulated_windows import lacking, lacking_modules

ROOT = Path(__file__).parents[2]
ON_WINDOWS = """
import contextlib, io, json, os, signal, socket, sys, threading, time, urllib.request
from tests.core.simulated_windows import simulate
simulate()
from booru_embed_core.cli.main import main
from booru_embed_core.filesystem import locked_folder, sync_tree
from pathlib import Path

def call(*arguments):
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as stopped:
            assert not stopped.code, arguments
    return out.getvalue()

work = Path(sys.argv[1])
os.chdir(work)
found = {"complete": json.loads(call("complete", "1girl, cat ears", "-k", "3", "--json"))}
found["embed"] = json.loads(call("embed", "1girl, cat ears", "--json"))
for output in ("vectors.parquet", "vectors.npy", "vectors.npy"):
    call("embed", "--file", "captions.parquet", "--output", output)
found["search"] = json.loads(call("search", "1girl", "-k", "3", "--json"))
with locked_folder(work):
    try:
        locked_folder(work).__enter__()
    except BlockingIOError:
        found["locked"] = sorted(one.name for one in work.parent.glob("*.lock"))
sync_tree(work)
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]

def ask_and_stop():
    asked = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/complete", b'{"tags": "1girl", "k": 3}', {"Content-Type": "application/json"}
    )
    while "served" not in found:
        try:
            with urllib.request.urlopen(asked) as answer:
                found["served"] = json.load(answer)
        except OSError as error:
            if getattr(error, "code", 503) != 503:  # until it listens, then until the model is loaded
                found["served"] = str(error)
            time.sleep(0.05)
    found["left"] = sorted(one.name for one in work.iterdir())
    (work / "found.json").write_text(json.dumps(found), encoding="utf-8")
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=ask_and_stop, daemon=True).start()
call("serve", "--port", str(port))
"""


@pytest.mark.slow
def test_a_checkpoint_is_used_and_served_where_windows_is_simulated(
    trained: Trained, search_folder: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    for asset, product in (("checkpoint", trained.checkpoint), ("post_embeddings", search_folder)):
        home = work / "data/warehouse" / asset
        home.mkdir(parents=True)
        (home / "0123456789abcdef").symlink_to(product)
        (home / "current").write_text("0123456789abcdef\n")  # as git leaves a link there
    pq.write_table(pa.table({"caption": ["1girl, cat ears", "tail"]}), work / "captions.parquet")
    command = [sys.executable, "-c", ON_WINDOWS, str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((work / "found.json").read_text(encoding="utf-8"))
    embedder = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    wanted = [completion.tag for completion in embedder.complete("1girl, cat ears", k=3)]
    assert [one["tag"] for one in found["complete"]["completions"]] == wanted
    vectors = embedder.embed(["1girl, cat ears", "tail"])
    assert found["embed"]["embeddings"][0]["vector"] == pytest.approx(vectors[0].tolist(), abs=0.01)
    assert np.load(work / "vectors.npy") == pytest.approx(vectors, abs=0.01)
    assert pq.read_table(work / "vectors.parquet")["id"].to_pylist() == [0, 1]
    assert len(found["search"]["posts"]) == 3
    assert len(found["served"]["completions"]) == 3
    assert found["locked"] == ["work.lock"]
    assert found["left"] == ["captions.parquet", "data", "vectors.npy", "vectors.parquet"]
    assert not list(tmp_path.glob("*.lock"))


def test_no_module_of_the_core_imports_what_windows_lacks_but_for_other_systems() -> None:
    gone = lacking_modules()
    assert {"fcntl", "resource", "pwd"} <= gone
    assert "fork" in lacking("os")
    assert {"SIGHUP", "SIGKILL"} <= lacking("signal")
    found = []
    for file in sorted((ROOT / "booru_embed_core").rglob("*.py")):
        for one in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [name.name for name in one.names] if isinstance(one, ast.Import) else []
            names += [one.module or ""] if isinstance(one, ast.ImportFrom) else []
            found += [f"{file.name}: {name}" for name in names if name.partition(".")[0] in gone]
    assert found == []

"""Code that must run in a Python with a single extra, given a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.schema import ExportFormat

ROOT: Final = Path(__file__).parents[2]

_EMBED: Final = """
import sys, numpy as np
from booru_embed_core import BooruEmbedder
embedder = BooruEmbedder.load(sys.argv[1], "cpu", "fp32")
np.save(sys.argv[2], embedder.embed(["1girl, cat ears", "tail", ""]))
assert len(embedder.complete("1girl", k=3)) == 3
"""

_BASE: Final = """
import contextlib, io, json
from booru_embed_core.tags.vocab import Vocab
from pathlib import Path
assert Vocab.load(Path(sys.argv[1])).num_tags
assert embedder.similar_tags("1girl", k=2) and embedder.fill("1girl", n=3).tags and embedder.hidden_states("1girl")
from booru_embed_core.cli.main import main
def run(*arguments):
    sys.argv[1:] = arguments
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main()
        except SystemExit as stopped:
            return stopped.code, out.getvalue(), said.getvalue()
checkpoint = sys.argv[1]
for command in (
    ("complete", "1girl"), ("fill", "1girl"), ("similar", "1girl"), ("embed", "1girl", "tail"),
    ("inspect", "vocab", checkpoint), ("inspect", "checkpoint", checkpoint),
):
    at = () if command[0] == "inspect" else ("-c", checkpoint)
    code, out, said = run(*command, *at, "--json")
    assert code == 0 and json.loads(out), (command, said)
assert json.loads(out)["backends"]["100,000 captions"] == "numpy: torch is not installed"
for extra, *command in (
    ("data", "evaluate", "--posts", "none.csv"), ("search", "search", "1girl"), ("serve", "serve", "-c", checkpoint),
):
    code, _, said = run(*command)
    assert code == 1 and said.rstrip().endswith(f"is not installed; pip install 'booru-embed[{extra}]'"), said
try:
    BooruEmbedder.load(checkpoint, backend="torch")
except ValueError as error:
    assert "torch is not installed; install booru-embed[torch]" in str(error), error
else:
    raise SystemExit("loaded with a torch that is not there")
"""

SMOKE: Final = {
    "": _EMBED + _BASE,
    "torch": _EMBED,
    "onnx": _EMBED,
    "export": """
import sys
from pathlib import Path
from booru_embed_core.cli.main import main
checkpoint, vectors = sys.argv[1:]
folder = str(Path(vectors).parent / "exported")
sys.argv[1:] = ["export", "onnx", "--checkpoint", checkpoint, "--output", folder]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code
sys.argv[1:] = [folder, vectors]
"""
    + _EMBED,
    "data": """
import sys
from pathlib import Path
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.schema import POST_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings, TokensSettings, VocabSettings
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.encode import encode_posts
work = Path(sys.argv[2]).parent / "data"
posts, freq, made, packed = (work / name for name in ("posts", "freq", "vocab", "packed"))
for folder in (posts, freq, made, packed):
    folder.mkdir(parents=True)
export = work / "posts.csv"
header = ",".join(POST_COLUMNS)
export.write_text(header + "\\n" + "".join(f"{n},g,1,1girl solo,,,,highres\\n" for n in range(1, 9)))
one = DuckdbSettings(threads=1)
read_posts([export], posts, PostsSettings(), one)
count_tags(posts, freq, one)
save_vocab(build_vocab(freq, VocabSettings()), made)
assert Vocab.load(made).tags == ("1girl", "solo", "highres")
encode_posts(posts, Vocab.load(made), packed, TokensSettings())
""",
    "search": """
import numpy as np
from booru_embed_core.search.vector_index import VectorIndex
from booru_embed_core.search.post_search import PostSearch
vectors = np.eye(64, dtype=np.float16)
rows, similarities = VectorIndex.build(vectors).search(vectors[5].astype(np.float32), 1, None)
assert rows.tolist() == [5]
""",
    "serve": """
from booru_embed_core.web.app import create_app
from booru_embed_core.web.served import Loading
def load():
    raise ValueError("nothing")
assert "/api/complete" in create_app(Loading(load)).openapi()["paths"]
import sys
from pathlib import Path
from booru_embed_core.web.sources import Sources
assert Sources(Path(sys.argv[1])).load().embedder.complete("1girl", k=3)
""",
    "mcp": """
import sys, anyio
from pathlib import Path
from mcp import Client
from booru_embed_core.cli.mcp import _assistant, _Backend
from booru_embed_core.mcp_server.http import create_app
from booru_embed_core.mcp_server.server import create_server
from booru_embed_core.web.server import server_config
server = create_server(_assistant(Path(sys.argv[1]), None, _Backend.AUTO))
async def ask():
    async with Client(server) as client:
        answer = await client.call_tool("complete", {"tags": "1girl", "k": 3})
        assert len(answer.structured_content["completions"]) == 3
        assert (await client.call_tool("search", {"tags": "1girl"})).is_error
anyio.run(ask)
assert server_config(create_app(server))
""",
    "hub": """
from booru_embed_core import BooruEmbedder
try:
    BooruEmbedder.load("nobody/no-such-model")
except ValueError as error:
    assert "neither a folder nor in the Hub's local cache" in str(error), error
""",
}
"""The code by extra; its arguments are the result of `handed` and a file for vectors, float32 ``[3, E]``."""

_FORBIDDEN: Final = {
    "": ("torch", "onnxruntime", "pyarrow", "duckdb", "scipy", "sklearn", "matplotlib", "dagster"),
    "torch": ("onnxruntime", "pyarrow", "duckdb", "scipy", "sklearn", "matplotlib", "tokenizers", "dagster"),
    "onnx": ("torch", "pyarrow", "duckdb", "scipy", "sklearn", "matplotlib", "tokenizers", "dagster"),
    "export": ("dagster",),
    "data": ("torch", "onnxruntime", "dagster"),
    "search": ("torch", "onnxruntime", "duckdb", "scipy", "sklearn", "matplotlib", "tokenizers", "dagster"),
    "serve": ("torch", "onnxruntime", "pyarrow", "duckdb", "scipy", "sklearn", "matplotlib", "dagster"),
    "mcp": ("torch", "onnxruntime", "pyarrow", "duckdb", "scipy", "sklearn", "matplotlib", "dagster", "fastapi"),
    "hub": ("torch", "onnxruntime", "pyarrow", "duckdb", "scipy", "sklearn", "matplotlib", "dagster"),
}
"""Packages that the extra must not install."""


def smoke(extra: str) -> str:
    """The code to run where `extra` is installed."""
    absent = f"assert not [name for name in {_FORBIDDEN[extra]} if find_spec(name)]"
    return f"from importlib.util import find_spec\n{absent}\n{SMOKE[extra]}"


def handed(extra: str, checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as the code of `extra` reads it: exported as ONNX into `folder` if there is no torch."""
    if extra != "onnx":
        return checkpoint
    export(ExportFormat.ONNX, CheckpointSource.open(checkpoint), folder / "onnx")
    return folder / "onnx"


def build_wheel(folder: Path, *options: str) -> Path:
    """Builds the wheel of this checkout in `folder`, from files that git knows: a leftover build folder stays out."""
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        if name.startswith(("booru_embed_", "pyproject", "README", "LICENSE")) and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *options, "--wheel-dir", folder, source]
    subprocess.run(pip, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel

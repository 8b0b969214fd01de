"""Finds the code blocks of the docs and runs them as a reader would, in a folder that looks like the repository."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from booru_embed_core.cli import main as cli
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.settings import DuckdbSettings, PostsSettings, Settings
from tests.dagster.project_helpers import Project

ROOT = Path(__file__).parents[2]
SERVER = "http://127.0.0.1:8010"
"""Where the docs' server listens."""
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?: *<!-- (?P<note>[^\n]*?) -->\n)? *```(?P<language>\w+)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_NOT_RUN = re.compile(r"not run: (\w.{9,})")


class Block(NamedTuple):
    """A fenced block; `reason` says why it is not run, None if it is."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of `page`, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        reason = _NOT_RUN.fullmatch(match["note"] or "")
        line = text.count("\n", 0, match.start("code")) + 1
        code = textwrap.dedent(match["code"])
        found.append(Block(page, line, match["language"], code, reason and reason[1]))
    return found


def check(block: Block) -> None:
    """Fails if `block` cannot be parsed as its language, whether it is run or not."""
    if block.language == "python":
        ast.parse(block.code)
    elif block.language == "toml":
        Settings.model_validate(tomllib.loads(block.code))
    elif block.language == "json":
        json.loads(block.code)


def run(block: Block, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `block` in the working directory, with `names` as the page's namespace."""
    if block.language == "python":
        # Blank lines, so that a traceback names the page's own line.
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
    elif block.language == "sh":
        for command in commands_of(block):
            _run_command(command, f"{block.page.name}:{block.line}", monkeypatch)
    elif block.language == "sql":
        assert duckdb.sql(block.code).fetchall(), block
    elif block.language == "csv":
        _read_csv(block)
    else:
        assert block.language in ("toml", "json"), f"{block.page.name}:{block.line}: cannot run {block.language!r}"


def commands_of(block: Block) -> list[list[str]]:
    """The commands of `block`, each as a list of arguments, without comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _run_command(command: list[str], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if command[:2] == ["booru-embed", "serve"]:
        with serving(command):
            pass
    elif command[0] == "booru-embed":
        _run_cli(command, where, monkeypatch)
    elif command[0] == ".venv/bin/dg":
        dg = [str(Path(sys.executable).with_name("dg")), *command[1:]]
        environment = {**os.environ, **Project(Path.cwd()).environment()}
        done = subprocess.run(dg, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_SECONDS)
        assert done.returncode == 0, f"{where}: {shlex.join(command)}: {done.stdout}{done.stderr}"
    elif command[0] == "curl":
        needs_server = any(SERVER in word for word in command)
        with serving(["booru-embed", "serve"]) if needs_server else nullcontext(SERVER) as address:
            asked = [word.replace(SERVER, address) for word in command]
            assert json.loads(subprocess.check_output([*asked, "--fail-with-body"], timeout=_SECONDS)), where
    else:
        raise AssertionError(f"{where}: {command[0]} does not run here: give the reason in a comment before the block")


_SECONDS: float = 120


@contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """The address of `command` on a free port, once it is ready; afterwards it must shut down cleanly."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    call = [sys.executable, "-c", "from booru_embed_core.cli.main import main; main()", *command[1:], "--port", port]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            deadline = time.monotonic() + _SECONDS
            while True:
                try:
                    urllib.request.urlopen(f"{address}/api/ready", timeout=10).close()
                    break
                except urllib.error.URLError:
                    assert server.poll() is None, server.communicate()[0]
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield address
            server.terminate()
            output, _ = server.communicate(timeout=_SECONDS)
        finally:
            server.kill()
    assert "Traceback" not in output


_done: set[tuple[str, ...]] = set()


def _run_cli(command: list[str], where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tuple(command)
    if command[1] != "ingest" and key in _done:  # two pages show it; it writes nothing
        return
    _done.add(key)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, f"{where}: {shlex.join(command)}"


def _read_csv(block: Block) -> None:
    """Checks that the export in `block` is read, each line as a post."""
    folder = Path(f"csv-{block.line}")
    (folder / "out").mkdir(parents=True)
    (folder / "posts.csv").write_text(block.code, encoding="utf-8")
    report = read_posts([folder / "posts.csv"], folder / "out", PostsSettings(), DuckdbSettings())
    assert report.num_kept == len(block.code.splitlines()) - 1, report

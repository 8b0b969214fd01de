"""Code blocks of the docs: found, and run as a reader would run them, in a folder that looks like the repository's."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from booru_embed_core import cli
from booru_embed_core.posts.files import read_posts
from booru_embed_core.settings import DuckdbSettings, PostsSettings, Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?: *<!-- (?P<note>[^\n]*?) -->\n)? *```(?P<language>\w+)\n(?P<code>.*?)^ *```$", re.MULTILINE | re.DOTALL
)
_NOT_RUN = re.compile(r"not run: (\w.{9,})")


class Block(NamedTuple):
    """One fenced block: `reason` is why it is not run, None for one that is."""

    page: Path
    line: int
    language: str
    code: str
    reason: str | None


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of `page`, in its order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        reason = _NOT_RUN.fullmatch(match["note"] or "")
        line = text.count("\n", 0, match.start("code")) + 1
        code = textwrap.dedent(match["code"])
        found.append(Block(page, line, match["language"], code, reason and reason[1]))
    return found


def check(block: Block) -> None:
    """Fails where `block`, run or not, could not be what it says it is."""
    if block.language == "python":
        ast.parse(block.code)
    elif block.language == "toml":
        Settings.model_validate(tomllib.loads(block.code))
    elif block.language == "json":
        json.loads(block.code)


def run(block: Block, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs `block` in the working directory; `names` is the page's namespace."""
    if block.language == "python":
        # Blank lines, so that a traceback names the page's own line.
        exec(compile("\n" * (block.line - 1) + block.code, str(block.page), "exec"), names)
    elif block.language == "sh":
        for command in commands_of(block):
            _run_cli(command, block, monkeypatch)
    elif block.language == "sql":
        assert duckdb.sql(block.code).fetchall(), block
    elif block.language == "csv":
        _read_csv(block)
    else:
        assert block.language in ("toml", "json"), f"{block.page.name}:{block.line}: what is {block.language!r}?"


def commands_of(block: Block) -> list[list[str]]:
    """The commands of `block`, each as its arguments, without comments."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


_done: set[tuple[str, ...]] = set()


def _run_cli(command: list[str], block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"{block.page.name}:{block.line}"
    assert command[0] == "booru-embed", f"{where}: {command[0]} does not run here: say why before the block"
    key = tuple(command)
    if command[1] != "ingest" and key in _done:  # two pages show it; it writes nothing
        return
    _done.add(key)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, f"{where}: {shlex.join(command)}"


def _read_csv(block: Block) -> None:
    """Shown exports are exports: each line is a post."""
    folder = Path(f"csv-{block.line}")
    (folder / "out").mkdir(parents=True)
    (folder / "posts.csv").write_text(block.code, encoding="utf-8")
    report = read_posts([folder / "posts.csv"], folder / "out", PostsSettings(), DuckdbSettings())
    assert report.num_kept == len(block.code.splitlines()) - 1, report

"""The generated reference is current and whole, and the site's hooks keep links."""

from __future__ import annotations

import ast
import subprocess
import sys

import booru_embed_core
from tests.docs.doc_helpers import PAGES, ROOT, blocks_of


def test_pages_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate_reference.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_all_that_the_docs_import_is_documented() -> None:
    text = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    names = set(booru_embed_core.__all__) - {"__version__"}
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "python":
                for node in ast.walk(ast.parse(block.code)):
                    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("booru_embed_core"):
                        names |= {one.name for one in node.names}
    assert len(names) > 10
    assert [name for name in sorted(names) if f"### `{name}`\n" not in text] == []


def test_every_command_and_option_is_explained() -> None:
    text = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if row.split("|")[2].strip() == ""] == []

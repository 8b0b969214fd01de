"""Which extra brings a package that a command lacks, and how to install it where this program runs."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Final

_EXTRAS: Final = dict.fromkeys(["duckdb", "matplotlib", "pyarrow", "scipy", "sklearn", "tokenizers"], "data") | {
    **dict.fromkeys(["anyio", "fastapi", "httptools", "rapidfuzz", "starlette", "uvicorn"], "serve"),
    "dagster": "dag",
    "faiss": "search",
    "mcp": "mcp",
    "onnx": "export",
    "onnxruntime": "export",
    "torch": "torch",
}
"""The extra that brings a package, for commands that a small installation cannot run."""
_OF_COMMANDS: Final = {
    ("search", "pyarrow"): "search",
    ("duplicates", "pyarrow"): "search",
    ("index", "pyarrow"): "search",
    ("mcp", "anyio"): "mcp",
    ("mcp", "starlette"): "mcp",
    ("mcp", "uvicorn"): "mcp",
}
"""The extra of a command for a package that several extras bring."""
_POSIX: Final = ("fcntl", "resource", "termios")


def missing_package(package: str, command: str, prefix: str = sys.prefix) -> str | None:
    """A line on `package`, which `command` cannot import, with what installs it; None for one of no extra.

    Args:
        package: its name as a module.
        command: the name of the command, such as ``search``.
        prefix: the folder of the environment, which shows whether uvx or pipx made it.
    """
    top = package.partition(".")[0]
    if top in _POSIX and sys.platform == "win32":
        return f"{command} needs Linux or macOS; on Windows, run it in WSL"
    extra = _OF_COMMANDS.get((command, top), _EXTRAS.get(top))
    return extra and f"{package} is not installed; {_install(f'booru-embed[{extra}]', command, prefix)}"


def _install(asked: str, command: str, prefix: str) -> str:
    parts = [part.lower() for part in PurePath(prefix).parts]
    if any(part.startswith(("archive-v", "environments-v", "builds-v")) for part in parts):  # of uv's cache
        return f"uvx --from '{asked}' booru-embed {command}"
    if parts[-3:-1] == ["uv", "tools"]:
        return f"uv tool install '{asked}'"
    if "pipx" in parts and ".cache" in parts:
        return f"pipx run --spec '{asked}' booru-embed {command}"
    if "pipx" in parts:
        return f"pipx install --force '{asked}'"
    return f"pip install '{asked}'"

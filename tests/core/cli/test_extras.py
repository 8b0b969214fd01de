"""A package that is missing is told with what installs it where the program runs: pip, uvx, uv or pipx."""

from __future__ import annotations

import sys

import pytest

from booru_embed_core.cli.extras import missing_package


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("/home/a/project/.venv", "pip install 'booru-embed[search]'"),
        ("/home/a/.cache/uv/archive-v0/zK1", "uvx --from 'booru-embed[search]' booru-embed search"),
        ("/home/a/.cache/uv/environments-v2/3b", "uvx --from 'booru-embed[search]' booru-embed search"),
        ("/home/a/.local/share/uv/tools/booru-embed", "uv tool install 'booru-embed[search]'"),
        ("/home/a/.local/share/pipx/venvs/booru-embed", "pipx install --force 'booru-embed[search]'"),
        ("/home/a/.cache/pipx/3b2", "pipx run --spec 'booru-embed[search]' booru-embed search"),
    ],
)
def test_the_remedy_is_of_the_environment(prefix: str, remedy: str) -> None:
    assert missing_package("faiss", "search", prefix) == f"faiss is not installed; {remedy}"


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("pyarrow", "search", "search"),
        ("pyarrow.parquet", "embed", "data"),
        ("anyio", "serve", "serve"),
        ("anyio", "mcp", "mcp"),
        ("dagster", "build", "dag"),
    ],
)
def test_the_extra_is_that_of_the_command(package: str, command: str, extra: str) -> None:
    assert (
        missing_package(package, command, "/venv") == f"{package} is not installed; pip install 'booru-embed[{extra}]'"
    )


def test_what_no_extra_brings_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing_package("nothing", "embed") is None
    assert missing_package("fcntl", "build") is None
    monkeypatch.setattr(sys, "platform", "win32")
    assert missing_package("fcntl", "build") == "build needs Linux or macOS; on Windows, run it in WSL"

"""The names that the package exports: there, lazy, and none of them costs an import that it does not need."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import booru_embed_core

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "onnxruntime",
    "pyarrow",
    "duckdb",
    "scipy",
    "sklearn",
    "faiss",
    "matplotlib",
    "tokenizers",
    "dagster",
)


def loaded_after(code: str, names: tuple[str, ...]) -> set[str]:
    """Those of `names` that a fresh interpreter has imported after `code`."""
    program = f"import sys\n{code}\nprint(*[name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_every_exported_name_is_there_and_listed() -> None:
    for name in booru_embed_core.__all__:
        assert getattr(booru_embed_core, name)
        assert name in dir(booru_embed_core)
    for name in set(booru_embed_core.__all__) - {"__version__"}:
        exported = getattr(booru_embed_core, name)
        assert getattr(sys.modules[exported.__module__], name) is exported
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        booru_embed_core.Nothing  # noqa: B018


def test_the_version_is_that_of_the_installed_distribution() -> None:
    assert booru_embed_core.__version__ == importlib.metadata.version("booru-embed")


def test_the_import_alone_loads_nothing() -> None:
    assert loaded_after("import booru_embed_core", (*HEAVY, "numpy", "pydantic", "importlib.metadata")) == set()


@pytest.mark.parametrize(
    ("name", "needed"),
    [("BooruEmbedder", set()), ("Vocab", set()), ("PackedFile", {"pyarrow"}), ("PostSearch", {"pyarrow", "faiss"})],
)
def test_a_name_loads_what_it_needs_alone(name: str, needed: set[str]) -> None:
    assert loaded_after(f"from booru_embed_core import {name}", HEAVY) == needed


def test_the_embedder_starts_with_numpy_alone() -> None:
    names = ("numpy", "pydantic", "typer", "booru_embed_core.tags.reader")
    assert loaded_after("from booru_embed_core import BooruEmbedder", names) == {"numpy"}


def test_a_command_loads_no_other() -> None:
    code = (
        "import contextlib, io\nfrom booru_embed_core.cli.main import main\nsys.argv[1:] = ['complete', '--help']\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n    main()"
    )
    commands = ("complete", "embed", "export", "ingest", "inspect", "search", "serve")
    names = tuple(f"booru_embed_core.cli.{name}" for name in commands)
    assert loaded_after(code, (*names, "numpy", "pydantic", *HEAVY)) == {"booru_embed_core.cli.complete"}

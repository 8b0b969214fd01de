"""The bundled sample, walked once through the data path, and a checkpoint and search of the tiny corpus."""

from __future__ import annotations

import csv
import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from booru_embed_core.posts.export_files import expand_export
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.settings import DuckdbSettings, PostsSettings, VocabSettings
from tests.core.cli_helpers import Outcome, Run, cli
from tests.core.export_helpers import Walked, walk

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.search.post_search import PostSearch
    from tests.core.model_helpers import Corpus, Trained
    from tests.core.web.warehouse_helpers import Warehouse

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def sample_export() -> Path:
    (file,) = expand_export(["data/sample/*.csv.gz"], ROOT)
    return file


@pytest.fixture(scope="session")
def sample(sample_export: Path, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """The sample with the default cut."""
    return walk(sample_export, tmp_path_factory.mktemp("sample"), VocabSettings())


@pytest.fixture(scope="session")
def sample_rows(sample_export: Path) -> list[dict[str, str]]:
    """The sample as Python's csv module reads it."""
    with gzip.open(sample_export, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`main` with these arguments, in this process."""

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["booru-embed", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return Outcome(stopped.value.code, captured.out, captured.err)

    return call


@pytest.fixture
def read_export(tmp_path: Path) -> Callable[..., tuple[PostsReport, Path]]:
    """Reads bytes as an export and gives the report and the posts' folder."""

    def read(
        content: bytes, *, threads: int = 1, max_rejected_share: float = 0.999, **settings: object
    ) -> tuple[PostsReport, Path]:
        number = len(list(tmp_path.iterdir()))
        file, out_dir = tmp_path / f"export-{number}.csv", tmp_path / f"posts-{number}"
        file.write_bytes(content)
        out_dir.mkdir()
        # Tests of hostile tags need commas within tags; `test_tag_fields.py` has those of the defaults.
        defaults = {"max_rejected_share": max_rejected_share, "tag_separator": " ", "null_words": ()}
        values = PostsSettings.model_validate({**defaults, **settings})
        return read_posts([file], out_dir, values, DuckdbSettings(threads=threads)), out_dir

    return read


@pytest.fixture(scope="session", name="corpus")
def corpus_fixture(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    from tests.core.model_helpers import corpus  # torch: tests of the data stages start without it

    return corpus(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session", name="trained")
def trained_fixture(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from tests.core.model_helpers import trained

    return trained(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session")
def search_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.core.search_helpers import searched

    return searched(tmp_path_factory.getbasetemp() / "tiny")


@pytest.fixture(scope="session")
def post_search(search_folder: Path) -> PostSearch:
    from booru_embed_core.search.post_search import PostSearch

    return PostSearch.open(search_folder)


@pytest.fixture(scope="session")
def search_embedder(trained: Trained) -> BooruEmbedder:
    from booru_embed_core.embedder.embedder import BooruEmbedder

    return BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")


@pytest.fixture(scope="session")
def tag_table(search_embedder: BooruEmbedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The table of the asset `tag_embeddings`."""
    from tests.core.web.warehouse_helpers import write_table

    file = tmp_path_factory.mktemp("table") / "tag_embeddings.parquet"
    write_table(search_embedder, file)
    return file


@pytest.fixture
def warehouse(trained: Trained, search_folder: Path, tag_table: Path, tmp_path: Path) -> Warehouse:
    from tests.core.web.warehouse_helpers import Warehouse

    return Warehouse(tmp_path / "warehouse", trained, search_folder, tag_table)

"""Every product of the data path with a bit changed, cut short, or with a part too few, too many or foreign.

A stage that reads it gets what was written, or one line that names the file: never half of it, and no crash.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.posts.checksums import CHECKSUMS_FILE, ChecksumError
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.cut import cost_curve
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.vocab import IMPLICATIONS_FILE, TOKENIZER_FILE, VOCAB_TABLE_FILE, Vocab, VocabError
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile, PackedFileError
from booru_embed_core.training.checkpoint_config import CheckpointError
from tests.core.export_helpers import KEEP_ALL, ONE_THREAD, Walked, csv_bytes, row, walk
from tests.core.model_helpers import Trained

NUM_FLIPS = 40


@dataclass(frozen=True)
class ProductReader:
    """How one product is read: `read` gives something that differs when the content does."""

    folder: Callable[[Walked], Path]
    read: Callable[[Path, Walked, Path], object]
    error: type[ValueError]


def count(folder: Path, walked: Walked, out_dir: Path) -> object:
    return count_tags(folder, out_dir, ONE_THREAD)


def encode(folder: Path, walked: Walked, out_dir: Path) -> object:
    return encode_posts(folder, walked.vocab, out_dir, TokensSettings())


def open_packed(folder: Path, walked: Walked, out_dir: Path) -> object:
    packed = PackedFile.open(folder / PACKED_FILE)
    return packed.tokens.tobytes(), packed.score.tobytes(), packed.split_settings


READERS = {
    "posts, counted": ProductReader(lambda walked: walked.posts_dir, count, ChecksumError),
    "posts, encoded": ProductReader(lambda walked: walked.posts_dir, encode, ChecksumError),
    "frequencies, cut": ProductReader(
        lambda w: w.freq_dir, lambda folder, w, _: build_vocab(folder, KEEP_ALL).hash, ChecksumError
    ),
    "frequencies, drawn": ProductReader(
        lambda w: w.freq_dir, lambda folder, w, _: cost_curve(folder).to_pylist(), ChecksumError
    ),
    "vocabulary": ProductReader(lambda w: w.vocab_dir, lambda folder, w, _: Vocab.load(folder).hash, VocabError),
    "packed file": ProductReader(lambda walked: walked.packed_path.parent, open_packed, PackedFileError),
}


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    folder = tmp_path_factory.mktemp("walked")
    rows = [row(number, f"tag_{number % 7} common", artist=f"artist_{number % 3}") for number in range(50)]
    (folder / "export.csv").write_bytes(csv_bytes([*rows, row("?")]))
    return walk(folder / "export.csv", folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    """Products of another export, whole in themselves."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "export.csv").write_bytes(csv_bytes([row(number, "foreign tags", artist="b") for number in range(9)]))
    return walk(folder / "export.csv", folder)


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest) -> ProductReader:
    return READERS[request.param]


def outcome(reader: ProductReader, folder: Path, walked: Walked, out_dir: Path) -> tuple[object, str]:
    """What was read and nothing, or nothing and the error's line."""
    try:
        return reader.read(folder, walked, out_dir), ""
    except reader.error as error:
        problem = str(error)
    assert "\n" not in problem
    return None, problem


def test_any_flipped_bit_and_any_cut_is_refused_by_name_or_harmless(
    walked: Walked, reader: ProductReader, tmp_path: Path
) -> None:
    folder, out_dir, random = tmp_path / "product", tmp_path / "out", Random(7)
    shutil.copytree(reader.folder(walked), folder)
    out_dir.mkdir()
    whole, _ = outcome(reader, folder, walked, out_dir)
    assert whole is not None
    num_refused = 0
    for file in sorted(folder.iterdir()):
        content = file.read_bytes()
        positions = [random.randrange(len(content)) for _ in range(NUM_FLIPS)]
        flips = [content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :] for at in positions]
        for damaged in [b"", content + b"\n\0", *flips, *(content[:at] for at in positions[:10])]:
            file.write_bytes(damaged)
            found, problem = outcome(reader, folder, walked, out_dir)
            assert file.name in problem or found == whole, (file.name, problem)
            num_refused += found is None
        file.write_bytes(content)
    assert num_refused > NUM_FLIPS
    assert outcome(reader, folder, walked, out_dir) == (whole, "")


def test_a_missing_or_foreign_file_is_refused_by_name(
    walked: Walked, other: Walked, reader: ProductReader, tmp_path: Path
) -> None:
    for file in sorted(reader.folder(walked).iterdir()):
        foreign = reader.folder(other) / file.name
        for content in (None, b"PAR1", b"{}", b"\0" * 64, foreign.read_bytes()):
            if content == file.read_bytes() or (reader.error is PackedFileError and content == foreign.read_bytes()):
                continue  # the same, or a packed file that is whole: its vocabulary tells it apart
            is_of_vocab = reader.error is VocabError
            if content is None and is_of_vocab and file.name in (VOCAB_TABLE_FILE, TOKENIZER_FILE, IMPLICATIONS_FILE):
                continue  # written for other programs: vocab.json is enough
            folder = tmp_path / "product"
            shutil.copytree(reader.folder(walked), folder)
            (folder / file.name).unlink()
            if content is not None:
                (folder / file.name).write_bytes(content)
            found, problem = outcome(reader, folder, walked, tmp_path)
            assert found is None
            # A foreign list of files refuses the files that it does not list.
            assert file.name in problem or content == foreign.read_bytes(), problem
            shutil.rmtree(folder)


@pytest.mark.parametrize("reader", ["posts, counted", "posts, encoded"], indirect=True)
def test_a_part_too_many_is_refused_by_name(
    walked: Walked, other: Walked, reader: ProductReader, tmp_path: Path
) -> None:
    folder = tmp_path / "product"
    shutil.copytree(walked.posts_dir, folder)
    shutil.copy(other.posts_dir / "part-00000.parquet", folder / "part-00001.parquet")
    found, problem = outcome(reader, folder, walked, tmp_path)
    assert found is None
    assert "part-00001.parquet: is not in manifest.json" in problem


def test_a_packed_file_of_another_vocabulary_is_refused_by_name(walked: Walked, other: Walked) -> None:
    with pytest.raises(PackedFileError, match=r"tokens\.safetensors: was made with the vocab "):
        PackedFile.open(other.packed_path, walked.vocab.hash)


def test_what_was_written_says_what_belongs_to_it(walked: Walked) -> None:
    for folder in (walked.posts_dir, walked.freq_dir):
        assert (folder / CHECKSUMS_FILE).is_file()


def embedded(folder: Path) -> object:
    return BooruEmbedder.load(folder, "cpu", "fp32").embed("1girl tail").tobytes()


def searched(folder: Path, embedder: BooruEmbedder) -> object:
    posts = PostSearch.open(folder)
    found = posts.search(embedder, "1girl", 5, required=["tail"], by="embedding")
    return found, posts.vectors(range(0, posts.num_posts, 7)).tobytes()


@pytest.mark.parametrize("product", ["checkpoint", "search"])
def test_models_and_posts_for_search_are_refused_by_name_or_the_same(
    trained: Trained, search_folder: Path, search_embedder: BooruEmbedder, tmp_path: Path, product: str
) -> None:
    folder, random = tmp_path / product, Random(18)
    shutil.copytree(trained.checkpoint if product == "checkpoint" else search_folder, folder)
    errors = (CheckpointError, VocabError) if product == "checkpoint" else (SearchError,)

    def outcome() -> tuple[object, str]:
        try:
            return (embedded(folder) if product == "checkpoint" else searched(folder, search_embedder)), ""
        except errors as error:
            return None, str(error)

    whole, _ = outcome()
    num_refused = 0
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        content = file.read_bytes()
        places = [random.randrange(len(content)) for _ in range(6)]
        flips = [content[:at] + bytes([content[at] ^ 1 << random.randrange(8)]) + content[at + 1 :] for at in places]
        for damaged in (b"", content[: places[0]], *flips):
            file.write_bytes(damaged)
            found, problem = outcome()
            assert found == whole or file.name in problem, (file.name, problem)
            assert "\n" not in problem
            num_refused += found is None
        file.unlink()
        for make in (lambda _: None, Path.mkdir, os.mkfifo):
            make(file)
            found, problem = outcome()
            assert found == whole or file.name in problem, (file.name, problem)
            if file.exists():
                file.rmdir() if file.is_dir() else file.unlink()
        file.write_bytes(content)
    assert num_refused > 20
    assert outcome() == (whole, "")

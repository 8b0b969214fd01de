"""What other programs read out of the tags' vectors is what the embedder has."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.tag_vectors import read_vectors, write_parquet, write_projector, write_word2vec
from booru_embed_core.schema import CATEGORIES
from tests.core.model_helpers import Trained


@pytest.fixture(scope="module")
def embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")


def test_the_table_has_a_row_for_each_tag(embedder: BooruEmbedder, tmp_path: Path) -> None:
    write_parquet(embedder, tmp_path)
    table = pq.read_table(tmp_path / "tag_embeddings.parquet")
    vocab = embedder.vocab
    assert table.column("tag").to_pylist() == list(vocab.tags)
    assert table.column("category").to_pylist() == [CATEGORIES[i].value for i in vocab.categories.tolist()]
    assert table.column("count").to_pylist() == vocab.counts.tolist()
    assert np.array_equal(np.array(table.column("vector").to_pylist(), np.float32), embedder.tag_embeddings())


def test_vectors_are_read_in_blocks(embedder: BooruEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(embedder, tmp_path)
    file, num = tmp_path / "tag_embeddings.parquet", embedder.vocab.num_tags
    monkeypatch.setattr("booru_embed_core.export.tag_vectors._ROWS_AT_ONCE", num // 2 - 1)
    assert np.array_equal(read_vectors(file, num), embedder.tag_embeddings())
    with file.open("rb") as stream:
        halved = read_vectors(stream, num, np.float16)
    assert np.array_equal(halved, embedder.tag_embeddings().astype(np.float16))
    for other in (num - 1, num + 1):
        with pytest.raises(ValueError, match="vectors"):
            read_vectors(file, other)


def test_gensim_reads_the_words(embedder: BooruEmbedder, tmp_path: Path) -> None:
    gensim = pytest.importorskip("gensim.models")
    write_word2vec(embedder, tmp_path)
    words = gensim.KeyedVectors.load_word2vec_format(str(tmp_path / "tags.word2vec.txt"))
    assert words.index_to_key == list(embedder.tokenizer.spellings)
    assert np.array_equal(words.vectors, embedder.tag_embeddings())
    found = [tag for tag, _ in words.most_similar("cat_ears", topn=3)]
    vectors = embedder.tag_embeddings()  # gensim compares them as they are, `similar_tags` without their mean
    index = embedder.vocab.tags.index("cat_ears")
    nearest = np.argsort(-(vectors @ vectors[index]), kind="stable")[1:4]
    assert found == [embedder.tokenizer.spellings[i] for i in nearest.tolist()]


def test_tensorboard_reads_the_projection(embedder: BooruEmbedder, tmp_path: Path) -> None:
    projector = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
    base_plugin = pytest.importorskip("tensorboard.plugins.base_plugin")
    wrappers = pytest.importorskip("werkzeug.wrappers")
    test = pytest.importorskip("werkzeug.test")
    write_projector(embedder, tmp_path)
    plugin = projector.ProjectorPlugin(base_plugin.TBContext(logdir=str(tmp_path)))
    apps = plugin.get_plugin_apps()

    def get(page: str) -> bytes:
        answer = test.Client(apps[page], wrappers.Response).get(f"{page}?run=.&name=tags")
        assert answer.status_code == 200, answer.data
        data = answer.data
        assert isinstance(data, bytes)
        return data

    (shown,) = json.loads(get("/info"))["embeddings"]
    assert (shown["tensorName"], shown["tensorShape"]) == ("tags", [embedder.vocab.num_tags, embedder.embedding_dim])
    vectors = np.frombuffer(get("/tensor"), np.float32).reshape(-1, embedder.embedding_dim)
    assert np.array_equal(vectors, embedder.tag_embeddings())
    head, *rows = get("/metadata").decode().splitlines()
    assert head == "tag\tcategory\tcount"
    assert [row.split("\t")[0] for row in rows] == list(embedder.tokenizer.spellings)


def test_a_tag_that_would_break_a_line_is_named(embedder: BooruEmbedder, tmp_path: Path) -> None:
    tags = ("cat\near", "cat\tear", *embedder.vocab.tags[2:])
    hostile = BooruEmbedder(embedder.network, embedder.config, dataclasses.replace(embedder.vocab, tags=tags))
    with pytest.raises(ValueError, match=r"tag 'cat\\near' contains a separator of this format; export parquet"):
        write_word2vec(hostile, tmp_path)
    tags = ("catear", *tags[1:])
    hostile = BooruEmbedder(embedder.network, embedder.config, dataclasses.replace(embedder.vocab, tags=tags))
    with pytest.raises(ValueError, match=r"tag 'cat\\tear' contains a separator"):
        write_projector(hostile, tmp_path)
    write_word2vec(hostile, tmp_path)

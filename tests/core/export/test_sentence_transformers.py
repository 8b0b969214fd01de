"""sentence-transformers gives the embedder's vectors without custom code, from exported and from typed text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.export.sentence_transformers import (
    tokenizer_json,
    transformer_config,
    transformer_weights,
    write_sentence_transformer,
)
from booru_embed_core.schema import Category, ExportFormat
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab
from tests.core.model_helpers import Trained, encoder

tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module", autouse=True)
def sentence_transformers() -> Any:
    """The package; not imported with this module, since that takes seconds in each process that collects tests."""
    return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def source(trained: Trained) -> CheckpointSource:
    return CheckpointSource.open(trained.checkpoint)


@pytest.fixture(scope="module")
def folder(source: CheckpointSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sentence") / "model"
    export(ExportFormat.SENTENCE_TRANSFORMERS, source, made)
    return made


@pytest.fixture(scope="module")
def embedder(source: CheckpointSource) -> BooruEmbedder:
    return source.embedder


@pytest.fixture(scope="module")
def encode(sentence_transformers: Any, folder: Path) -> Callable[[list[str]], Any]:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return lambda captions: model.encode(captions, show_progress_bar=False)


@pytest.fixture(scope="module")
def read(folder: Path) -> Callable[[str], list[int]]:
    """The token ids behind the summary token."""
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def ids(text: str) -> list[int]:
        first, *rest = tokenizer.encode(text).ids
        assert first == 2
        return rest

    return ids


def test_the_vectors_are_those_of_the_embedder(embedder: BooruEmbedder, encode: Callable[[list[str]], Any]) -> None:
    numbers = np.random.default_rng(5)
    tags = embedder.vocab.tags
    captions = ["", *(" ".join(tags[i] for i in numbers.permutation(len(tags))[:size]) for size in range(1, 30))]
    vectors = encode(captions)
    assert vectors.dtype == np.float32
    assert vectors == pytest.approx(embedder.embed(captions), abs=1e-5)
    # Of one length, without padding: what is not masked must not be taken for causal.
    alike = [" ".join(tags[i] for i in numbers.permutation(len(tags))[:7]) for _ in range(9)]
    assert encode(alike) == pytest.approx(embedder.embed(alike), abs=1e-5)
    typed = ["1girl, cat ears, tail", r"1Girl, tracer \(overwatch\),", "hatsune miku,solo", "solo solo  1girl"]
    assert encode(typed) == pytest.approx(embedder.embed(typed), abs=1e-5)


@pytest.mark.parametrize("shape", [{"num_layers": 1}, {"num_layers": 3, "num_heads": 4, "width": 64}], ids=str)
def test_other_shapes_are_laid_out_as_well(shape: dict[str, int]) -> None:
    transformers = pytest.importorskip("transformers")
    model = encoder(**shape)
    config = transformers.Qwen3Config(**transformer_config(model))
    config._attn_implementation = "eager"
    peer = transformers.Qwen3Model(config).eval()
    peer.load_state_dict(transformer_weights(model))
    tokens = torch.tensor([[2, 20, 19, 30], [2, 25, 18, 21]])
    with torch.inference_mode():
        found = peer(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[:, 0]
        expected = model(tokens.flatten(), torch.tensor([4, 4]), 4)
    assert found.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_text_is_read_as_the_embedder_reads_it(
    embedder: BooruEmbedder, read: Callable[[str], list[int]], data: st.DataObject
) -> None:
    """Known and unknown tags in any order, with repetitions, as an export has them or as people type them."""
    tags = (*embedder.vocab.tags, "general:smile", "artist:tail", "ch:tail", "xyzzy", "a", "no_such_tag", "rating:g")
    words = data.draw(st.lists(st.sampled_from(tags)))
    if data.draw(st.booleans()):
        text = " ".join(words)
    else:
        forms = [(word, word.replace("_", " "), word.upper(), escaped(word)) for word in words]
        typed = [data.draw(st.sampled_from(of_word)) for of_word in forms]
        text = data.draw(st.sampled_from([", ", ",", " ,\n"])).join(typed) + ","
    assert sorted(read(text)) == sorted(embedder.tokenizer.encode(text).token_ids), text


def escaped(tag: str) -> str:
    return tag.replace("(", r"\(").replace(")", r"\)")


def test_names_of_two_categories_and_aliases_are_read_as_the_embedder_reads_them() -> None:
    vocab = Vocab(
        tags=("foo", "bar", "foo", "qux_(x)"),
        categories=np.array([0, 0, 1, 3], dtype=np.uint8),
        counts=np.array([9, 5, 3, 2], dtype=np.int64),
        aliases={Category.GENERAL: {"baz": "bar"}},
    )
    exported, own = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(vocab))), Tokenizer(vocab)
    for text, num in (
        ("foo artist:foo", 2), ("art:foo", 1), ("general:foo, Artist:Foo", 2), ("baz", 1), ("copy:bar, BAR", 1),
        ("ch:qux (x), artist:baz", 2), ("artist:nobody", 0), ("foo\nbar, artist:foo", 3), ("foo\nbar", 2),
    ):  # fmt: skip
        token_ids = own.encode(text).token_ids
        assert len(token_ids) == num
        assert sorted(exported.encode(text).ids[1:]) == sorted(token_ids), text


def test_no_text_gives_a_special_token(read: Callable[[str], list[int]]) -> None:
    for text in ("pad token", "pad_token, summary token", "rating g", ",", "##a", "unknown tag, ,"):
        assert read(text) == []


def test_a_trunk_without_attention_is_refused(source: CheckpointSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trunk 'deepsets' has no counterpart in transformers; export hub or onnx"):
        write_sentence_transformer(encoder(trunk="deepsets"), source.vocab, tmp_path)

"""sentence-transformers gives the embedder's vectors without code of ours, of text of exports and as people type it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_helpers import Trained, encoder

from booru_embed_core.schema import ExportFormat
from booru_embed_core.serving.embedder import BooruEmbedder
from booru_embed_core.serving.export import Source, export
from booru_embed_core.serving.export_sentence import transformer_config, transformer_weights, write_sentence_transformer

sentence_transformers = pytest.importorskip("sentence_transformers")
tokenizers = pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def source(trained: Trained) -> Source:
    return Source.open(trained.checkpoint)


@pytest.fixture(scope="module")
def folder(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sentence") / "model"
    export(ExportFormat.SENTENCE_TRANSFORMERS, source, made)
    return made


@pytest.fixture(scope="module")
def embedder(source: Source) -> BooruEmbedder:
    return source.embedder


@pytest.fixture(scope="module")
def encode(folder: Path) -> Callable[[list[str]], Any]:
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
    theirs = transformers.Qwen3Model(config).eval()
    theirs.load_state_dict(transformer_weights(model))
    tokens = torch.tensor([[2, 20, 19, 30], [2, 25, 18, 21]])
    with torch.inference_mode():
        found = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[:, 0]
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


def test_no_text_gives_a_special_token(read: Callable[[str], list[int]]) -> None:
    for text in ("pad token", "pad_token, summary token", "rating g", ",", "##a", "unknown tag, ,"):
        assert read(text) == []


def test_a_trunk_without_attention_is_refused(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trunk 'deepsets' is no architecture of transformers; export hub or onnx"):
        write_sentence_transformer(encoder(trunk="deepsets"), source.vocab, tmp_path)

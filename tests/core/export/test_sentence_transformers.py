"""sentence-transformers gives the embedder's vectors without custom code, from exported and from typed text."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.export.sentence_transformers import (
    transformer_config,
    transformer_weights,
    write_sentence_transformer,
)
from booru_embed_core.schema import Category, ExportFormat
from tests.core.model_helpers import Trained, encoder


@pytest.fixture(scope="module", autouse=True)
def sentence_transformers() -> Any:
    """The package; not imported with this module, since that takes seconds in each process that collects tests."""
    return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def source(trained: Trained) -> CheckpointSource:
    """A checkpoint whose tags have two aliases each."""
    source = CheckpointSource.open(trained.checkpoint)
    general = source.vocab.tags_of(Category.GENERAL)
    aliases = {f"alias_{number}_{tag}": tag for number in (1, 2) for tag in general} | {"catears_1": "cat_ears"}
    character = {f"{number}_{tag}": tag for number in "abc" for tag in source.vocab.tags_of(Category.CHARACTER)}
    vocab = dataclasses.replace(source.vocab, aliases={Category.GENERAL: aliases, Category.CHARACTER: character})
    return dataclasses.replace(source, vocab=vocab)


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
    typed += ["1girl \n solo, tail", "\n1girl\ncat ears\n hatsune miku", "smile\n\n, bell"]
    assert encode(typed) == pytest.approx(embedder.embed(typed), abs=1e-5)


def test_the_hub_folder_loads_too(sentence_transformers: Any, source: CheckpointSource, tmp_path: Path) -> None:
    export(ExportFormat.HUB, source, tmp_path / "hub")
    captions = ["1girl, cat ears, catears_1", "", "sword armor"]
    model = sentence_transformers.SentenceTransformer(str(tmp_path / "hub"), device="cpu")
    expected = pytest.approx(source.embedder.embed(captions), abs=1e-5)
    assert model.encode(captions, show_progress_bar=False) == expected
    assert BooruEmbedder.load(tmp_path / "hub", "cpu", "fp32").embed(captions[1:]) == pytest.approx(
        source.embedder.embed(captions[1:]), abs=1e-5
    )
    assert "SentenceTransformer(" in (tmp_path / "hub/README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "shape",
    [{"num_layers": 1}, {"num_layers": 3, "num_heads": 4, "width": 64}, {"feed_forward_first": False}],
    ids=str,
)
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


def names(embedder: BooruEmbedder) -> list[str]:
    """All tags, all aliases, and captions of several."""
    tags, aliases = embedder.vocab.tags, list(embedder.tokenizer.aliases)
    assert len(aliases) > len(tags)
    numbers = np.random.default_rng(6)
    several = [", ".join(numbers.permutation([*tags, *aliases])[:size]) for size in range(2, 12)]
    return ["", *tags, *aliases, *several]


def test_an_alias_counts_as_its_tag_and_once_beside_it(
    embedder: BooruEmbedder, encode: Callable[[list[str]], Any]
) -> None:
    captions = names(embedder)
    assert encode(captions) == pytest.approx(embedder.embed(captions), abs=1e-5)
    alone, twice = encode(["cat_ears", "smile"]), encode(["cat_ears, catears 1", "alias 2 smile, smile, ALIAS_1_SMILE"])
    assert twice[0] == pytest.approx(alone[0], abs=1e-6)
    assert encode(["alias_1_smile, alias 2 smile, smile"])[0] == pytest.approx(alone[1], abs=1e-6)


def test_a_saved_model_loads_as_it_was(
    sentence_transformers: Any, folder: Path, embedder: BooruEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = names(embedder)
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    vectors = model.encode(captions)
    model.save_pretrained(str(tmp_path / "saved"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert again.encode(captions) == pytest.approx(vectors, abs=1e-6)
    assert again.encode(captions[-1:]) == pytest.approx(embedder.embed(captions[-1:]), abs=1e-5)  # without padding
    uploaded = pushed(again, tmp_path / "hub", monkeypatch)
    assert sentence_transformers.SentenceTransformer(uploaded, device="cpu").encode(captions) == pytest.approx(
        vectors, abs=1e-6
    )


def pushed(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The folder that `push_to_hub` of `model` uploads."""
    api = pytest.importorskip("huggingface_hub").HfApi

    def upload(*_: Any, folder_path: str, **__: Any) -> Any:
        shutil.copytree(folder_path, folder)
        return SimpleNamespace(pr_url=None, commit_url="https://hub.example/commit")

    monkeypatch.setattr(api, "create_repo", lambda *_, repo_id, **__: SimpleNamespace(repo_id=repo_id))
    monkeypatch.setattr(api, "upload_folder", upload)
    model.push_to_hub("someone/tags", replace_model_card=True)
    return str(folder)


def test_a_fine_tuned_copy_loads_as_it_was_and_keeps_aliases(
    sentence_transformers: Any, folder: Path, embedder: BooruEmbedder, tmp_path: Path
) -> None:
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    captions = names(embedder)
    before = model.encode(captions)
    losses = importlib.import_module("sentence_transformers.sentence_transformer.losses")
    loss = losses.MultipleNegativesRankingLoss(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    pairs = (["1girl", "alias 1 sword", "scenery, sky"], ["cat ears, tail", "1boy", "cloud, tree"])
    for _ in range(3):
        features = [model.preprocess(texts) for texts in pairs]
        optimizer.zero_grad()
        loss(features, torch.arange(3)).backward()
        optimizer.step()
    model.eval()
    tuned = model.encode(captions)
    assert abs(tuned - before).max() > 0.01
    model.save_pretrained(str(tmp_path / "tuned"))
    again = sentence_transformers.SentenceTransformer(str(tmp_path / "tuned"), device="cpu")
    assert again.encode(captions) == pytest.approx(tuned, abs=1e-6)
    alias_of = {
        alias: embedder.vocab.tags[i - embedder.vocab.num_special] for alias, i in embedder.tokenizer.aliases.items()
    }
    assert again.encode(list(alias_of)) == pytest.approx(again.encode(list(alias_of.values())), abs=1e-6)


def test_a_trunk_without_attention_is_refused(source: CheckpointSource, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trunk 'deepsets' has no counterpart in transformers; export hub or onnx"):
        write_sentence_transformer(encoder(trunk="deepsets"), source.vocab, tmp_path)

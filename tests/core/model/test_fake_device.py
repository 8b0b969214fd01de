"""The GPU's branches of training, validation, embedding and index build, on fake CUDA tensors: see `fake_cuda`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.model.inference import encode_sets
from booru_embed_core.tokens.batches import read_batch, rows_of_split
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.distributed import Ranks
from booru_embed_core.training.loop import start_run
from booru_embed_core.training.step import Run, compute_step, validate
from tests.core.fake_cuda import fake_cuda
from tests.core.model_helpers import Corpus, Trained, model_settings, training_settings


def run_of(corpus: Corpus, **values: object) -> Run:
    settings = training_settings(**{"device": "cuda", "precision": "auto", "batch_posts": 8, **values})
    return start_run(corpus.packed, corpus.vocab, model_settings(num_layers=1), settings, Ranks())


@pytest.mark.parametrize("num_sampled", [1_000, 4])
def test_a_step_and_a_validation(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, num_sampled: int) -> None:
    with fake_cuda(monkeypatch):
        run = run_of(corpus, num_sampled_tags=num_sampled)
        assert (run.tables is None) == (num_sampled == 1_000)
        assert run.dtype == torch.bfloat16
        batch = run.batches.read(0, 0)
        run.draw_tags(batch)
        compute_step(run, batch)
        run.take_step(0.1)
        validate(run, rows_of_split(corpus.packed, "validation"))
        devices = {parameter.device for parameter in run.model.parameters()}
    assert devices == {torch.device("cuda", 0)}


def test_a_tensor_on_the_wrong_device_fails(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda(monkeypatch):
        run = run_of(corpus, num_sampled_tags=1_000)
        batch = run.batches.read(0, 0)
        monkeypatch.setattr(SetEncoder, "score_bias", lambda model: model.tag_bias.cpu())
        with pytest.raises(RuntimeError, match=r"from device cpu to device cuda:0|the same device"):
            compute_step(run, batch)


def test_embedding_and_completion(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are made of copies on the CPU. Weighted sets are left out: numbers size their buckets."""
    sets = TagSets(
        tags=np.array([0, 1, 2, 5, 1], np.int64),
        lengths=np.array([3, 0, 2], np.int64),
        ratings=np.array([-1, 0, 1], np.int64),
        score_bins=np.array([-1, 3, -1], np.int64),
    )
    real = load_checkpoint(trained.checkpoint, torch.device("cpu"))[0]
    shapes = []
    monkeypatch.setattr(Tensor, "numpy", lambda tensor: shapes.append((tensor.device.type, tuple(tensor.shape))))
    with fake_cuda(monkeypatch):
        network = TorchNetwork(real.to("cuda"), torch.bfloat16)
        network.embeddings(sets)
        network.tag_scores(sets)
    dim, num_tags = real.config.settings.embedding_dim, real.config.num_tags
    assert shapes == [("cpu", (3, dim)), ("cpu", (3, num_tags))]


def test_the_vectors_of_an_index(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index itself is faiss's, on the CPU, and gets arrays: there is nothing of it to fake."""
    model = load_checkpoint(trained.checkpoint, torch.device("cpu"))[0]
    read = read_batch(trained.corpus.packed, np.arange(40))
    tags, lengths = read.tag_indices(model.config.category_sizes).numpy(), np.diff(read.cu_seqlens.numpy())
    with fake_cuda(monkeypatch), torch.inference_mode():
        pooled = encode_sets(model.to("cuda"), tags, lengths.astype(np.int64), dtype=torch.bfloat16)
        embedding = model.embed(pooled).float().cpu()
    assert pooled.device == torch.device("cuda", 0)
    assert (embedding.device.type, tuple(embedding.shape)) == ("cpu", (40, model.config.settings.embedding_dim))

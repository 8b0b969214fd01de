"""The network by onnxruntime is the network by torch, whatever the batches; files that do not fit are named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder import onnx_network
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.onnx_network import OnnxNetwork
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.schema import ExportFormat
from booru_embed_core.training.checkpoint_config import CheckpointError
from booru_embed_core.vectors import unit_vectors
from tests.core.model_helpers import Trained
from tests.core.network_helpers import some_sets


@pytest.fixture(scope="module")
def source(trained: Trained) -> CheckpointSource:
    return CheckpointSource.open(trained.checkpoint)


@pytest.fixture(scope="module")
def folder(source: CheckpointSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("network") / "onnx"
    export(ExportFormat.ONNX, source, made)
    return made


@pytest.fixture(scope="module")
def by_torch(source: CheckpointSource) -> TorchNetwork:
    network = source.embedder.network
    assert isinstance(network, TorchNetwork)
    return network


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
@pytest.mark.parametrize("num", [0, 1, 40])
def test_it_is_the_network_of_torch(
    source: CheckpointSource,
    folder: Path,
    by_torch: TorchNetwork,
    monkeypatch: pytest.MonkeyPatch,
    num: int,
    batch_tokens: int,
) -> None:
    monkeypatch.setattr(onnx_network, "_BATCH_TOKENS", batch_tokens)
    network = OnnxNetwork.load(folder, source.config, "cpu", "auto")
    sets = some_sets(num, source.vocab.num_tags)
    embeddings = by_torch.embeddings(sets)
    assert network.embeddings(sets) == pytest.approx(unit_vectors(embeddings), abs=1e-5)
    assert network.tag_scores(sets) == pytest.approx(by_torch.tag_scores(sets), abs=1e-4)
    (states, cu_seqlens), (expected, ends) = network.token_states(sets), by_torch.token_states(sets)
    assert states == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert np.array_equal(cu_seqlens, ends)
    assert (states.dtype, cu_seqlens.dtype) == (np.float32, np.int32)


def test_no_batch_exceeds_its_bound_unless_one_set_does(folder: Path, source: CheckpointSource) -> None:
    network = OnnxNetwork.load(folder, source.config, "cpu", "auto")
    sets = some_sets(300, source.vocab.num_tags)
    seen = []
    for rows, ids, mask in network._batches(sets):
        assert ids.size <= 4096
        assert mask.any(0).all()
        seen += rows.tolist()
    assert sorted(seen) == list(range(300))
    assert len(list(network._batches(sets))) > 1


def test_the_order_of_tags_changes_no_digit(folder: Path) -> None:
    embedder = BooruEmbedder.load(folder, "cpu")
    assert np.array_equal(embedder.embed("tail 1girl cat_ears"), embedder.embed("1girl cat_ears tail"))


def test_int8_is_asked_for_by_its_name(folder: Path, trained: Trained) -> None:
    exact, rounded = (BooruEmbedder.load(folder, "cpu", precision) for precision in ("fp32", "int8"))
    vectors = [embedder.embed("1girl cat_ears tail")[0] for embedder in (exact, rounded)]
    assert not np.array_equal(*vectors)
    assert vectors[0] @ vectors[1] > 0.99
    with pytest.raises(ValueError, match="precision 'bf16' is for torch; onnxruntime takes fp32 or int8"):
        BooruEmbedder.load(folder, "cpu", "bf16")
    with pytest.raises(ValueError, match="'int8' is for a folder that `booru-embed export onnx` wrote"):
        BooruEmbedder.load(trained.checkpoint, "cpu", "int8")


def test_it_runs_where_torch_is_not(folder: Path) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'pyarrow', 'scipy', 'onnx']));"
        "from booru_embed_core import BooruEmbedder;"
        f"e = BooruEmbedder.load({str(folder)!r}); print(e.embed('1girl').shape, len(e.complete('1girl', k=3)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(1, 16) 3\n", 0), done.stderr


@pytest.mark.parametrize("name", ["model.onnx", "completion.onnx"])
def test_files_that_do_not_fit_are_named(folder: Path, source: CheckpointSource, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    other = source.config.model_copy(update={"vocab_hash": "0123456789abcdef0"})
    with pytest.raises(CheckpointError, match=r"model\.onnx: made with the vocab .* is 0123456789abcdef; export"):
        OnnxNetwork.load(copy, other, "cpu", "auto")
    content = (copy / name).read_bytes()
    for damaged in (b"", b"no graph", content[: len(content) // 2]):
        (copy / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name}: .*export the checkpoint again"):
            OnnxNetwork.load(copy, source.config, "cpu", "auto")
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}: no such file; export the checkpoint again"):
        OnnxNetwork.load(copy, source.config, "cpu", "auto")


def test_a_gpu_that_is_not_there_is_an_error(folder: Path, source: CheckpointSource) -> None:
    with pytest.raises(ValueError, match="onnxruntime finds no GPU"):
        OnnxNetwork.load(folder, source.config, "cuda", "auto")

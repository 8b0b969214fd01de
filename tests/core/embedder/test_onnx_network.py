"""The network by onnxruntime is the network by torch, whatever the batches; files that do not fit are named."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from booru_embed_core.embedder import onnx_network
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.onnx_network import OnnxNetwork
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.schema import ExportFormat
from booru_embed_core.training.checkpoint_config import CheckpointConfig, CheckpointError, read_config
from booru_embed_core.vectors import unit_vectors
from tests.core.model_helpers import Trained
from tests.core.network_helpers import some_sets, some_weights, unseal


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
    network = OnnxNetwork.load(folder, read_config(folder), "cpu", "auto")
    sets = some_sets(num, source.vocab.num_tags)
    embeddings = by_torch.embeddings(sets)
    assert network.embeddings(sets) == pytest.approx(unit_vectors(embeddings), abs=1e-5)
    assert network.tag_scores(sets) == pytest.approx(by_torch.tag_scores(sets), abs=1e-4)
    (states, cu_seqlens), (expected, ends) = network.token_states(sets), by_torch.token_states(sets)
    assert states == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert np.array_equal(cu_seqlens, ends)
    assert (states.dtype, cu_seqlens.dtype) == (np.float32, np.int32)


def test_no_batch_exceeds_its_bound_unless_one_set_does(folder: Path, source: CheckpointSource) -> None:
    network = OnnxNetwork.load(folder, read_config(folder), "cpu", "auto")
    sets = some_sets(300, source.vocab.num_tags)
    seen = []
    for rows, inputs in network._batches(sets):
        assert set(inputs) == {"input_ids", "attention_mask"}
        assert inputs["input_ids"].size <= 4096
        assert inputs["attention_mask"].any(0).all()
        seen += rows.tolist()
    assert sorted(seen) == list(range(300))
    assert len(list(network._batches(sets))) > 1


@pytest.mark.parametrize("batch_tokens", [1, 64, 4096])
def test_weights_count_as_in_torch(
    source: CheckpointSource,
    folder: Path,
    by_torch: TorchNetwork,
    monkeypatch: pytest.MonkeyPatch,
    batch_tokens: int,
) -> None:
    monkeypatch.setattr(onnx_network, "_BATCH_TOKENS", batch_tokens)
    network = OnnxNetwork.load(folder, read_config(folder), "cpu", "auto")
    sets = some_sets(20, source.vocab.num_tags)
    weighted = replace(sets, weights=some_weights(len(sets.tags)))
    expected = unit_vectors(by_torch.embeddings(weighted))
    assert np.abs(expected - unit_vectors(by_torch.embeddings(sets))).max() > 0.01
    assert network.embeddings(weighted) == pytest.approx(expected, abs=1e-5)
    assert network.tag_scores(weighted) == pytest.approx(by_torch.tag_scores(weighted), abs=1e-4)
    found, expected = network.token_states(weighted)[0], by_torch.token_states(weighted)[0]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_of_one_change_no_bit(folder: Path, source: CheckpointSource, precision: str) -> None:
    network = OnnxNetwork.load(folder, read_config(folder), "cpu", precision)
    sets = some_sets(20, source.vocab.num_tags)
    for rows, inputs in network._batches(sets):
        ones = {**inputs, "weights": np.ones(inputs["input_ids"].shape, np.float32)}
        assert all(map(np.array_equal, network._model.run(None, inputs), network._model.run(None, ones)))
        assert len(rows)
    ones_given = replace(sets, weights=np.ones(len(sets.tags), np.float32))
    assert np.array_equal(network.embeddings(ones_given), network.embeddings(sets))


def test_an_older_export_takes_only_weights_of_one(folder: Path, source: CheckpointSource, tmp_path: Path) -> None:
    """Graphs that were written before weights have no such input; here it becomes a constant."""
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    model = onnx.load(older / "model.onnx")
    (weights,) = [found for found in model.graph.input if found.name == "weights"]
    model.graph.input.remove(weights)
    onnx.save_model(model, older / "model.onnx")
    unseal(older)
    embedder = BooruEmbedder.load(older, "cpu")
    plain = BooruEmbedder.load(folder, "cpu").embed("1girl tail")
    assert np.array_equal(embedder.embed("1girl tail"), plain)
    assert np.array_equal(embedder.embed({"1girl": 1, "tail": 1.0}), plain)
    with pytest.raises(CheckpointError, match=r"older: exported without weights .* \(`booru-embed export onnx`\)$"):
        embedder.embed({"1girl": 1, "tail": 0.5})


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_pickled_network_reads_its_files_again(folder: Path, tmp_path: Path, precision: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    embedder = BooruEmbedder.load(copy, "cpu", precision)
    pickled = pickle.dumps(embedder)
    assert len(pickled) < 50_000  # not the weights
    assert np.array_equal(pickle.loads(pickled).embed("1girl tail"), embedder.embed("1girl tail"))
    for file in copy.glob("model*.onnx"):
        file.write_bytes((folder / file.name).read_bytes())  # later, and it might be another model's
    with pytest.raises(CheckpointError, match="copy: changed since the embedder was loaded; load it again from there"):
        pickle.loads(pickled)


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


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_caption_is_the_same_alone_and_beside_others(folder: Path, precision: str) -> None:
    embedder = BooruEmbedder.load(folder, "cpu", precision)
    captions = ["1girl cat_ears", "", " ".join(embedder.vocab.tags), "tail"]
    together = embedder.embed(captions)
    for caption, vector in zip(captions, together, strict=True):
        assert embedder.embed(caption)[0] == pytest.approx(vector, abs=2e-6)


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
    config = read_config(copy)
    other = config.model_copy(update={"vocab_hash": "0123456789abcdef0"})
    with pytest.raises(CheckpointError, match=r"model\.onnx: made with the vocab .* is 0123456789abcdef; export"):
        OnnxNetwork.load(copy, other, "cpu", "auto")
    content = (copy / name).read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    for damaged in (b"", b"no graph", content[: len(content) // 2], flipped):
        (copy / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{name}: was changed: .*export the checkpoint again"):
            OnnxNetwork.load(copy, config, "cpu", "auto")
        if damaged is not flipped:
            with pytest.raises(CheckpointError, match=f"{name}: not a network .*export the checkpoint again"):
                OnnxNetwork.load(copy, older(config), "cpu", "auto")
    (copy / name).unlink()
    for without in (config, older(config)):
        with pytest.raises(CheckpointError, match=f"{name}: no such file; export the checkpoint again"):
            OnnxNetwork.load(copy, without, "cpu", "auto")
    with pytest.raises(CheckpointError, match=r"model\.onnx: config\.json lists model\.safetensors and not this file"):
        OnnxNetwork.load(copy, source.config, "cpu", "auto")


def older(config: CheckpointConfig) -> CheckpointConfig:
    """The config as builds before 0.3 wrote it, without checksums."""
    return config.model_copy(update={"files": None})


@pytest.mark.parametrize(("name", "said"), [("model.onnx", "embedding"), ("completion.onnx", "logits")])
def test_graphs_of_another_size_or_with_weights_that_are_no_numbers_are_refused(
    folder: Path, tmp_path: Path, name: str, said: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = older(read_config(copy))
    sizes = {
        "embedding": {"model": config.model.model_copy(update={"embedding_dim": 1 << 40})},
        "logits": {"category_sizes": (1 << 40, 0, 0, 0, 0)},
    }
    with pytest.raises(CheckpointError, match=rf"{name}: gives {said} of .* instead of 1099511627776"):
        OnnxNetwork.load(copy, config.model_copy(update=sizes[said]), "cpu", "auto")
    graph = onnx.load(copy / name)
    largest = max(graph.graph.initializer, key=lambda constant: len(constant.raw_data))
    largest.raw_data = np.full(len(largest.raw_data) // 4, np.nan, np.float32).tobytes()
    onnx.save(graph, copy / name)
    with pytest.raises(CheckpointError, match=rf"{name}: has weights that are NaN or infinite; export"):
        OnnxNetwork.load(copy, config, "cpu", "auto")


def test_a_gpu_that_is_not_there_is_an_error(folder: Path) -> None:
    with pytest.raises(ValueError, match="onnxruntime finds no GPU"):
        OnnxNetwork.load(folder, read_config(folder), "cuda", "auto")

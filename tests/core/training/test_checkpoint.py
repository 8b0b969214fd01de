"""Checkpoints on disk: complete, for one vocabulary, and free of executable content."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load, save_file

from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint import encoder_config, load_checkpoint, save_checkpoint
from booru_embed_core.training.checkpoint_config import CONFIG_FILE, WEIGHTS_FILE
from tests.core.model_helpers import Trained, model_settings
from tests.core.training.training_helpers import refused


def test_weights_come_back_as_they_were(trained: Trained, tmp_path: Path) -> None:
    model, config, vocab = load_checkpoint(trained.checkpoint)
    assert not model.training
    save_checkpoint(tmp_path, model, config, trained.checkpoint)
    again, config_again, vocab_again = load_checkpoint(tmp_path)
    assert config_again == config
    assert vocab_again.hash == vocab.hash
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert (tmp_path / WEIGHTS_FILE).read_bytes() == (trained.checkpoint / WEIGHTS_FILE).read_bytes()
    assert (tmp_path / CONFIG_FILE).read_bytes() == (trained.checkpoint / CONFIG_FILE).read_bytes()


def test_sizes_follow_from_the_vocab(trained: Trained) -> None:
    vocab = trained.corpus.vocab
    config = encoder_config(vocab, model_settings())
    assert config.num_tokens == vocab.num_tokens
    assert config.num_tags == vocab.num_tags
    assert config.category_sizes == tuple(vocab.sizes.values())


def test_a_missing_folder_or_file_is_named(copy: Path) -> None:
    for folder in (copy / "nowhere", copy / CONFIG_FILE):
        message = refused(lambda folder=folder: load_checkpoint(folder))
        assert message.startswith(f"{folder / CONFIG_FILE}: no such file; give the folder of a checkpoint")
    (copy / WEIGHTS_FILE).unlink()
    assert refused(lambda: load_checkpoint(copy)).startswith(f"{copy / WEIGHTS_FILE}: no such file; materialize")
    (copy / "vocab.json").unlink()
    assert "vocab.json: no such file" in refused(lambda: load_checkpoint(copy), ValueError)


def test_weights_of_another_vocabulary_of_the_same_sizes_are_refused(copy: Path) -> None:
    file = copy / WEIGHTS_FILE
    vocab = Vocab.load(copy)
    save_file(load(file.read_bytes()), file, metadata={"vocab_hash": "f" * 64})
    message = refused(lambda: load_checkpoint(copy))
    assert f"weights of the vocab {'f' * 16}, but the vocab beside them is {vocab.hash[:16]}" in message
    save_file(load(file.read_bytes()), file)
    assert "weights of the vocab (none named)" in refused(lambda: load_checkpoint(copy))


def test_other_implications_make_another_file_of_the_same_weights(trained: Trained, tmp_path: Path) -> None:
    model, config, vocab = load_checkpoint(trained.checkpoint)
    implications = vocab.implications.sha256 if vocab.implications.num_pairs else None
    assert config.implications_sha256 == implications
    files = []
    for other in (None, "a" * 64, "b" * 64):
        folder = tmp_path / str(other)
        folder.mkdir()
        save_checkpoint(folder, model, config.model_copy(update={"implications_sha256": other}), trained.checkpoint)
        again, _, _ = load_checkpoint(folder)
        assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
        files.append((folder / WEIGHTS_FILE).read_bytes())
    assert len(set(files)) == len(files)


def test_weights_cut_short_anywhere_are_refused(copy: Path) -> None:
    file = copy / WEIGHTS_FILE
    whole = file.read_bytes()
    for size in (0, 1, 7, 8, 100, 1000, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        message = refused(lambda: load_checkpoint(copy))
        assert message.startswith(f"{file}: not this model's weights (")
        assert message.endswith("materialize the checkpoint again")


def test_weights_of_another_shape_or_without_a_tensor_are_refused(copy: Path) -> None:
    file = copy / WEIGHTS_FILE
    metadata = {"vocab_hash": Vocab.load(copy).hash}
    weights = load(file.read_bytes())  # not mapped: the file is written again
    first, *others = sorted(weights)
    save_file({name: weights[name] for name in others}, file, metadata)
    assert f'Missing key(s) in state_dict: "{first}"' in refused(lambda: load_checkpoint(copy))
    save_file({**weights, "bottleneck.weight": torch.zeros(3, 3)}, file, metadata)
    assert "size mismatch for bottleneck.weight" in refused(lambda: load_checkpoint(copy))
    file.write_bytes(b"not weights at all, but long enough to look at")
    assert refused(lambda: load_checkpoint(copy)).startswith(f"{file}: not this model's weights (")


def test_weights_that_are_no_numbers_are_never_published(trained: Trained, tmp_path: Path) -> None:
    model, config, _ = load_checkpoint(trained.checkpoint)
    with torch.no_grad():
        model.tag_bias[3] = torch.nan
    message = refused(lambda: save_checkpoint(tmp_path, model, config, trained.checkpoint))
    assert message == f"{tmp_path}: tag_bias has weights that are NaN or infinite; lower [training] learning_rate"
    assert not list(tmp_path.iterdir())

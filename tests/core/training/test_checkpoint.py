"""Checkpoints on disk: complete, for one vocabulary, and free of executable content."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load, save_file

from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint import encoder_config, load_checkpoint, load_model, save_checkpoint
from booru_embed_core.training.checkpoint_config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    read_config,
    verify_weights,
    write_config,
)
from booru_embed_core.version_file import content_version
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


def test_weights_of_another_vocabulary_of_the_same_sizes_are_refused(unsealed: Path) -> None:
    file = unsealed / WEIGHTS_FILE
    vocab = Vocab.load(unsealed)
    save_file(load(file.read_bytes()), file, metadata={"vocab_hash": "f" * 64})
    message = refused(lambda: load_checkpoint(unsealed))
    assert f"weights of the vocab {'f' * 16}, but the vocab beside them is {vocab.hash[:16]}" in message
    save_file(load(file.read_bytes()), file)
    assert "weights of the vocab (none named)" in refused(lambda: load_checkpoint(unsealed))


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


def test_any_flipped_bit_of_the_weights_and_any_cut_is_refused_by_name(copy: Path) -> None:
    file = copy / WEIGHTS_FILE
    whole, random = file.read_bytes(), Random(18)
    places = [random.randrange(len(whole)) for _ in range(20)]
    flips = [whole[:at] + bytes([whole[at] ^ 1 << random.randrange(8)]) + whole[at + 1 :] for at in places]
    for content in (b"", whole + b"\0", *flips, *(whole[:size] for size in (1, 7, 8, 100, len(whole) - 1))):
        file.write_bytes(content)
        message = refused(lambda: load_checkpoint(copy))
        assert message == (
            f"{file}: was changed: its SHA-256 is not that in config.json; materialize the checkpoint again"
        )
    file.write_bytes(whole)
    load_checkpoint(copy)


def test_a_checkpoint_of_an_older_build_is_loaded_and_covered_where_its_version_is(unsealed: Path) -> None:
    _, config, _ = load_checkpoint(unsealed)
    file = unsealed / WEIGHTS_FILE
    assert config.files is None
    assert not verify_weights(file, config)
    version = {"asset": "checkpoint", "version": content_version(unsealed, [WEIGHTS_FILE]), "inputs": {}}
    (unsealed / "version.json").write_text(json.dumps({**version, "files": [WEIGHTS_FILE], "created": "today"}))
    load_checkpoint(unsealed)
    assert verify_weights(file, config)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    message = refused(lambda: load_checkpoint(unsealed))
    assert message.startswith(f"{file}: was changed since it was published as version {version['version']}; ")


def test_weights_that_the_config_does_not_list_are_refused(copy: Path) -> None:
    config = read_config(copy)
    write_config(copy, config, ["vocab.json"])
    assert f"{copy / WEIGHTS_FILE}: config.json lists vocab.json and not this" in refused(lambda: load_checkpoint(copy))


def test_what_is_no_file_of_weights_is_named_and_does_not_block(unsealed: Path) -> None:
    file = unsealed / WEIGHTS_FILE
    file.unlink()
    os.mkfifo(file)
    assert refused(lambda: load_checkpoint(unsealed)).startswith(f"{file}: cannot be read (not a plain file)")
    file.unlink()
    file.mkdir()
    assert refused(lambda: load_checkpoint(unsealed)).startswith(f"{file}: cannot be read (Is a directory)")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 100, 1000, -1])
def test_weights_cut_short_are_refused_without_a_checksum_too(unsealed: Path, size: int) -> None:
    file = unsealed / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:size])
    message = refused(lambda: load_checkpoint(unsealed))
    assert message.startswith(f"{file}: not this model's weights (")
    assert message.endswith("materialize the checkpoint again")


HEADERS = {
    "beyond the file": (1 << 62).to_bytes(8, "little") + b"{}",
    "negative": (1 << 63).to_bytes(8, "little") + b"{}",
    "nested deeply": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "digits": (5004).to_bytes(8, "little") + b'{"' + b"9" * 5000 + b"}}",
    "text": b"not weights at all, but long enough to look at",
    "huge shape": (64).to_bytes(8, "little")
    + b'{"a":{"dtype":"F32","shape":[9999999999999],"data_offsets":[0,4]}}'.ljust(64),
    "nothing": (2).to_bytes(8, "little") + b"{}",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_is_none_is_refused(unsealed: Path, kind: str) -> None:
    file = unsealed / WEIGHTS_FILE
    file.write_bytes(HEADERS[kind])
    message = refused(lambda: load_checkpoint(unsealed))
    assert message.startswith(f"{file}: not this model's weights")
    assert len(message) < len(str(file)) + 400


def test_weights_of_another_shape_type_or_name_are_refused(unsealed: Path) -> None:
    file = unsealed / WEIGHTS_FILE
    metadata = {"vocab_hash": Vocab.load(unsealed).hash}
    weights = load(file.read_bytes())  # not mapped: the file is written again
    first = min(weights)
    for changed, says in (
        ({name: weights[name] for name in weights if name != first}, f"{first} is missing, not F32 ["),
        ({**weights, "bottleneck.weight": torch.zeros(3, 3)}, "bottleneck.weight is F32 [3, 3], not F32 ["),
        ({**weights, "tag_bias": weights["tag_bias"].half()}, "tag_bias is F16 ["),
        ({**weights, "other": torch.zeros(1)}, "other is F32 [1], not missing"),
        ({**weights, "tokens.weight": torch.zeros(0, 4)}, "tokens.weight of [0, 4], and config.json has "),
    ):
        save_file(changed, file, metadata)
        assert says in refused(lambda: load_checkpoint(unsealed))


@pytest.mark.parametrize("key", ["width", "num_layers", "ffn_width", "decoder_width", "embedding_dim"])
def test_sizes_are_compared_with_the_header_before_memory_is_taken(unsealed: Path, key: str) -> None:
    config = read_config(unsealed)
    for size in (1 << 24, 1 << 44):  # either would fill the memory, as weights or as a list of layers
        # Without the settings' own bounds, which are no part of this.
        model = config.model.model_copy(update={key: size})
        message = refused(lambda model=model: load_model(unsealed, config.model_copy(update={"model": model})))
        assert message.startswith(f"{unsealed / WEIGHTS_FILE}: not this model's weights: ")


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_as_at_saving(unsealed: Path, number: float) -> None:
    file = unsealed / WEIGHTS_FILE
    weights = load(file.read_bytes())
    weights["categories.weight"][2, 1] = number
    save_file(weights, file, {"vocab_hash": Vocab.load(unsealed).hash})
    message = refused(lambda: load_checkpoint(unsealed))
    assert message == (
        f"{file}: categories.weight has weights that are NaN or infinite; materialize the checkpoint again"
    )


def test_loading_draws_no_random_numbers(trained: Trained) -> None:
    state = torch.random.get_rng_state()
    load_checkpoint(trained.checkpoint)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_weights_that_are_no_numbers_are_never_published(trained: Trained, tmp_path: Path) -> None:
    model, config, _ = load_checkpoint(trained.checkpoint)
    with torch.no_grad():
        model.tag_bias[3] = torch.nan
    message = refused(lambda: save_checkpoint(tmp_path, model, config, trained.checkpoint))
    assert message == f"{tmp_path}: tag_bias has weights that are NaN or infinite; lower [training] learning_rate"
    assert not list(tmp_path.iterdir())

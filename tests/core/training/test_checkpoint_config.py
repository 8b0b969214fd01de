"""A checkpoint's config: round trip, and one-line errors with file and remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from booru_embed_core.json_files import content_checksum
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint_config import (
    CONFIG_FILE,
    LOG_FILE,
    CheckpointConfig,
    read_checkpoint,
    read_config,
    read_log,
)
from tests.core.model_helpers import Trained
from tests.core.training.training_helpers import refused


def change_config(checkpoint: Path, **values: object) -> None:
    """Changes values, and the checksum with them."""
    file = checkpoint / CONFIG_FILE
    content = {**json.loads(file.read_text(encoding="utf-8")), **values}
    file.write_text(json.dumps({**content, "checksum": content_checksum(content)}), encoding="utf-8")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b'{"format_version": 2}', b'{"format_version": "2"}']
)
def test_a_config_that_is_none_is_refused(copy: Path, content: bytes) -> None:
    (copy / CONFIG_FILE).write_bytes(content)
    message = refused(lambda: read_checkpoint(copy))
    assert message.startswith(f"{copy / CONFIG_FILE}: ")
    assert message.endswith("materialize the checkpoint again")


def test_another_format_is_named_before_its_unknown_keys(copy: Path) -> None:
    change_config(copy, format_version=1, quantisation="int8")
    message = refused(lambda: read_config(copy))
    assert message == f"{copy / CONFIG_FILE}: format_version 1 instead of 2; materialize the checkpoint again"


def test_an_unknown_or_wrong_key_is_named(copy: Path) -> None:
    change_config(copy, colour="red")
    assert f"{copy / CONFIG_FILE}: unknown key colour; materialize" in refused(lambda: read_config(copy))


def test_blocks_of_older_builds_attend_first(copy: Path) -> None:
    model = json.loads((copy / CONFIG_FILE).read_text(encoding="utf-8"))["model"]
    assert model["feed_forward_first"]
    assert read_config(copy).model.feed_forward_first
    del model["feed_forward_first"]
    change_config(copy, model=model)
    assert not read_config(copy).model.feed_forward_first


def test_a_training_of_older_builds_is_reported_as_it_was(copy: Path) -> None:
    training = json.loads((copy / CONFIG_FILE).read_text(encoding="utf-8"))["training"]
    change_config(copy, training={**training, "decay": "linear", "whole_share": 0.75})
    assert (read_config(copy).training.decay, read_config(copy).training.whole_share) == ("linear", 0.75)
    del training["decay"], training["whole_share"]
    change_config(copy, training=training)
    assert (read_config(copy).training.decay, read_config(copy).training.whole_share) == ("cosine", 0.5)


WRONG: dict[str, list[object]] = {
    "vocab_hash": [None, 1, []],
    "num_special": ["17", 17.0, True, -1, 18, 10**400, None],
    "category_sizes": [[], [1, 1, 1, 1], [True] * 5, [-1, 0, 0, 0, 0], [1 << 70] * 5, {"general": 1}, "11111", None],
    "model": [None, [], {"width": -8}, {"width": "8"}, {"trunk": "rnn"}, {"matryoshka_dims": [64, 32]}, {"dim": 8}],
    "training": [None, {"learning_rate": "1"}, {"num_epochs": 0}],
    "splits": [None, {"drop_implied": 1}, {"validation_share": 2}],
    "packed_tokens": [None, 3],
    "score_bin_edges": [None, [], [[0.0] * 9] * 3, [[0.0] * 8] * 4, [["0"] * 9] * 4, [[None] * 9] * 4, 1],
    "trained_ratings": [None, ["x"], ["g", 1], "gs"],
    "num_train_posts": [None, -1, 1.5, 10**30],
    "best_epoch": [None, "8", {}],
    "validation_loss": ["8", True],
    "files": [[], {"model.safetensors": "x"}, {"../model.safetensors": "a" * 64}, {"": "a" * 64}],
}


@pytest.mark.parametrize("key", WRONG)
def test_a_value_of_another_type_or_size_is_named(copy: Path, key: str) -> None:
    whole = (copy / CONFIG_FILE).read_text(encoding="utf-8")
    for value in WRONG[key]:
        change_config(copy, **{key: value})
        message = refused(lambda: read_checkpoint(copy))
        assert message.startswith((f"{copy / CONFIG_FILE}: {key}", f"{copy / CONFIG_FILE}: unknown key {key}"))
        assert message.endswith("; materialize the checkpoint again")
        assert len(message) < len(str(copy)) + 400
        (copy / CONFIG_FILE).write_text(whole, encoding="utf-8")


def test_a_changed_figure_is_noticed_by_the_checksum(copy: Path) -> None:
    file = copy / CONFIG_FILE
    whole = file.read_text(encoding="utf-8")
    for old, new in (('"num_heads": 2', '"num_heads": 1'), ('"drop_implied": false', '"drop_implied": true')):
        assert old in whole
        file.write_text(whole.replace(old, new), encoding="utf-8")
        assert f"{file}: was changed: its content has another checksum; " in refused(lambda: read_config(copy))
    file.write_text(json.dumps(json.loads(whole)), encoding="utf-8")  # the same content on one line
    assert read_config(copy).checksum == json.loads(whole)["checksum"]


def test_depth_digits_and_other_things_than_files_end_in_one_line(copy: Path) -> None:
    file = copy / CONFIG_FILE
    for text in ("[" * 100_000, '{"format_version": ' + "9" * 5000 + "}", '{"format_version": 2, "model": NaN}'):
        file.write_text(text)
        assert refused(lambda: read_config(copy)).startswith(f"{file}: ")
    file.unlink()
    os.mkfifo(file)
    assert "not a plain file" in refused(lambda: read_config(copy))


def test_another_vocabulary_beside_the_weights_is_refused(copy: Path) -> None:
    vocab = Vocab.load(copy)
    renamed = Vocab(("another_tag", *vocab.tags[1:]), vocab.categories, vocab.counts, vocab.settings)
    save_vocab(renamed, copy)
    message = refused(lambda: read_checkpoint(copy))
    assert f"trained with the vocab {vocab.hash[:16]}, but the vocab beside them is {renamed.hash[:16]}" in message
    assert message.endswith("restore the vocab files of that checkpoint, or materialize the checkpoint again")


def test_a_config_comes_back_as_it_was_written(trained: Trained) -> None:
    config = read_config(trained.checkpoint)
    assert CheckpointConfig.model_validate_json(config.model_dump_json()) == config
    assert read_checkpoint(trained.checkpoint)[0] == config
    assert len(config.score_bin_edges) == 4
    assert all(edges == sorted(edges) and len(edges) == 9 for edges in config.score_bin_edges)


def test_a_vocabulary_of_other_sizes_is_refused(copy: Path) -> None:
    config = read_config(copy)
    first, *others = config.category_sizes
    change_config(copy, category_sizes=[first + 1, *others])
    assert "restore the vocab files of that checkpoint" in refused(lambda: read_checkpoint(copy))


def test_the_log_is_read_record_by_record(tmp_path: Path) -> None:
    first = {"step": 10, "epoch": 0.5, "loss": 1.5, "terms": {"head": 1.5}, "num_steps": 17}
    records = [first, {"step": 17, "epoch": 1.0, "loss": 1.25, "validation": {"loss": 2.0}}]
    file = tmp_path / LOG_FILE
    lines = [json.dumps(record) for record in records]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_log(tmp_path) == records
    file.write_text("", encoding="utf-8")
    assert read_log(tmp_path) == []
    for line in ("", "[]", '{"step": 17', '{"step": "17", "epoch": 1, "loss": 1}', '{"step": 17}', "[" * 100_000):
        file.write_text(f"{lines[0]}\n{line}\n", encoding="utf-8")
        assert refused(lambda: read_log(tmp_path)).startswith(f"{file}:2: ")
    file.unlink()
    assert refused(lambda: read_log(tmp_path)).startswith(f"{file}: no such file; ")


def test_reading_a_config_needs_no_torch() -> None:
    code = "import sys, booru_embed_core.training.checkpoint_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

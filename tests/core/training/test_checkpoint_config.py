"""A checkpoint's config: round trip, and one-line errors with file and remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
    file = checkpoint / CONFIG_FILE
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **values}), encoding="utf-8")


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
    assert "not a checkpoint's config (colour: Extra inputs are not permitted)" in refused(lambda: read_config(copy))
    shutil.rmtree(copy)


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
    records = [{"step": 10, "loss": 1.5}, {"step": 17, "validation": {"loss": 2.0}}]
    (tmp_path / LOG_FILE).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    assert read_log(tmp_path) == records


def test_reading_a_config_needs_no_torch() -> None:
    code = "import sys, booru_embed_core.training.checkpoint_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""What an interrupted job is recognised by."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from booru_embed_core.embedder.caption_files import CaptionFile, InputFormat, Row
from booru_embed_core.embedder.captions import Caption
from booru_embed_core.embedder.job_identity import JobSettings, Prefix, input_hash, model_hash

SETTINGS = JobSettings("m" * 64, "text", "i" * 64, None, None, 64, None, None, 8, "raise")


def test_every_setting_that_changes_is_named_with_its_value_before() -> None:
    other = JobSettings("n" * 64, "jsonl", "j" * 64, "caption", "id", 32, "g", 5, 4, "zero")
    assert JobSettings.differences(json.loads(json.dumps(other.identity())), SETTINGS.identity(), False) == [
        f"another checkpoint ({'n' * 12})",
        "--input-format jsonl",
        "another content of the input",
        "--column caption",
        "--id-column id",
        "--batch-size 32",
        "--rating g",
        "--score 5",
        "--dim 4",
        "--on-unknown zero",
    ]
    assert JobSettings.differences(SETTINGS.identity(), other.identity(), False)[7] == "no --score"
    assert JobSettings.differences(SETTINGS.identity(), SETTINGS.identity(), False) == []


def test_a_row_that_ended_a_job_may_be_corrected_or_gone_past() -> None:
    corrected = replace(SETTINGS, input_hash="j" * 64)
    assert JobSettings.differences(SETTINGS.identity(), corrected.identity(), True) == []
    gone_past = replace(SETTINGS, on_unknown="zero")
    assert JobSettings.differences(SETTINGS.identity(), gone_past.identity(), False) == []
    assert JobSettings.differences(gone_past.identity(), SETTINGS.identity(), True) == ["--on-unknown zero"]


CAPTIONS: list[Caption] = ["hat", "hat, solo", ["hat"], ["hat", "solo"], {"hat": 1.0}, {"hat": 0.5}, "", [], {}]


def test_rows_that_differ_have_different_hashes() -> None:
    hashes = set()
    for row_id in (0, 1, "0"):
        for caption in CAPTIONS:
            prefix = Prefix()
            prefix.add(Row("in.txt: line 1", row_id, caption))
            hashes.add(prefix.hexdigest())
    assert len(hashes) == 3 * len(CAPTIONS)


def test_a_model_is_what_its_weights_and_vocabulary_hold(tmp_path: Path) -> None:
    for name in ("model.safetensors", "config.json", "vocab.json", "version.json", "curves.png", "training_log.jsonl"):
        (tmp_path / name).write_text("old")
    before = model_hash(tmp_path)
    for name in ("version.json", "curves.png", "training_log.jsonl"):
        (tmp_path / name).write_text("new")
    assert model_hash(tmp_path) == before
    for name in ("model.safetensors", "config.json", "vocab.json"):
        (tmp_path / name).write_text("new")
        assert model_hash(tmp_path) != before
        (tmp_path / name).write_text("old")


@pytest.mark.parametrize("form", InputFormat)
def test_an_input_is_its_content_and_standard_input_has_none(tmp_path: Path, form: InputFormat) -> None:
    file = tmp_path / "in"
    file.write_text("a")
    before = input_hash(CaptionFile(file, form))
    file.write_text("b")
    assert input_hash(CaptionFile(file, form)) != before
    assert input_hash(CaptionFile(None, form)) == ""

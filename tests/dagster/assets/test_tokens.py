"""Packed tokens and caption lengths."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.dagster.asset_helpers import Built, metadata
from tests.dagster.project_helpers import failure, versions


def test_the_numbers_of_caption_lengths_are_those_of_the_captions(built: Built) -> None:
    project, result = built
    shown = metadata(result, "caption_lengths")
    lengths = pq.read_table(project.warehouse.current("caption_lengths").path / "caption_lengths.parquet")
    every = np.repeat(lengths["length"].to_numpy(), lengths["num_posts"].to_numpy())
    assert shown["longest"] == every.max()
    for name, share in (("median_length", 0.5), ("length_of_99_percent", 0.99)):
        assert shown[name] == np.quantile(every, share, method="inverted_cdf")


def test_another_percentile_gives_a_new_vocab_and_new_tokens(built: Built, tmp_path: Path) -> None:
    before = versions(built[1])
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=80)
    changed = versions(project.materialize("vocab,packed_tokens,caption_lengths"))
    assert set(changed) == {"vocab", "packed_tokens", "caption_lengths"}
    assert all(changed[name] != before[name] == built[0].warehouse.current(name).version for name in changed)
    assert all(project.warehouse.current(name).version == changed[name] for name in changed)


def test_a_packed_file_of_another_vocabulary_is_refused(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=80)
    assert project.materialize("vocab").success
    assert re.search("was made with the vocab .*, not with", failure(project.materialize("caption_lengths")))

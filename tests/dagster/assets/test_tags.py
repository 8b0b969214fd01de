"""Frequencies and vocabulary: their figures, another cut, and what travels with them."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from booru_embed_core.schema import Category
from booru_embed_core.settings import load_settings, section_version
from booru_embed_core.tags import cut
from booru_embed_core.tags.frequency import read_frequencies
from booru_embed_core.tags.vocab import Vocab
from tests.dagster.asset_helpers import Built, metadata, table_of
from tests.dagster.project_helpers import Project, versions


def test_the_numbers_of_the_vocabulary_are_those_of_its_tables(built: Built) -> None:
    project, result = built
    shown = metadata(result, "vocab")
    tables = read_frequencies(project.warehouse.current("tag_frequencies").path).values()
    num_uses = sum(sum(table["count"].to_pylist()) for table in tables)
    kept = pq.read_table(project.warehouse.current("vocab").path / "vocab.parquet")
    assert shown["share_of_uses_kept"] == sum(kept["count"].to_pylist()) / num_uses
    assert shown["num_tags"] == kept.num_rows
    assert metadata(result, "tag_frequencies")["num_uses"] == num_uses
    assert metadata(result, "tag_frequencies")["dagster/row_count"] == sum(table.num_rows for table in tables)


def test_another_percentile_that_keeps_the_same_tags_gives_the_same_versions(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    project.set(keep_percentile=95.0001)
    assert section_version(load_settings(project.settings_file).vocab) != section_version(
        load_settings(built[0].settings_file).vocab
    )
    again = versions(project.materialize("vocab,packed_tokens"))
    assert again == {name: versions(built[1])[name] for name in again}


def test_metadata_say_what_the_cut_lost(built: Built) -> None:
    _, result = built
    lost = table_of(result, "vocab", "lost")
    assert [row["category"] for row in lost] == ["general", "artist", "copyright", "character", "meta"]
    assert lost[0]["tags_kept"] == metadata(result, "vocab")["num_general_tags"]
    assert lost[0]["tags_kept"] + lost[0]["tags_lost"] == metadata(result, "tag_frequencies")["num_general_tags"]
    assert sum(row["uses_lost"] for row in lost) == metadata(result, "packed_tokens")["num_dropped_uses"]
    short = table_of(result, "caption_lengths", "short_posts")
    assert short[0]["tags_of"] == "all"
    assert short[0]["fewer_than_1"] == metadata(result, "packed_tokens")["num_posts_without_tags"]
    assert "warnings" not in metadata(result, "vocab")


def test_a_category_beyond_16_bits_is_shown(built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut, "MAX_U16_TAGS", 50)
    result = built[0].copy_to(tmp_path / "copy").materialize("vocab")
    assert versions(result)["vocab"] == versions(built[1])["vocab"]
    assert re.fullmatch(
        r"general: \d+ tags, but 16 bits number only 50: .* or min_count = \d+ would fit",
        str(metadata(result, "vocab")["warnings"]),
    )


def test_other_names_of_tags_travel_with_the_vocabulary(project: Project) -> None:
    table = "name,category,post_count,aliases\n1girl,0,9,1girls sole_female\nnobody_uses_it,0,9,gone\n"
    (project.folder / "tags.csv").write_text(table, encoding="utf-8")
    text = project.settings_file.read_text(encoding="utf-8")
    project.settings_file.write_text(text.replace("[posts]\n", '[posts]\naliases = "tags.csv"\n'), encoding="utf-8")
    assert project.materialize("posts,tag_frequencies,vocab").success
    vocab = Vocab.load(project.warehouse.current("vocab").path)
    assert vocab.aliases == {Category.GENERAL: {"1girls": "1girl", "sole_female": "1girl"}}

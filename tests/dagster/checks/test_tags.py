"""Checks of frequencies and vocabulary that fail on purpose, and those that look back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from booru_embed_core.filesystem import file_sha256
from booru_embed_core.json_files import content_checksum
from booru_embed_core.posts.checksums import write_checksums
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA
from booru_embed_core.tags.vocab import VOCAB_FILE, VOCAB_TABLE_FILE, Vocab
from booru_embed_dagster.assets import tags as assets
from booru_embed_dagster.checks import tags as checks
from tests.dagster.checks.check_helpers import Built, change_product, failed_checks, run_check, spoil, started
from tests.dagster.project_helpers import Project


def test_frequencies_of_other_types_fail(copy: Project) -> None:
    assert run_check(checks.tag_frequencies_have_their_columns, copy).passed
    file = copy.warehouse.current("tag_frequencies").path / "artist.parquet"
    pq.write_table(pq.read_table(file).rename_columns(["tag", "uses", "cumulative_share"]), file)
    result = run_check(checks.tag_frequencies_have_their_columns, copy)
    assert not result.passed
    assert "artist.parquet: columns tag,uses,cumulative_share instead of tag,count," in str(result.description)


def turn_round(folder: Path) -> None:
    """Gives the most used tag's uses to the least used, and so on."""
    table = pq.read_table(folder / "general.parquet")
    names = pa.array(table["tag"].to_pylist()[::-1])
    pq.write_table(
        pa.table([names, table["count"], table["cumulative_share"]], schema=FREQUENCY_SCHEMA),
        folder / "general.parquet",
    )
    write_checksums(folder)


def add_one_use(folder: Path) -> None:
    table = pq.read_table(folder / "general.parquet")
    counts = table["count"].to_numpy().copy()
    counts[0] += 1
    pq.write_table(
        pa.table([table["tag"], counts, table["cumulative_share"]], schema=FREQUENCY_SCHEMA), folder / "general.parquet"
    )
    write_checksums(folder)


def test_tags_that_are_used_otherwise_than_before_are_a_warning(copy: Project) -> None:
    first = run_check(checks.tag_shares_have_not_drifted, copy)
    assert first.passed
    assert first.description == "no earlier version to compare with"
    change_product(copy, "tag_frequencies", add_one_use)
    second = run_check(checks.tag_shares_have_not_drifted, copy)
    assert second.passed
    assert 0 < second.metadata["general_drift"].value < 0.001
    change_product(copy, "tag_frequencies", turn_round)
    result = run_check(checks.tag_shares_have_not_drifted, copy)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert str(result.description).startswith("general: ")
    table = result.metadata["most_moved"]
    assert isinstance(table, dg.TableMetadataValue)
    assert {record.data["category"] for record in table.records} == {"general"}
    assert "multiple_girls 2.06% → 0.01%" in str(result.description)


def rename_the_rare(folder: Path) -> None:
    """Other characters that are used once."""
    table = pq.read_table(folder / "character.parquet")
    names = [f"other_{row['tag']}" if row["count"] == 1 else row["tag"] for row in table.to_pylist()]
    renamed = pa.table([names, table["count"], table["cumulative_share"]], schema=FREQUENCY_SCHEMA)
    pq.write_table(renamed, folder / "character.parquet")
    write_checksums(folder)


def test_other_tags_that_are_used_once_are_what_chance_does(copy: Project) -> None:
    change_product(copy, "tag_frequencies", rename_the_rare)
    result = run_check(checks.tag_shares_have_not_drifted, copy)
    assert result.metadata["character_drift"].value > 2 * checks.MAX_DRIFT
    assert result.passed


def another_count(folder: Path) -> None:
    table = pq.read_table(folder / VOCAB_TABLE_FILE)
    pq.write_table(table.set_column(3, "count", [table["count"].to_numpy() + 1]), folder / VOCAB_TABLE_FILE)


def no_tags(folder: Path) -> None:
    save_vocab(Vocab((), np.zeros(0, np.uint8), np.zeros(0, np.int64)), folder)


def a_tag_twice(folder: Path) -> None:
    good = Vocab.load(folder)
    save_vocab(Vocab((good.tags[0], *good.tags[:-1]), good.categories, good.counts), folder)


def disorder(folder: Path) -> None:
    good = Vocab.load(folder)
    save_vocab(Vocab(good.tags, good.categories, good.counts[::-1].copy()), folder)


def another_table(folder: Path) -> None:
    """A table that the hashes name, but of other tags than the list."""
    another_count(folder)
    description = json.loads((folder / VOCAB_FILE).read_text(encoding="utf-8"))
    description["files"][VOCAB_TABLE_FILE] = file_sha256(folder / VOCAB_TABLE_FILE)
    (folder / VOCAB_FILE).write_text(
        json.dumps(description | {"checksum": content_checksum(description)}), encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (another_table, "vocab.parquet: not the tags of vocab.json"),
        (another_count, "was changed or belongs to another vocab"),
        (no_tags, "no tags"),
        (a_tag_twice, "a tag occurs twice"),
        (disorder, "not in the order of use"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_fails(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    assert run_check(checks.vocab_is_sane, copy).passed
    damage(copy.warehouse.current("vocab").path)
    result = run_check(checks.vocab_is_sane, copy)
    assert not result.passed
    assert message in str(result.description)


def test_a_changed_vocabulary_stops_the_pipeline(copy: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "save_vocab", spoil(save_vocab, another_count))
    result = copy.materialize("vocab,packed_tokens")
    assert "vocab_is_sane" in failed_checks(result)
    assert "packed_tokens" not in started(result)


def test_a_vocabulary_of_other_types_fails(copy: Project) -> None:
    assert run_check(checks.vocab_has_its_columns, copy).passed
    another_count(copy.warehouse.current("vocab").path)  # which writes columns that may hold nulls
    result = run_check(checks.vocab_has_its_columns, copy)
    assert not result.passed
    assert "column pyarrow.Field<count: int64> instead of" in str(result.description)


def test_a_vocabulary_of_another_size_is_a_warning_that_stops_nothing(copy: Project) -> None:
    first = run_check(checks.vocab_size_has_not_jumped, copy)
    assert (first.passed, first.description) == (True, "no earlier version to compare with")
    copy.set(keep_percentile=50)
    result = copy.materialize("vocab,packed_tokens")
    assert result.success
    (found,) = [
        check for check in result.get_asset_check_evaluations() if check.check_name == "vocab_size_has_not_jumped"
    ]
    assert (found.passed, found.severity, found.blocking) == (False, dg.AssetCheckSeverity.WARN, False)
    assert str(found.description).startswith("general: ")
    assert "look at [vocab]" in str(found.description)
    assert found.metadata["general_change"].value < 0


def test_a_vocabulary_that_is_changed_back_is_compared_with_the_one_between(copy: Project) -> None:
    first = copy.warehouse.current("vocab")
    copy.set(keep_percentile=94)
    assert copy.materialize("vocab").success
    between = copy.warehouse.current("vocab")
    copy.set(keep_percentile=95)
    assert copy.materialize("vocab").success
    assert copy.warehouse.current("vocab") == first
    result = run_check(checks.vocab_size_has_not_jumped, copy)
    assert result.passed
    assert result.metadata["compared_with"].value == between.version != first.version


def test_a_few_tags_more_of_a_handful_are_no_jump(copy: Project, built: Built) -> None:
    small = Vocab(("a", "b"), np.zeros(2, np.uint8), np.array([2, 1]))
    large = Vocab(("a", "b", "c", "d", "e"), np.zeros(5, np.uint8), np.array([5, 4, 3, 2, 1]))
    change_product(copy, "vocab", partial(save_vocab, small))
    change_product(copy, "vocab", partial(save_vocab, large))
    assert run_check(checks.vocab_size_has_not_jumped, copy).passed

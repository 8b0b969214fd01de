"""Checks of the packed tokens that fail on purpose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens.packed_file import (
    PACKED_FILE,
    TENSOR_TYPES,
    PackedFile,
)
from booru_embed_core.tokens.packed_writer import packed_metadata, write_packed_file
from booru_embed_dagster.assets import tokens
from booru_embed_dagster.checks import tokens as checks
from tests.dagster.checks.check_helpers import Built, failed_checks, run_check, spoil, started
from tests.dagster.project_helpers import Project


def write_again(folder: Path, settings: TokensSettings | None = None, **changed: NDArray[Any]) -> None:
    """Writes the packed file anew, with other tensors or the splits of other `settings`."""
    packed = PackedFile.open(folder / PACKED_FILE)
    arrays = {name: np.array(getattr(packed, name)) for name in TENSOR_TYPES} | changed
    sizes = (packed.vocab_hash, len(arrays["post_id"]), len(arrays["tokens"]))
    write_packed_file(folder / PACKED_FILE, arrays, packed_metadata(*sizes, settings or packed.split_settings))


def change_tensor(folder: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    write_again(folder, **{name: change(np.array(getattr(PackedFile.open(folder / PACKED_FILE), name)))})


def other_tags(folder: Path) -> None:
    change_tensor(folder, "tokens", lambda tokens: np.where(tokens > 0, tokens - 1, 1).astype(tokens.dtype))


def other_ids(folder: Path) -> None:
    change_tensor(folder, "post_id", lambda ids: ids + 1)


def other_scores(folder: Path) -> None:
    change_tensor(folder, "score", lambda scores: scores + 1)


def truncate(folder: Path) -> None:
    file = folder / PACKED_FILE
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_tags, "record "),
        (other_ids, "record "),
        (other_scores, "record "),
        (truncate, "truncated: "),
    ],
)
def test_packed_tokens_that_say_something_else_fail(
    copy: Project, damage: Callable[[Path], None], message: str
) -> None:
    assert run_check(checks.packed_tokens_decode_to_posts, copy).passed
    damage(copy.warehouse.current("packed_tokens").path)
    result = run_check(checks.packed_tokens_decode_to_posts, copy)
    assert not result.passed
    assert message in str(result.description)
    assert "materialize packed_tokens again" in str(result.description)
    assert "\n" not in str(result.description)


def test_packed_tokens_that_say_something_else_stop_the_pipeline(
    copy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "encode_posts", spoil(tokens.encode_posts, other_ids))
    result = copy.materialize("packed_tokens,caption_lengths")
    assert failed_checks(result) == {"packed_tokens_decode_to_posts"}
    assert "caption_lengths" not in started(result)


def lose_a_post(posts_dir: Path) -> None:
    file = posts_dir / "part-00000.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)


def test_packed_tokens_of_fewer_posts_fail(copy: Project) -> None:
    lose_a_post(copy.warehouse.current("posts").path)
    assert "400 posts of 399" in str(run_check(checks.packed_tokens_decode_to_posts, copy).description)


def test_the_posts_that_the_tokens_were_made_from_are_compared(copy: Project) -> None:
    lines = copy.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    copy.export_file.write_text("".join(lines[:-1]), encoding="utf-8")
    assert copy.materialize("posts").success
    assert run_check(checks.packed_tokens_decode_to_posts, copy).passed
    assert run_check(checks.packed_tokens_reconcile, copy).passed


def test_the_sample_is_the_same_each_time_and_of_the_posts(built: Built) -> None:
    posts_dir = built[0].warehouse.current("posts").path
    first = list(checks.sample_rows(posts_dir))
    assert len(first) == checks.SAMPLED_POSTS
    assert first == list(checks.sample_rows(posts_dir))
    ids = pq.read_table(posts_dir / "part-00000.parquet")["id"].to_pylist()
    assert [ids[index] for index, _ in first] == [row["id"] for _, row in first]
    assert len({ids[index] for index, _ in first}) == len(first)


def lose_a_tag(folder: Path) -> None:
    """The last general tag of the first post that has one is no longer a token."""
    packed = PackedFile.open(folder / PACKED_FILE)
    post = int(np.flatnonzero(packed.field_lengths[:, 0])[0])
    lengths, offsets = np.array(packed.field_lengths), np.array(packed.offsets)
    lengths[post, 0] -= 1
    offsets[post + 1 :] -= np.uint64(1)
    tokens = np.delete(packed.tokens, int(packed.offsets[post]) + int(lengths[post, 0]))
    write_again(folder, tokens=tokens, offsets=offsets, field_lengths=lengths)


@pytest.mark.parametrize("unpopular", ["drop", "unk"])
def test_uses_that_are_neither_kept_nor_dropped_nor_replaced_fail(copy: Project, unpopular: str) -> None:
    text = copy.settings_file.read_text().replace("min_count = 2", f'min_count = 2\nunpopular = "{unpopular}"')
    copy.settings_file.write_text(text)
    made = copy.materialize("vocab,packed_tokens")
    assert made.success
    good = run_check(checks.packed_tokens_reconcile, copy)
    assert good.passed
    figures = {name: good.metadata[f"num_{name}"].value for name in ("uses", "kept", "dropped", "replaced")}
    (event,) = made.asset_materializations_for_node("packed_tokens")
    assert figures["kept"] == event.metadata["num_kept_uses"].value
    assert figures["dropped"] == event.metadata["num_dropped_uses"].value
    assert figures["replaced"] == event.metadata["num_unknown_uses"].value
    assert figures["uses"] == figures["kept"] + figures["dropped"] + figures["replaced"]
    assert figures["dropped" if unpopular == "drop" else "replaced"] > 0
    lose_a_tag(copy.warehouse.current("packed_tokens").path)
    result = run_check(checks.packed_tokens_reconcile, copy)
    assert not result.passed
    assert "uses of general tags, not" in str(result.description)
    assert "materialize packed_tokens again" in str(result.description)


def never(*_: object) -> tuple[int, int, int]:
    raise AssertionError("the posts were read")


def test_uses_are_counted_in_the_posts_only_where_the_frequencies_are_of_others(
    copy: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_frequencies = run_check(checks.packed_tokens_reconcile, copy)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "_count_uses", never)
        assert run_check(checks.packed_tokens_reconcile, copy).passed
        patch.setattr(checks, "_frequencies_of", lambda *_: None)
        with pytest.raises(AssertionError, match="the posts were read"):
            run_check(checks.packed_tokens_reconcile, copy)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "_frequencies_of", lambda *_: None)
        assert run_check(checks.packed_tokens_reconcile, copy).metadata == by_frequencies.metadata

    lines = copy.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    copy.export_file.write_text("".join(lines[:-1]), encoding="utf-8")
    assert copy.materialize("posts,packed_tokens").success  # the vocabulary is that of the posts before
    assert run_check(checks.packed_tokens_reconcile, copy).passed
    lose_a_post(copy.warehouse.current("posts").path)
    result = run_check(checks.packed_tokens_reconcile, copy)
    assert not result.passed
    assert "uses of general tags, not" in str(result.description)


def a_post_twice(folder: Path) -> None:
    change_tensor(folder, "post_id", lambda ids: np.where(np.arange(len(ids)) == 1, ids[0], ids))


def unordered_repeats(folder: Path) -> None:
    change_tensor(folder, "post_id", lambda ids: np.concatenate([[7, 5, 7, 5, 7], 10**9 - ids[5:]]))


def other_splits(folder: Path) -> None:
    write_again(folder, TokensSettings(validation_share=0.1, test_share=0.2, split_key="another"))


def one_split_alone(folder: Path) -> None:
    """Ids that all fall into the test split."""
    packed = PackedFile.open(folder / PACKED_FILE)
    test = packed.post_id[packed.split_ids() == 2]
    change_tensor(folder, "post_id", lambda ids: np.resize(test, len(ids)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (a_post_twice, "posts that occur twice: "),
        (unordered_repeats, "posts that occur twice: 5, 7; "),
        (other_splits, "has the splits of other settings "),
        (one_split_alone, "400 test posts, 80 expected"),
    ],
)
def test_splits_that_leak_fail(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    assert run_check(checks.splits_do_not_leak, copy).passed
    damage(copy.warehouse.current("packed_tokens").path)
    result = run_check(checks.splits_do_not_leak, copy)
    assert not result.passed
    assert message in str(result.description)


def test_splits_that_leak_stop_the_pipeline(copy: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "encode_posts", spoil(tokens.encode_posts, other_splits))
    result = copy.materialize("packed_tokens,checkpoint")
    assert failed_checks(result) == {"splits_do_not_leak"}
    assert "checkpoint" not in started(result)


def test_test_posts_with_the_tags_of_training_posts_are_a_warning(copy: Project) -> None:
    assert run_check(checks.few_captions_are_in_train_and_test, copy).passed
    folder = copy.warehouse.current("packed_tokens").path
    packed = PackedFile.open(folder / PACKED_FILE)
    # All posts get the tags of the first.
    length, fields = int(packed.offsets[1]), np.tile(packed.field_lengths[:1], (packed.num_posts, 1))
    write_again(
        folder,
        tokens=np.tile(packed.tokens[:length], packed.num_posts),
        offsets=(np.arange(packed.num_posts + 1) * length).astype(np.uint64),
        field_lengths=fields,
    )
    result = run_check(checks.few_captions_are_in_train_and_test, copy)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert result.metadata["share"].value == 1.0
    assert str(result.description).startswith("100.0% of the test posts have the tags of a training post")

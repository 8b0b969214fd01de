"""Checks that fail on purpose: a damaged product stops what is downstream."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from project_helpers import Project
from safetensors.numpy import load_file, save_file

from booru_embed_core.posts.files import REJECTS_FILE, REPORT_FILE
from booru_embed_core.tags.vocab import VOCAB_TABLE_FILE, Vocab
from booru_embed_core.tokens.packed_file import (
    PACKED_FILE,
    TENSOR_TYPES,
    PackedFile,
    packed_metadata,
    write_packed_file,
)
from booru_embed_dagster import checks
from booru_embed_dagster.assets import posts, tokens
from booru_embed_dagster.resources import Pipeline

Built = tuple[Project, dg.ExecuteInProcessResult]


def spoil(function: Callable[..., Any], damage: Callable[[Path], None]) -> Callable[..., Any]:
    """`function` of the core, after which `damage` is done to the folder that it wrote to."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        result = function(*arguments, **keywords)
        damage(next(path for path in arguments if isinstance(path, Path) and ".drafts" in path.parts))
        return result

    return call


def started(result: dg.ExecuteInProcessResult) -> set[str]:
    return {str(event.step_key) for event in result.all_events if event.event_type_value == "STEP_START"}


def failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    assert not result.success
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}


def run_check(check: dg.AssetChecksDefinition, project: Project) -> dg.AssetCheckResult:
    result = check(Pipeline(settings_file=str(project.settings_file)))
    assert isinstance(result, dg.AssetCheckResult)
    return result


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Project:
    """A project in which everything has been materialized, to be damaged."""
    return built[0].copy_to(tmp_path / "copy")


def miscount(folder: Path) -> None:
    file = folder / REPORT_FILE
    file.write_text(file.read_text().replace('"num_kept": 400', '"num_kept": 401'))


def lose_a_post(folder: Path) -> None:
    file = folder / "part-00000.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)


def invent_a_reject(folder: Path) -> None:
    file = folder / REJECTS_FILE
    schema = pq.read_schema(file)
    row = {field.name: 1 if pa.types.is_integer(field.type) else "?" for field in schema}
    pq.write_table(pa.Table.from_pylist([row], schema), file)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (miscount, "read is not kept + duplicate + rejected"),
        (lose_a_post, "399 posts, 400 reported"),
        (invent_a_reject, "1 lines, 0 reported"),
    ],
)
def test_posts_that_do_not_reconcile_fail(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    damage(copy.warehouse.current("posts").path)
    result = run_check(checks.posts_reconcile, copy)
    assert not result.passed
    assert message in str(result.description)
    assert "materialize posts again" in str(result.description)


def test_posts_that_do_not_reconcile_stop_the_pipeline(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posts, "read_export", spoil(posts.read_export, miscount))
    result = project.materialize("posts+")
    assert failed_checks(result) == {"posts_reconcile"}
    assert started(result) == {"posts", "posts_posts_reconcile"}


def another_count(folder: Path) -> None:
    table = pq.read_table(folder / VOCAB_TABLE_FILE)
    pq.write_table(table.set_column(3, "count", [table["count"].to_numpy() + 1]), folder / VOCAB_TABLE_FILE)


def no_tags(folder: Path) -> None:
    Vocab((), np.zeros(0, np.uint8), np.zeros(0, np.int64)).save(folder)


def a_tag_twice(folder: Path) -> None:
    good = Vocab.load(folder)
    Vocab((good.tags[0], *good.tags[:-1]), good.categories, good.counts).save(folder)


def disorder(folder: Path) -> None:
    good = Vocab.load(folder)
    Vocab(good.tags, good.categories, good.counts[::-1].copy()).save(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (another_count, "was changed or belongs to another vocab"),
        (no_tags, "no tags"),
        (a_tag_twice, "a tag stands there twice"),
        (disorder, "not in the order of use"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_fails(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    damage(copy.warehouse.current("vocab").path)
    result = run_check(checks.vocab_is_sane, copy)
    assert not result.passed
    assert message in str(result.description)


def test_a_changed_vocabulary_stops_the_pipeline(copy: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vocab, "save", spoil(Vocab.save, another_count))
    result = copy.materialize("vocab,packed_tokens")
    assert failed_checks(result) == {"vocab_is_sane"}
    assert started(result) == {"vocab", "vocab_vocab_is_sane"}


def change_tensor(folder: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Rewrites one tensor of the packed file and keeps its header."""
    packed = PackedFile.open(folder / PACKED_FILE)
    arrays = {key: np.array(getattr(packed, key)) for key in TENSOR_TYPES}
    arrays[name] = change(arrays[name])
    sizes = (packed.vocab_hash, packed.num_posts, packed.num_tokens)
    write_packed_file(folder / PACKED_FILE, arrays, packed_metadata(*sizes, packed.split_settings))


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
    assert started(result) == {"packed_tokens", "packed_tokens_packed_tokens_decode_to_posts"}


def test_packed_tokens_of_fewer_posts_fail(copy: Project) -> None:
    lose_a_post(copy.warehouse.current("posts").path)
    assert "400 posts of 399" in str(run_check(checks.packed_tokens_decode_to_posts, copy).description)


def test_the_posts_that_the_tokens_were_made_from_are_compared(copy: Project) -> None:
    lines = copy.export_file.read_text(encoding="utf-8").splitlines(keepends=True)
    copy.export_file.write_text("".join(lines[:-1]), encoding="utf-8")
    assert copy.materialize("posts").success
    assert run_check(checks.packed_tokens_decode_to_posts, copy).passed


def test_the_sample_is_the_same_each_time_and_of_the_posts(built: Built) -> None:
    posts_dir = built[0].warehouse.current("posts").path
    first = list(checks.sample_rows(posts_dir))
    assert len(first) == checks.SAMPLED_POSTS
    assert first == list(checks.sample_rows(posts_dir))
    ids = pq.read_table(posts_dir / "part-00000.parquet")["id"].to_pylist()
    assert [ids[index] for index, _ in first] == [row["id"] for _, row in first]
    assert len({ids[index] for index, _ in first}) == len(first)


def edit_log(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    file = folder / "training_log.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    change(records[1])
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def no_loss(folder: Path) -> None:
    edit_log(folder, lambda record: record.update(loss=math.nan))


def no_validation_loss(folder: Path) -> None:
    edit_log(folder, lambda record: record.update(validation={"loss": math.inf}))


def no_log(folder: Path) -> None:
    (folder / "training_log.jsonl").write_text("")


def broken_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    next(iter(weights.values())).reshape(-1)[0] = math.nan
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_loss, "no finite loss at step"),
        (no_validation_loss, "no finite loss at step"),
        (no_log, "is empty"),
        (broken_weights, "is not finite"),
    ],
)
def test_a_training_that_broke_down_fails(copy: Project, damage: Callable[[Path], None], message: str) -> None:
    assert run_check(checks.training_stayed_finite, copy).passed
    damage(copy.warehouse.current("checkpoint").path)
    result = run_check(checks.training_stayed_finite, copy)
    assert not result.passed
    assert message in str(result.description)


@pytest.mark.parametrize("recall", [0.0, math.nan, None])
def test_an_embedding_no_better_than_popularity_fails(copy: Project, recall: float | None) -> None:
    assert run_check(checks.embedding_beats_popularity, copy).passed
    file = copy.warehouse.current("evaluation").path / "evaluation.json"
    figures = json.loads(file.read_text())
    models = figures["tasks"]["half"]["models"]
    if recall is None:
        del models["booru-embed"]
    else:
        models["booru-embed"]["recall@10"] = recall
    file.write_text(json.dumps(figures))
    result = run_check(checks.embedding_beats_popularity, copy)
    assert not result.passed
    assert str(result.description).startswith("half hidden: recall@10 ")
    assert set(result.metadata) == {"one_hidden", "one_hidden_popularity", "half_hidden", "half_hidden_popularity"}


@pytest.mark.parametrize(
    ("value", "message"), [(math.nan, "a vector is not of unit length"), (2.0, "a vector is not of unit length")]
)
def test_embeddings_that_are_no_unit_vectors_fail(copy: Project, value: float, message: str) -> None:
    assert run_check(checks.embeddings_are_unit_vectors, copy).passed
    file = copy.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet"
    table = pq.read_table(file)
    vectors = table["vector"].to_pylist()
    vectors[3][0] = value
    pq.write_table(table.set_column(3, "vector", pa.array(vectors, table.schema.field("vector").type)), file)
    assert message in str(run_check(checks.embeddings_are_unit_vectors, copy).description)


def test_embeddings_of_other_tags_fail(copy: Project) -> None:
    file = copy.warehouse.current("tag_embeddings").path / "tag_embeddings.parquet"
    pq.write_table(pq.read_table(file).slice(1), file)
    description = str(run_check(checks.embeddings_are_unit_vectors, copy).description)
    assert "its tags are not those of the vocab" in description


def test_a_missing_product_fails_its_check_with_the_remedy(project: Project) -> None:
    for check in (checks.posts_reconcile, checks.vocab_is_sane, checks.training_stayed_finite):
        result = run_check(check, project)
        assert not result.passed
        assert "materialize it first" in str(result.description)

"""A sweep asks all vocabularies the same questions, trains each once, and resumes after an interruption."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from booru_embed_core.evaluation.sweep import (
    SWEEP_SCHEMA,
    Questions,
    ask,
    cheapest_good,
    columns_in,
    scorer_recall,
    sweep_percentiles,
    translate,
)
from booru_embed_core.evaluation.tasks import HeldOut
from booru_embed_core.schema import UNKNOWN_TAGS, Category
from booru_embed_core.settings import Settings, TokensSettings, VocabSettings
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.cooccurrence import CaptionMatrix
from booru_embed_core.training.loop import train
from tests.core.evaluation.evaluation_helpers import captions_of
from tests.core.export_helpers import Walked, csv_bytes, walk
from tests.core.model_helpers import model_settings, topic_posts, training_settings

SETTINGS = Settings(
    vocab=VocabSettings(min_count=1),
    tokens=TokensSettings(validation_share=0.3, test_share=0.1),
    model=model_settings(num_layers=1),
    training=training_settings(num_epochs=1),
)


class ByIndex:
    """Ranks tags by ascending index and records the visible tags."""

    name = "by index"

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        self.visible = visible.toarray()
        return np.tile(-np.arange(visible.shape[1], dtype=np.float32), (visible.shape[0], 1))


class Trainer:
    """`train` in this process, interrupted at training number `stops_at`."""

    def __init__(self, stops_at: int = 99) -> None:
        self.stops_at = stops_at
        self.num_tags: list[int] = []

    def __call__(self, packed_path: Path, vocab_dir: Path, work_dir: Path, out_dir: Path) -> float:
        if len(self.num_tags) == self.stops_at:
            raise KeyboardInterrupt
        self.num_tags.append(Vocab.load(vocab_dir).num_tags)
        return train(packed_path, vocab_dir, work_dir, out_dir, SETTINGS.model, SETTINGS.training).seconds


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Walked:
    folder = tmp_path_factory.mktemp("sweep")
    export = folder / "posts.csv"
    export.write_bytes(csv_bytes(topic_posts(120)))
    return walk(export, folder / "walked")


def vocab_of(*tags: str, categories: Sequence[int] | None = None) -> Vocab:
    ids = np.array(categories or [0] * len(tags), dtype=np.uint8)
    return Vocab(tags, ids, np.arange(len(tags), 0, -1, dtype=np.int64))


def questions_of(every: Vocab, visible: list[list[int]], hidden: list[list[int]]) -> Questions:
    shown = captions_of(visible, every.num_tags)
    held_out = HeldOut(shown, captions_of(hidden, every.num_tags), shown, np.arange(len(visible)))
    return Questions(every, {"one": held_out})


def test_a_hidden_tag_without_a_token_is_a_miss_and_not_counted_within() -> None:
    every = vocab_of("1girl", "solo", "hat", "bow")
    questions = questions_of(every, [[0, 1], [0, 3], [3]], [[2], [1], [0, 2]])
    small = scorer_recall(ByIndex(), vocab_of("1girl", "solo"), questions)
    assert small["recall_one"] == pytest.approx((0 + 1 + 1 / 2) / 3)
    assert small["recall_one_within"] == 1.0
    assert scorer_recall(ByIndex(), every, questions)["recall_one"] == 1.0


def test_a_vocabulary_that_holds_nothing_hidden_finds_nothing() -> None:
    questions = questions_of(vocab_of("a", "b"), [[0]], [[1]])
    assert scorer_recall(ByIndex(), vocab_of("a"), questions) == {"recall_one": 0.0, "recall_one_within": 0.0}


def test_visible_tags_without_a_token_become_the_unknown_token_which_is_never_a_hit(walked: Walked) -> None:
    every = build_vocab(walked.freq_dir, VocabSettings(keep_percentile=100, min_count=1))
    cut = build_vocab(walked.freq_dir, VocabSettings(keep_percentile=50, min_count=1, unpopular="unk"))
    lost = [index for index, column in enumerate(columns_in(cut, every)) if cut.is_unknown[column]]
    general = [index for index in lost if every.categories[index] == 0]
    assert len(general) > 2
    scorer = ByIndex()
    found = scorer_recall(scorer, cut, questions_of(every, [general[:2]], [general[2:3]]))
    assert found == {"recall_one": 0.0, "recall_one_within": 0.0}
    (shown,) = (np.flatnonzero(row) for row in scorer.visible)
    assert [cut.tags[index] for index in shown] == [UNKNOWN_TAGS[Category.GENERAL]]


def test_tags_of_one_name_in_two_categories_are_two() -> None:
    every = vocab_of("miku", "miku", categories=[0, 3])
    assert columns_in(vocab_of("miku", categories=[3]), every).tolist() == [-1, 0]


def test_translated_captions_hold_a_tag_once_and_lose_those_without_a_column() -> None:
    moved = translate(captions_of([[0, 1, 2], [3], []], 4), np.array([1, 1, 0, -1]), 2)
    assert moved.toarray().tolist() == [[1, 1], [0, 0], [0, 0]]


def test_questions_do_not_depend_on_the_cut(walked: Walked, tmp_path: Path) -> None:
    narrow = SETTINGS.model_copy(update={"vocab": VocabSettings(keep_percentile=50)})
    asked = [ask(walked.posts_dir, walked.freq_dir, tmp_path, settings) for settings in (SETTINGS, narrow)]
    for hide in ("one", "half"):
        assert (asked[0].held_outs[hide].hidden != asked[1].held_outs[hide].hidden).nnz == 0
        assert asked[0].held_outs[hide].hidden.nnz > 20
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_an_interrupted_sweep_resumes_and_trains_equal_vocabularies_once(walked: Walked, tmp_path: Path) -> None:
    lines: list[str] = []
    first, second = Trainer(stops_at=1), Trainer()

    def sweep(trainer: Trainer) -> pa.Table:
        percentiles = [100, 99.999, 60, 60]
        return sweep_percentiles(
            walked.posts_dir, walked.freq_dir, tmp_path, SETTINGS, percentiles, trainer, lines.append
        )

    with pytest.raises(KeyboardInterrupt):
        sweep(first)
    table = sweep(second)
    assert table.schema == SWEEP_SCHEMA
    small, almost, every = table.to_pylist()
    assert first.num_tags == [small["vocab_size"]]
    assert second.num_tags == [every["vocab_size"]]
    assert {**almost, "percentile": 100.0} == every
    assert (every["coverage"], every["percentile"]) == (1.0, 100.0)
    assert small["coverage"] < 0.9
    for cost in ("vocab_size", "num_tokens", "packed_bytes", "num_parameters", "flops_per_epoch"):
        assert small[cost] < every[cost]
    assert every["recall_half"] == every["recall_half_within"]
    assert small["recall_half"] < small["recall_half_within"]
    assert [line.split(":")[0] for line in lines] == [f"percentile {p}" for p in ("60", "60", "99.999", "100")]
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {"row.json"}


def test_the_cheapest_good_percentile_is_the_lowest_within_the_margin() -> None:
    table = pa.table({"percentile": [80.0, 95.0, 99.0, 99.9], "recall_half": [0.4, 0.495, 0.503, 0.5]})
    assert cheapest_good(table) == 95.0
    assert cheapest_good(table, margin=0.0) == 99.0

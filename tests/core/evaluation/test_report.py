"""The whole evaluation on a small packed file: its figures, its posts and its caveats."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from booru_embed_core.evaluation import counting as report_module
from booru_embed_core.evaluation.baselines import Popularity
from booru_embed_core.evaluation.implied import implied_pairs, without_implied
from booru_embed_core.evaluation.metrics import (
    evaluate_scorer,
    mean_metrics,
    metrics_of_ranks,
    rank_hidden,
    ranks_of_group,
)
from booru_embed_core.evaluation.report import Evaluation, evaluate_captions, run_evaluation
from booru_embed_core.evaluation.task_figures import Margin, TaskResult
from booru_embed_core.evaluation.tasks import HIDES, hold_out
from booru_embed_core.evaluation.tuning import baselines_from_packed
from booru_embed_core.schema import UNKNOWN_TAGS, Category
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, PackedCaptions, count_cooccurrence
from booru_embed_core.tokens.packed_file import PackedFile
from tests.core.evaluation.evaluation_helpers import FixedScorer, captions_of, rows_of, topic_rows
from tests.core.in_memory_helpers import packed_of

NUM_TAGS = 24
ROWS = [[*row, 23] if 22 in row and 23 not in row else row for row in topic_rows(400, NUM_TAGS, seed=1)]  # 22 → 23
SETTINGS = EvaluationSettings(implied_min_count=5)


class Oracle:
    """Knows the test posts and the order in which they are scored, task after task."""

    name = "oracle"

    def __init__(self, packed: PackedFile) -> None:
        posts = [ROWS[row] for row in rows_of_split(packed, "test")]
        self.captions = captions_of([post for post in posts if len(post) >= 2], NUM_TAGS)
        self.num_scored = 0

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        start = self.num_scored % self.captions.shape[0]
        self.num_scored += visible.shape[0]
        return self.captions[start : start + visible.shape[0]].toarray()

    def embed(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        return np.eye(visible.shape[0], dtype=np.float32)


@pytest.fixture(scope="module")
def packed_and_vocab() -> tuple[PackedFile, Vocab]:
    return packed_of(ROWS, NUM_TAGS)


@pytest.fixture(scope="module")
def evaluation(packed_and_vocab: tuple[PackedFile, Vocab]) -> Evaluation:
    packed, vocab = packed_and_vocab
    return run_evaluation([Oracle(packed)], packed, vocab, SETTINGS)


def test_an_oracle_is_always_right(evaluation: Evaluation) -> None:
    for result in (*evaluation.tasks.values(), *evaluation.without_implied.values()):
        assert set(result.models["oracle"].values()) == {1.0}


def test_models_stand_before_baselines_with_all_metrics(evaluation: Evaluation) -> None:
    for results in (evaluation.tasks, evaluation.without_implied):
        assert list(results) == list(HIDES)
        for result in results.values():
            assert list(result.models) == ["oracle", *SETTINGS.baselines]
            for metrics in result.models.values():
                assert list(metrics) == ["recall@1", "recall@10", "recall@50", "mrr"]
                assert all(0 <= value <= 1 for value in metrics.values())


def test_baselines_figures_are_those_of_the_test_split(
    packed_and_vocab: tuple[PackedFile, Vocab], evaluation: Evaluation
) -> None:
    packed, _ = packed_and_vocab
    train, test = (rows_of_split(packed, split) for split in ("train", "test"))
    popularity = Popularity(count_cooccurrence(captions_of([ROWS[row] for row in train], NUM_TAGS), NUM_TAGS))
    for hide in HIDES:
        held_out = hold_out(captions_of([ROWS[row] for row in test], NUM_TAGS), packed.post_id[test], hide, 7)
        assert evaluation.tasks[hide].models["popularity"] == evaluate_scorer(popularity, held_out)
        assert evaluation.tasks[hide].num_posts == held_out.num_posts
        assert evaluation.tasks[hide].num_hidden == held_out.hidden.nnz


def test_sizes_add_up(evaluation: Evaluation) -> None:
    assert sum(evaluation.split_sizes.values()) == len(ROWS)
    assert evaluation.num_tags == evaluation.num_fitted_tags == NUM_TAGS
    assert evaluation.split_half_retrieval.num_posts == evaluation.tasks["half"].num_posts
    assert evaluation.tasks["one"].num_hidden == evaluation.tasks["one"].num_posts <= evaluation.split_sizes["test"]


def test_implied_tags_are_left_out_of_the_second_figures(evaluation: Evaluation) -> None:
    assert evaluation.num_implied_pairs >= 1
    for hide in HIDES:
        assert 0 < evaluation.without_implied[hide].num_hidden < evaluation.tasks[hide].num_hidden


def test_figures_of_each_group_are_those_of_its_tags_alone(
    packed_and_vocab: tuple[PackedFile, Vocab], evaluation: Evaluation
) -> None:
    packed, _ = packed_and_vocab
    train, test = (captions_of([ROWS[row] for row in rows_of_split(packed, s)], NUM_TAGS) for s in ("train", "test"))
    popularity = Popularity(count_cooccurrence(train, NUM_TAGS))
    post_ids = packed.post_id[rows_of_split(packed, "test")]
    members = {"general": np.arange(NUM_TAGS) < 12, "character": np.arange(NUM_TAGS) >= 12}
    for hide in HIDES:
        held_out, whole = hold_out(test, post_ids, hide, 7), evaluation.tasks[hide]
        groups = evaluation.by_group[hide]
        assert list(groups) == ["general", "character"]  # every tag is in 20 training posts
        assert sum(group.num_hidden for group in groups.values()) == whole.num_hidden
        for name, group in groups.items():
            assert list(group.models) == list(whole.models)
            assert set(group.models["oracle"].values()) == {1.0}
            assert list(group.margins) == ["oracle"]
            ranks = rank_hidden(popularity, [held_out])[0].ranks
            expected = mean_metrics(metrics_of_ranks(*ranks_of_group(ranks, held_out.hidden, members[name])))
            assert group.models["popularity"] == expected


def test_figures_of_groups_are_also_given_without_implied_tags(
    packed_and_vocab: tuple[PackedFile, Vocab], evaluation: Evaluation
) -> None:
    packed, _ = packed_and_vocab
    train, test = (captions_of([ROWS[row] for row in rows_of_split(packed, s)], NUM_TAGS) for s in ("train", "test"))
    popularity = Popularity(count_cooccurrence(train, NUM_TAGS))
    implied = implied_pairs(train, SETTINGS.implied_threshold, SETTINGS.implied_min_count)
    characters = np.arange(NUM_TAGS) >= 12
    for hide in HIDES:
        posts = hold_out(test, packed.post_id[rows_of_split(packed, "test")], hide, 7)
        left = without_implied(posts, implied)
        groups, whole = evaluation.by_group_without_implied[hide], evaluation.by_group[hide]
        assert list(groups) == ["general", "character"]
        assert groups["character"].num_hidden < whole["character"].num_hidden  # 22 → 23
        assert sum(group.num_hidden for group in groups.values()) == evaluation.without_implied[hide].num_hidden
        assert all(set(group.models["oracle"].values()) == {1.0} for group in groups.values())
        ranks = rank_hidden(popularity, [posts, left])[1].ranks
        expected = mean_metrics(metrics_of_ranks(*ranks_of_group(ranks, left.hidden, characters)))
        assert groups["character"].models["popularity"] == expected
        assert list(groups["character"].margins["oracle"]) == list(expected)


def test_rare_tags_are_a_group_of_their_own() -> None:
    rows = [[0, 1, 2] if i % 30 else [0, 1, 23] for i in range(400)]
    packed, vocab = packed_of(rows, NUM_TAGS)
    found = run_evaluation([], packed, vocab, EvaluationSettings(baselines=("popularity",)))
    test = [rows[row] for row in rows_of_split(packed, "test")]
    assert sum(23 in row for row in test) > 1
    for hide in HIDES:
        posts = hold_out(captions_of(test, NUM_TAGS), packed.post_id[rows_of_split(packed, "test")], hide, 7)
        num_hidden = sum(23 in row for row in rows_of(posts.hidden))
        assert num_hidden == found.by_group[hide].get("tail", TaskResult(0, 0, {}, {})).num_hidden


def test_the_share_on_visible_tags_is_reported_for_models_only(evaluation: Evaluation) -> None:
    assert list(evaluation.visible_share) == list(HIDES)
    for shares in evaluation.visible_share.values():
        assert list(shares) == ["oracle"]
        assert 0 < shares["oracle"] < 1


def test_split_half_retrieval_has_all_that_embed(evaluation: Evaluation) -> None:
    found = evaluation.split_half_retrieval.models
    assert list(found) == ["oracle", "ppmi_svd", "lsa", "tag_table"]
    assert found["oracle"] == {"recall@1": 1}
    assert 0 < found["ppmi_svd"]["recall@1"] < 1


def test_margins_are_paired_differences_to_the_best_baseline(evaluation: Evaluation) -> None:
    result = evaluation.tasks["half"]
    assert list(result.margins) == ["oracle"]
    for metric, margin in result.margins["oracle"].items():
        others = {name: values[metric] for name, values in result.models.items() if name != "oracle"}
        assert others[margin.against] == max(others.values())
        assert margin.difference == pytest.approx(result.models["oracle"][metric] - others[margin.against])
    assert result.margins["oracle"]["recall@10"].is_ahead
    assert result.margins["oracle"]["recall@10"].standard_error > 0


def test_a_margin_within_two_standard_errors_is_no_lead() -> None:
    assert Margin("ease", 0.03, 0.01).is_ahead is True
    assert Margin("ease", -0.03, 0.01).is_ahead is False
    assert Margin("ease", 0.02, 0.01).is_ahead is None
    assert Margin("ease", 0.0, 0.0).is_ahead is None


def test_a_model_scores_every_post_once_a_task(packed_and_vocab: tuple[PackedFile, Vocab]) -> None:
    packed, vocab = packed_and_vocab
    oracle = Oracle(packed)
    settings = EvaluationSettings(baselines=(), implied_min_count=5)
    evaluation = run_evaluation([oracle], packed, vocab, settings)
    assert oracle.num_scored == evaluation.tasks["one"].num_posts + evaluation.tasks["half"].num_posts
    assert evaluation.tasks["one"].margins == {}


def test_json_holds_everything_and_is_the_same_every_time(
    packed_and_vocab: tuple[PackedFile, Vocab], evaluation: Evaluation
) -> None:
    packed, vocab = packed_and_vocab
    text = evaluation.to_json()
    values = json.loads(text)
    assert values["tasks"]["half"]["models"]["ease"] == evaluation.tasks["half"].models["ease"]
    assert values["chosen"]["one"]["ease"] == evaluation.chosen["one"]["ease"]
    assert values["tasks"]["one"]["margins"]["oracle"]["mrr"]["against"] in SETTINGS.baselines
    lines: list[str] = []
    assert run_evaluation([Oracle(packed)], packed, vocab, SETTINGS, lines.append).to_json() == text
    assert any("evaluated oracle" in line for line in lines)


def test_no_more_than_max_posts_are_asked_about(packed_and_vocab: tuple[PackedFile, Vocab]) -> None:
    packed, vocab = packed_and_vocab
    settings = EvaluationSettings(baselines=("popularity",), max_posts=30)
    evaluation = run_evaluation([], packed, vocab, settings)
    assert 25 <= evaluation.tasks["one"].num_posts <= 30
    assert evaluation.split_sizes["test"] > 30


def test_test_posts_reach_no_fit(
    packed_and_vocab: tuple[PackedFile, Vocab], evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, vocab = packed_and_vocab
    changed = list(ROWS)
    for row in rows_of_split(packed, "test"):
        changed[row] = [0, 1, 2]
    other_packed, _ = packed_of(changed, NUM_TAGS)
    other = run_evaluation([], other_packed, vocab, SETTINGS)
    assert other.chosen == evaluation.chosen
    assert other.num_implied_pairs == evaluation.num_implied_pairs
    fitted = [baselines_from_packed(file, vocab, SETTINGS).scorers["half"] for file in (packed, other_packed)]
    probe = captions_of([[0, 5], [3]], NUM_TAGS)
    for first, second in zip(*fitted, strict=True):
        assert np.array_equal(first.scores(probe), second.scores(probe))

    # Implications come from training posts: validation posts without the pair 22 → 23 do not break it.
    seen: list[PackedCaptions] = []
    original = report_module.implied_pairs
    monkeypatch.setattr(
        report_module, "implied_pairs", lambda train, *rest: seen.append(train) or original(train, *rest)
    )
    run_evaluation([], packed, vocab, EvaluationSettings(baselines=("popularity",)))
    assert rows_of(seen[0][:]) == [ROWS[row] for row in rows_of_split(packed, "train")]


def test_a_test_split_without_posts_is_an_error() -> None:
    packed, vocab = packed_of([[1]] * 50, NUM_TAGS)
    with pytest.raises(ValueError, match="no test post has two tags"):
        run_evaluation([], packed, vocab, SETTINGS)


def test_two_scorers_of_one_name_are_refused(packed_and_vocab: tuple[PackedFile, Vocab]) -> None:
    packed, vocab = packed_and_vocab
    table = np.zeros((1000, NUM_TAGS), np.float32)
    with pytest.raises(ValueError, match="two scorers are called 'ease'"):
        run_evaluation([FixedScorer(table, "ease")], packed, vocab, SETTINGS)


def test_posts_of_an_outside_file_are_judged_as_the_command_line_prints_it(
    packed_and_vocab: tuple[PackedFile, Vocab],
) -> None:
    packed, vocab = packed_and_vocab
    baselines = baselines_from_packed(packed, vocab, SETTINGS)
    rows = [*topic_rows(30, NUM_TAGS, seed=9), [4], []]
    captions, post_ids = captions_of(rows, NUM_TAGS), np.arange(len(rows))
    found = evaluate_captions(
        [FixedScorer(np.zeros((99, NUM_TAGS)), "booru-embed")], baselines, captions, post_ids, "one", 3
    )
    assert (found["hide"], found["num_posts"]) == ("one", sum(len(row) >= 2 for row in rows))
    assert list(found["models"]) == ["booru-embed", *SETTINGS.baselines]
    held_out = hold_out(captions, post_ids, "one", 3)
    for scorer in baselines.scorers["one"]:
        assert found["models"][scorer.name] == evaluate_scorer(scorer, held_out)
    assert json.loads(json.dumps(found)) == found
    with pytest.raises(ValueError, match="no post to evaluate"):
        evaluate_captions([], baselines, captions[-2:], post_ids[-2:], "one", 3)


class LovesTheUnknown(Oracle):
    """The oracle, but before all tags it names the unknown ones, whatever is asked."""

    def scores(self, visible: CaptionMatrix) -> NDArray[np.float32]:
        scores = super().scores(visible)
        scores[:, [11, 23]] = 9
        return scores


def test_unknown_tokens_are_neither_asked_for_nor_ranked(packed_and_vocab: tuple[PackedFile, Vocab]) -> None:
    """The last general and the last character tag are unknown tokens, which most posts of their topic have."""
    packed, vocab = packed_and_vocab
    tags = (*vocab.tags[:11], UNKNOWN_TAGS[Category.GENERAL], *vocab.tags[12:23], UNKNOWN_TAGS[Category.CHARACTER])
    vocab = replace(vocab, tags=tags)
    packed = replace(packed, vocab_hash=vocab.hash)
    assert np.flatnonzero(vocab.is_unknown).tolist() == [11, 23]
    oracle = LovesTheUnknown(packed)
    posts = [set(ROWS[row]) - {11, 23} for row in rows_of_split(packed, "test")]
    whole = [ROWS[row] for row in rows_of_split(packed, "test") if len(set(ROWS[row]) - {11, 23}) >= 2]
    oracle.captions = captions_of(whole, NUM_TAGS)
    evaluation = run_evaluation([oracle], packed, vocab, SETTINGS)
    for result in (*evaluation.tasks.values(), *evaluation.without_implied.values()):
        assert set(result.models["oracle"].values()) == {1.0}
    assert evaluation.tasks["half"].num_hidden == sum(len(tags) // 2 for tags in posts if len(tags) >= 2)
    baselines = baselines_from_packed(packed, vocab, SETTINGS)
    every, post_ids = captions_of(ROWS, NUM_TAGS), np.arange(len(ROWS))
    found = evaluate_captions([], baselines, every, post_ids, "one", 3, vocab.is_unknown)
    held_out = hold_out(every, post_ids, "one", 3, vocab.is_unknown)
    assert found["models"] == {one.name: evaluate_scorer(one, held_out) for one in baselines.scorers["one"]}
    assert found != evaluate_captions([], baselines, every, post_ids, "one", 3)


def caveats_of(rows: list[list[int]], num_tags: int, num_ratings: int) -> str:
    packed, vocab = packed_of(rows, num_tags, num_ratings=num_ratings)
    settings = EvaluationSettings(baselines=("popularity",), implied_min_count=5)
    return " ".join(run_evaluation([], packed, vocab, settings).caveats)


def test_caveats_follow_from_the_data() -> None:
    told = caveats_of(ROWS, NUM_TAGS, num_ratings=1)
    assert "Every post is rated 'g'" in told
    assert "of the hidden ones. The first tables therefore include easy finds." in told
    assert "selected for many tags" not in told
    plain = caveats_of(topic_rows(300, NUM_TAGS, seed=3), NUM_TAGS, num_ratings=4)
    assert plain == ""
    assert "95% have 20 or more, the median is 20" in caveats_of(
        [list(range(i % 9, i % 9 + 20)) for i in range(99)], 30, 1
    )

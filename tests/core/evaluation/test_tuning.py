"""Hyper-parameters are chosen on validation, weights are fitted on training posts, and neither sees more."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from booru_embed_core.evaluation import tuning
from booru_embed_core.evaluation.baselines import Ease, EmbeddingScorer, NaiveBayes, Popularity, fit_ease
from booru_embed_core.evaluation.item2vec import GENSIM_IS_MISSING, is_installed
from booru_embed_core.evaluation.metrics import SPLIT_HALF_RETRIEVAL, evaluate_scorer, split_half_recall
from booru_embed_core.evaluation.tasks import HIDES, HeldOut, Hide, hold_out
from booru_embed_core.evaluation.tuning import Baselines, baselines_from_packed, fit_baselines
from booru_embed_core.schema import SPLITS
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import captions_from_packed, count_cooccurrence
from tests.core.evaluation.evaluation_helpers import captions_of, rows_of, topic_rows
from tests.core.in_memory_helpers import packed_of

NUM_TAGS = 24
SETTINGS = EvaluationSettings(ease_lambdas=(0.1, 10.0, 1e4))
TRAIN = captions_of(topic_rows(300, NUM_TAGS, seed=1), NUM_TAGS)
VALIDATION: dict[Hide, HeldOut] = {
    hide: hold_out(captions_of(topic_rows(150, NUM_TAGS, seed=2), NUM_TAGS), np.arange(150), hide, 7) for hide in HIDES
}


@pytest.fixture(scope="module")
def fitted() -> Iterator[Baselines]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "LSA_DIMS", (4, 8))  # below the number of tags
        yield fit_baselines(TRAIN, VALIDATION, SETTINGS)


def test_every_baseline_is_there_for_every_task(fitted: Baselines) -> None:
    for hide in HIDES:
        assert [scorer.name for scorer in fitted.scorers[hide]] == list(SETTINGS.baselines)
        assert list(fitted.chosen[hide]) == list(SETTINGS.baselines)
    assert [scorer.name for scorer in fitted.embedders] == ["ppmi_svd", "lsa", "tag_table"]
    assert list(fitted.chosen[SPLIT_HALF_RETRIEVAL]) == ["ppmi_svd", "lsa", "tag_table"]
    assert fitted.num_fitted_tags == NUM_TAGS


@pytest.mark.parametrize("hide", HIDES)
def test_what_is_chosen_is_the_best_of_the_grid_on_validation(fitted: Baselines, hide: Hide) -> None:
    pairs = count_cooccurrence(TRAIN, NUM_TAGS)
    reached = {
        ridge: evaluate_scorer(fit_ease(pairs, ridge), VALIDATION[hide])["recall@10"] for ridge in SETTINGS.ease_lambdas
    }
    best = max(reached, key=lambda ridge: reached[ridge])
    assert len(set(reached.values())) > 1
    assert fitted.chosen[hide]["ease"] == {"lambda": best}
    chosen = next(scorer for scorer in fitted.scorers[hide] if scorer.name == "ease")
    assert isinstance(chosen, Ease)
    assert np.array_equal(chosen.weights, fit_ease(pairs, best).weights)


def test_the_embedding_with_the_best_split_half_recall_is_chosen(fitted: Baselines) -> None:
    half = VALIDATION["half"]
    others = [scorer for hide in HIDES for scorer in fitted.scorers[hide] if isinstance(scorer, EmbeddingScorer)]
    for chosen in fitted.embedders:
        found = split_half_recall(chosen.embed(half.visible), chosen.embed(half.hidden))
        assert found > 1 / half.num_posts or chosen.name == "tag_table"  # three topics, and one vector for each
        of_name = [other for other in others if other.name == chosen.name]
        assert len(of_name) == 2
        assert all(found >= split_half_recall(other.embed(half.visible), other.embed(half.hidden)) for other in of_name)


def test_item2vec_is_left_out_with_a_message_where_gensim_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "is_installed", lambda: False)
    lines: list[str] = []
    fitted = fit_baselines(TRAIN, VALIDATION, replace_settings(baselines=("item2vec", "popularity")), lines.append)
    assert [scorer.name for scorer in fitted.scorers["one"]] == ["popularity"]
    assert fitted.left_out == (GENSIM_IS_MISSING,)
    assert lines[0] == GENSIM_IS_MISSING


@pytest.mark.skipif(not is_installed(), reason="gensim is missing; install the extra item2vec")
def test_item2vec_stands_beside_the_others_where_it_can() -> None:
    settings = replace_settings(baselines=("item2vec",))
    fitted = fit_baselines(TRAIN, VALIDATION, settings)
    assert [scorer.name for scorer in fitted.scorers["half"]] == ["item2vec"]
    assert [scorer.name for scorer in fitted.embedders] == ["item2vec"]
    assert fitted.left_out == ()


def test_a_strong_baseline_beats_popularity_on_new_posts(fitted: Baselines) -> None:
    test = hold_out(captions_of(topic_rows(200, NUM_TAGS, seed=3), NUM_TAGS), np.arange(200), "half", 7)
    reached = {scorer.name: evaluate_scorer(scorer, test)["recall@10"] for scorer in fitted.scorers["half"]}
    assert all(reached[name] > reached["popularity"] + 0.05 for name in reached if name != "popularity")


def test_a_tie_keeps_the_first_value_of_the_grid() -> None:
    settings = replace_settings(baselines=("ease",), ease_lambdas=(10.0, 10.0001))
    fitted = fit_baselines(TRAIN, VALIDATION, settings)
    assert fitted.chosen["half"]["ease"] == {"lambda": 10.0}


def test_the_limit_on_tags_holds_and_is_told() -> None:
    assert fit_baselines(TRAIN, VALIDATION, replace_settings(max_fitted_tags=5)).num_fitted_tags == 5


def test_each_baseline_is_reported_once() -> None:
    lines: list[str] = []
    fit_baselines(TRAIN, VALIDATION, SETTINGS, lines.append)
    assert [line.split(";")[0] for line in lines] == [f"fitted {name}" for name in SETTINGS.baselines]


def test_nothing_to_fit_or_to_tune_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="training split has no tag"):
        fit_baselines(captions_of([[], []], NUM_TAGS), VALIDATION, SETTINGS)
    nothing = hold_out(captions_of([[1]], NUM_TAGS), np.arange(1), "one", 7)
    with pytest.raises(ValueError, match="no validation post has two tags"):
        fit_baselines(TRAIN, {"one": nothing}, SETTINGS)


def test_splits_of_a_packed_file_share_no_post_and_leave_none_out() -> None:
    packed, _ = packed_of(topic_rows(200, NUM_TAGS, seed=4), NUM_TAGS)
    rows = [rows_of_split(packed, split) for split in SPLITS]
    assert all(len(of_split) > 10 for of_split in rows)
    assert sorted(np.concatenate(rows).tolist()) == list(range(200))


def test_weights_depend_on_training_posts_alone_and_choices_on_validation_as_well() -> None:
    rows = topic_rows(400, NUM_TAGS, seed=5)
    packed, vocab = packed_of(rows, NUM_TAGS)
    train_rows = rows_of_split(packed, "train")
    other = list(topic_rows(400, NUM_TAGS, seed=6))
    for row in train_rows:
        other[row] = rows[row]
    other_packed, _ = packed_of(other, NUM_TAGS)
    # With one lambda, the same EASE is chosen whatever the validation posts are.
    settings = replace_settings(baselines=("popularity", "naive_bayes", "ease"), ease_lambdas=(10.0,))
    first, second = (baselines_from_packed(file, vocab, settings).scorers["half"] for file in (packed, other_packed))
    pairs = count_cooccurrence(captions_from_packed(packed, vocab, train_rows), NUM_TAGS)
    assert pairs.num_posts < 400
    for scorers in (first, second):
        popularity, bayes, ease = scorers
        assert isinstance(popularity, Popularity)
        assert isinstance(bayes, NaiveBayes)
        assert isinstance(ease, Ease)
        for of_scorer in (popularity.pairs, bayes.pairs, ease.pairs):
            assert of_scorer.num_posts == pairs.num_posts
            assert np.array_equal(of_scorer.together, pairs.together)
        assert np.array_equal(ease.weights, fit_ease(pairs, 10.0).weights)


def test_baselines_are_tuned_on_the_validation_posts_of_the_packed_file(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = topic_rows(300, NUM_TAGS, seed=7)
    packed, vocab = packed_of(rows, NUM_TAGS)
    validation_rows = rows_of_split(packed, "validation")
    seen: list[HeldOut] = []

    def spy(train: object, validation: dict[Hide, HeldOut], *rest: object) -> Baselines:
        seen.extend(validation.values())
        return Baselines({}, [], {}, 0)

    monkeypatch.setattr(tuning, "fit_baselines", spy)
    baselines_from_packed(packed, vocab, replace_settings(max_posts=10))
    expected = {tuple(rows[row]) for row in validation_rows}
    for held_out in seen:
        assert 5 <= held_out.num_posts <= 10
        for visible, hidden in zip(rows_of(held_out.visible), rows_of(held_out.hidden), strict=True):
            assert tuple(sorted(visible + hidden)) in expected


def replace_settings(**changes: object) -> EvaluationSettings:
    return SETTINGS.model_copy(update=changes)

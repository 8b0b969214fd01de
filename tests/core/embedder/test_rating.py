"""What giving a rating does: it moves completions where the rating decides tags, and not where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.rated_helpers import OF_RATING, SHARED, rated_embedder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> BooruEmbedder:
    return rated_embedder(tmp_path_factory.mktemp("rated") / "decided", ratings_decide=True)


@pytest.fixture(scope="module")
def by_chance(tmp_path_factory: pytest.TempPathFactory) -> BooruEmbedder:
    return rated_embedder(tmp_path_factory.mktemp("rated") / "by_chance", ratings_decide=False)


def share_of(embedder: BooruEmbedder, tags: tuple[str, ...], caption: str, rating: str | None) -> float:
    """What the completions of `caption` give to `tags`, of all probability."""
    found = {one.tag: one.probability for one in embedder.complete(caption, k=99, rating=rating)}
    return sum(found[tag] for tag in tags)


def moves(embedder: BooruEmbedder) -> list[float]:
    """How much more is given to g's tags with rating g than with e, for the empty caption and each shared tag."""
    shares = [[share_of(embedder, OF_RATING["g"], tag, rating) for rating in ("g", "e")] for tag in ("", *SHARED)]
    return [with_g - with_e for with_g, with_e in shares]


def test_a_rating_moves_completions_to_the_tags_that_it_decides(decided: BooruEmbedder) -> None:
    assert min(moves(decided)) > 0.2
    for rating, other in (("g", "e"), ("e", "g")):
        first = decided.complete("solo", k=4, rating=rating)
        assert {one.tag for one in first} & set(OF_RATING[rating])
        assert not {one.tag for one in first} & set(OF_RATING[other])


def test_without_a_rating_both_are_offered(decided: BooruEmbedder) -> None:
    for caption in ("", *SHARED):
        low, open_, high = (share_of(decided, OF_RATING["g"], caption, rating) for rating in ("e", None, "g"))
        assert low < open_ < high


def test_a_rating_that_decides_nothing_moves_nothing(decided: BooruEmbedder, by_chance: BooruEmbedder) -> None:
    assert max(map(abs, moves(by_chance))) < min(moves(decided)) / 3


def test_a_rating_that_no_training_post_had_is_refused(decided: BooruEmbedder) -> None:
    assert decided.config.trained_ratings == ("g", "e")
    for rating in ("s", "q"):
        message = f"rating '{rating}' was never given in training, which knew g, e; leave rating and score out"
        with pytest.raises(ValueError, match=message):
            decided.complete("solo", rating=rating)
        with pytest.raises(ValueError, match=message):
            decided.hidden_states("solo", rating=rating, score=5)


def test_a_model_that_was_shown_no_rating_takes_none(tmp_path: Path) -> None:
    embedder = rated_embedder(tmp_path / "never", ratings_decide=True, num_epochs=1, metadata_keep_share=0.0)
    assert embedder.config.trained_ratings == ()
    for given in ({"rating": "g"}, {"rating": "e", "score": 5}):
        with pytest.raises(ValueError, match="was never given in training, which knew none; leave rating"):
            embedder.complete("solo", **given)
        with pytest.raises(ValueError, match="was never given in training, which knew none"):
            embedder.embed("solo", **given)
    assert embedder.complete("solo")

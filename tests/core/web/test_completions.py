"""Completions while a person types: the model's ranking of what begins so, other names too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.web.completions import Completer, PrefixQuery
from tests.core.model_helpers import Trained

CAPTION = "1girl cat_ears"


@pytest.fixture(scope="module")
def completer(trained: Trained) -> Completer:
    """Of a vocabulary with other names: one begins as a tag of its own does."""
    loaded = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    aliases = {Category.GENERAL: {"nekomimi": "cat_ears", "tailed": "tail", "sola": "sword"}}
    return Completer(BooruEmbedder(loaded.network, loaded.config, replace(loaded.vocab, aliases=aliases)))


def test_without_a_prefix_they_are_the_embedders(completer: Completer) -> None:
    found = completer.complete(PrefixQuery(CAPTION, k=7))
    expected = completer.embedder.complete(CAPTION, k=7)
    assert [(one.tag, one.category, one.probability) for one in found.completions] == expected
    assert found.known == ((Category.GENERAL, "1girl"), (Category.GENERAL, "cat_ears"))
    assert found.unknown == ()


def test_every_prefix_gives_what_begins_so_in_the_order_of_the_whole_caption(completer: Completer) -> None:
    vocab = completer.embedder.vocab
    ranked = [one.tag for one in completer.embedder.complete(CAPTION, k=vocab.num_tags)]
    num_found = 0
    for letter in sorted({tag[0] for tag in vocab.tags}):
        found = [
            one.tag
            for one in completer.complete(PrefixQuery(CAPTION, k=200, prefix=letter)).completions
            if not one.alias
        ]
        assert found == [tag for tag in ranked if tag.startswith(letter)]
        num_found += len(found)
    assert num_found == len(ranked) > 20


def test_other_names_lead_to_their_tag_and_are_named_where_it_begins_otherwise(completer: Completer) -> None:
    (found,) = completer.complete(PrefixQuery("1girl", prefix="NEKO")).completions
    assert (found.tag, found.alias) == ("cat_ears", "nekomimi")
    by_name = {one.tag: one.alias for one in completer.complete(PrefixQuery("1girl", k=200, prefix="ta")).completions}
    assert by_name["tail"] is None
    by_either = {
        one.tag: one.alias for one in completer.complete(PrefixQuery("1girl", k=200, prefix="sol")).completions
    }
    assert by_either["sword"] == "sola"
    assert by_either["solo"] is None


def test_a_prefix_is_typed_as_people_type(completer: Completer) -> None:
    spaced = completer.complete(PrefixQuery("1girl", prefix=" Cat E")).completions
    assert [one.tag for one in spaced] == ["cat_ears"]
    assert completer.complete(PrefixQuery("1girl cat_ears", prefix="cat e")).completions == ()
    assert completer.complete(PrefixQuery("1girl", prefix="no such tag")).completions == ()


def test_categories_are_chosen_or_answered_apart(completer: Completer) -> None:
    wanted = [Category.CHARACTER, Category.META]
    found = completer.complete(PrefixQuery("1girl", k=200, categories=wanted)).completions
    assert {one.category for one in found} == set(wanted)
    apart = completer.complete(PrefixQuery("1girl", k=2, per_category=True)).completions
    order = [CATEGORIES.index(one.category) for one in apart]
    assert order == sorted(order)
    for category in CATEGORIES:
        expected = completer.embedder.complete("1girl", k=2, category=category)
        assert [one.tag for one in apart if one.category == category] == [one.tag for one in expected]
    assert completer.complete(PrefixQuery("1girl", categories=[])).completions == ()


def test_unknown_tags_are_told_and_change_nothing(completer: Completer) -> None:
    found, plain = completer.complete(PrefixQuery("1girl blorb")), completer.complete(PrefixQuery("1girl"))
    assert found.unknown == ("blorb",)
    assert found.completions == plain.completions
    assert completer.complete(PrefixQuery("blorb")).completions == completer.complete(PrefixQuery("")).completions


def test_no_completion_has_a_probability_of_nothing(completer: Completer) -> None:
    every = " ".join(completer.embedder.tokenizer.spellings)
    assert completer.complete(PrefixQuery(every)).completions == ()
    assert np.isclose(
        sum(one.probability for one in completer.complete(PrefixQuery("", k=1000)).completions), 1, atol=1e-5
    )


def test_k_below_one_is_refused(completer: Completer) -> None:
    with pytest.raises(ValueError, match="k 0 is below 1; ask for at least one tag"):
        completer.complete(PrefixQuery("1girl", k=0))


def test_many_are_answered_as_each_alone(completer: Completer) -> None:
    every = " ".join(completer.embedder.tokenizer.spellings)
    queries = [
        PrefixQuery(CAPTION, k=3),
        PrefixQuery("blorb", prefix="t"),
        PrefixQuery(every),
        PrefixQuery("", rating="g", score=5, per_category=True),
        PrefixQuery("1girl solo", categories=[Category.ARTIST]),
    ]
    together = completer.answer([completer.read(query) for query in queries])
    for found, query in zip(together, queries, strict=True):
        alone = completer.complete(query)
        assert replace(found, completions=()) == replace(alone, completions=())
        assert [one[:2] for one in found.completions] == [one[:2] for one in alone.completions]
        np.testing.assert_allclose(
            [one.probability for one in found.completions], [one.probability for one in alone.completions], rtol=1e-5
        )

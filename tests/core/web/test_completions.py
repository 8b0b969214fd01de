"""Completions while a person types: the model's ranking of what begins so, other names too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
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
            if one.match == "prefix"
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


SITE = {
    "general": ("1girl", "solo", "hat", "witch_hat", "hat_ribbon", "cat", "cat_ears", "cat_tail", "socks", "long_hair"),
    "artist": ("hakuartist",),
    "character": ("hatsune_miku", "hakurei_reimu", "kagamine_rin"),
}


class Even:
    """A network in which a tag's score falls with its index."""

    def tag_scores(self, sets: TagSets) -> np.ndarray:
        return np.tile(-0.1 * np.arange(sum(map(len, SITE.values())), dtype=np.float32), (len(sets.lengths), 1))


@pytest.fixture(scope="module")
def typing(trained: Trained) -> Completer:
    """Completions of a vocabulary as a site has it: implications, aliases, names in several categories."""
    tags = tuple(tag for names in SITE.values() for tag in names)
    categories = np.repeat(
        [CATEGORIES.index(Category(name)) for name in SITE], [len(names) for names in SITE.values()]
    ).astype(np.uint8)
    vocab = Vocab(
        tags,
        categories,
        np.arange(len(tags), 0, -1, dtype=np.int64),
        aliases={Category.GENERAL: {"nekomimi": "cat_ears"}, Category.CHARACTER: {"mikudayo": "hatsune_miku"}},
        implications=Implications.of_pairs(
            np.array([tags.index(one) for one in ("witch_hat", "cat_ears")]),
            np.array([tags.index(one) for one in ("hat", "cat")]),
            len(tags),
        ),
    )
    loaded = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    return Completer(BooruEmbedder(Even(), loaded.config, vocab))  # type: ignore[arg-type]


def found_by(completer: Completer, prefix: str, caption: str = "", **values: object) -> list[tuple[str, str | None]]:
    query = PrefixQuery(caption, prefix=prefix, **values)  # type: ignore[arg-type]
    return [(one.tag, one.match) for one in completer.complete(query).completions]


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("(cat", ["cat", "cat_ears", "cat_tail"]),
        ("[[cat_e", ["cat_ears"]),
        ("{wit", ["witch_hat"]),
        ("1.3::Cat T", ["cat_tail"]),
        ("char:haku", ["hakurei_reimu"]),
        ("art:haku", ["hakuartist"]),
        ("haku", ["hakuartist", "hakurei_reimu"]),
        ("1girl, solo, wit", ["witch_hat"]),
    ],
)
def test_a_prefix_is_read_as_captions_are(typing: Completer, prefix: str, expected: list[str]) -> None:
    assert found_by(typing, prefix) == [(tag, "prefix") for tag in expected]


def test_what_begins_so_comes_before_words_and_words_before_typos(typing: Completer) -> None:
    assert found_by(typing, "hat") == [("hat", "prefix"), ("hat_ribbon", "prefix"), ("hatsune_miku", "prefix"),
                                       ("witch_hat", "word")]  # fmt: skip
    assert found_by(typing, "hat", k=2) == [("hat", "prefix"), ("hat_ribbon", "prefix")]
    assert found_by(typing, "miku") == [("hatsune_miku", "alias")]
    assert found_by(typing, "reimu") == [("hakurei_reimu", "word")]
    assert found_by(typing, "wich_hat") == [("witch_hat", "typo")]
    assert found_by(typing, "char:hatsune_mikku") == [("hatsune_miku", "typo")]
    assert found_by(typing, "art:hatsune_mikku") == []
    assert found_by(typing, "nekomimy") == [("cat_ears", "typo")]


def test_a_minus_marks_what_is_to_be_excluded(typing: Completer) -> None:
    found = typing.complete(PrefixQuery("1girl", prefix="-so")).completions
    assert [(one.tag, one.is_excluded) for one in found] == [("solo", True), ("socks", True)]
    assert not any(one.is_excluded for one in typing.complete(PrefixQuery("1girl", prefix="so")).completions)


def test_implied_tags_are_named_and_left_out(typing: Completer) -> None:
    caption = "witch_hat cat_ears"
    dropped, kept = (typing.complete(PrefixQuery(caption, k=99, implied=how)) for how in ("drop", "keep"))
    assert dropped.implied == kept.implied == ((Category.GENERAL, "hat"), (Category.GENERAL, "cat"))
    names = {one.tag for one in dropped.completions}
    assert {one.tag for one in kept.completions} - names == {"hat", "cat"}
    for found in (dropped, kept):
        assert sum(one.probability for one in found.completions) == pytest.approx(1, abs=1e-5)
    assert found_by(typing, "hat", caption) == [("hat_ribbon", "prefix"), ("hatsune_miku", "prefix")]
    with pytest.raises(ValueError, match="implied 'some' is not one of drop, keep"):
        typing.complete(PrefixQuery("", implied="some"))  # type: ignore[arg-type]


def test_bans_hold_and_those_that_ban_nothing_are_noted(typing: Completer) -> None:
    found = typing.complete(PrefixQuery("", k=99, banned=("*_hair", "nekomimi", "hat", "char:*", "blorb", "*_wings")))
    names = [one.tag for one in found.completions]
    assert names == ["1girl", "solo", "hat_ribbon", "cat", "cat_tail", "socks", "hakuartist"]  # no witch_hat either
    assert sum(one.probability for one in found.completions) == pytest.approx(1, abs=1e-5)
    assert found.notes == (
        "banned: blorb: no tag matches; nothing is banned by it",
        "banned: *_wings: no tag matches; nothing is banned by it",
    )
    assert found_by(typing, "ca", banned=("cat",)) == [("cat_tail", "prefix")]

"""Whole captions: without contradictions, bans and implied tags; the same by seed; as prompts."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.fill import FillQuery, fill_all, read_fill
from booru_embed_core.embedder.results import MAX_FILL_TAGS, Filled, UnknownTagsError, UnknownTagsWarning
from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.exclusions import ExclusiveTags
from booru_embed_core.tags.prompts import DIALECTS
from tests.core.completion_helpers import IMPLIED, TAGS, TAGS_OF, TableNetwork, site_embedder

CAPTIONS = ("", "solo", "1girl solo witch_hat", "2girls", "very_long_hair, (cat ears:1.3)", "heterochromia")


@pytest.fixture(scope="module")
def site(search_embedder: BooruEmbedder) -> BooruEmbedder:
    return site_embedder(search_embedder.config)


def names(filled: Filled, origin: str | None = None) -> list[str]:
    return [one.tag for one in filled.tags if origin in (None, one.origin)]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_no_contradiction_no_ban_and_nothing_implied(site: BooruEmbedder, caption: str) -> None:
    exclusive, given = ExclusiveTags(site.vocab), site.normalize(caption).tags
    for seed in range(25):
        found = site.fill(caption, 8, temperature=2, seed=seed, banned=["smile", "artist:*"])
        tags = names(found)
        assert len(set(tags)) == len(tags) == len(given) + 8
        assert names(found, "caption") == [tag for _, tag in given]
        assert exclusive.contradictions(np.array([TAGS.index(tag) for tag in tags])).tolist() == []
        assert not {"smile", ":d", "hakuartist", "ebifurya"} & set(tags)
        implied = {effect for tag in tags for effect in IMPLIED.get(tag, ())}
        assert not implied & set(names(found, "drawn"))
        assert site.normalize(found.caption).tags == tuple((one.category, one.tag) for one in found.tags)


def test_plain_draws_would_contradict(site: BooruEmbedder) -> None:
    exclusive = ExclusiveTags(site.vocab)
    random = np.random.default_rng(7)
    plain = [random.choice(len(TAGS), 10, replace=False) for _ in range(50)]
    assert sum(len(exclusive.contradictions(tags)) > 0 for tags in plain) > 15


def test_a_seed_gives_the_same_tags_alone_and_among_others(site: BooruEmbedder) -> None:
    queries = [FillQuery(caption=caption, n=6, seed=seed) for seed in (0, 1, 2**53 - 1) for caption in CAPTIONS]
    together = fill_all(site, [read_fill(site, query) for query in queries])
    for query, found in zip(queries, together, strict=True):
        assert names(found) == names(site.fill(query.caption, 6, seed=query.seed))
    assert len({tuple(names(site.fill("", 8, 1.0, seed))) for seed in range(20)}) == 20
    first, second = (fill_all(site, [read_fill(site, FillQuery(caption="", row=row))])[0] for row in (0, 1))
    assert names(first) != names(second)


def test_many_captions_draw_in_one_pass(search_embedder: BooruEmbedder) -> None:
    site = site_embedder(search_embedder.config)
    fill_all(site, [read_fill(site, FillQuery(caption="", n=n, banned=["*_*"])) for n in (1, 3)])
    assert isinstance(site.network, TableNetwork)
    assert site.network.passes[:3] == [2, 1, 1]


def test_temperature_0_takes_the_most_probable_tag(site: BooruEmbedder) -> None:
    found = site.fill("solo", 5, temperature=0, seed=3)
    assert found == site.fill("solo", 5, temperature=0, seed=4)
    tags = ["solo"]
    for one in found.tags[1:]:
        best = site.complete(" ".join(tags), k=99)
        excluded = {TAGS[tag] for tag in site.next_tags.contradicting(np.array([TAGS.index(tag) for tag in tags]))}
        assert one.tag == next(other.tag for other in best if other.tag not in excluded)
        tags.append(one.tag)


def test_draws_follow_the_temperature(search_embedder: BooruEmbedder) -> None:
    site = site_embedder(search_embedder.config, {"sword": 3.0, "hatsune_miku": 2.0})
    plain = dict(zip(TAGS, site.probabilities("").tolist(), strict=True))
    for temperature in (0.5, 1.0, 2.0):
        drawn = Counter(site.fill("", 1, temperature, seed).tags[0].tag for seed in range(300))
        wanted = {tag: p ** (1 / temperature) for tag, p in plain.items()}
        total = sum(wanted.values())
        for tag in ("sword", "hatsune_miku"):
            assert drawn[tag] / 300 == pytest.approx(wanted[tag] / total, abs=0.1)
    assert site.fill("", 1, 0).tags[0].probability == pytest.approx(plain["sword"], rel=1e-5)


def test_a_tag_that_a_later_one_implies_is_left_out_again(search_embedder: BooruEmbedder) -> None:
    site = site_embedder(search_embedder.config, {"hat": 60.0, "witch_hat": 50.0, "sword": 40.0})
    assert names(site.fill("", 1, 0)) == ["hat"]
    assert names(site.fill("", 2, 0)) == ["witch_hat", "sword"]
    assert names(site.fill("hat", 1, 0)) == ["hat", "witch_hat"]  # the given tags stay


def test_kept_implied_tags_follow_their_cause_at_no_cost(search_embedder: BooruEmbedder) -> None:
    site = site_embedder(search_embedder.config, {":d": 60.0, "cat_ears": 50.0})
    found = site.fill("witch_hat", 2, 0, implied="keep")
    assert [(one.tag, one.origin) for one in found.tags] == [
        ("witch_hat", "caption"),
        ("hat", "implied"),
        (":d", "drawn"),
        ("smile", "implied"),
        ("open_mouth", "implied"),
        ("cat_ears", "drawn"),
        ("cat", "implied"),
    ]
    assert names(site.fill("witch_hat", 2, 0)) == ["witch_hat", ":d", "cat_ears"]
    assert "hat" not in names(site.fill("witch_hat", 1, 0, implied="keep", banned=["hat"]))


def test_categories_and_limits_hold(site: BooruEmbedder) -> None:
    for seed in range(10):
        only = site.fill("solo", 4, 2, seed, categories=["artist", "meta"])
        assert set(names(only, "drawn")) == {*TAGS_OF[CATEGORIES[1]], *TAGS_OF[CATEGORIES[4]]}
        limits = {"artist": 0, "meta": 1, "general": 3}
        found = Counter(one.category for one in site.fill("", 20, 3, seed, limits=limits).tags)
        assert (found["artist"], found["meta"], found["general"]) == (0, 1, 3)  # type: ignore[index]


def test_no_tag_to_add_writes_the_prompt(site: BooruEmbedder) -> None:
    found = site.fill("solo, (longhair:0.8), 1.2::tracer_(overwatch)::", 0)
    assert found.prompt("novelai") == "solo, 0.8::long hair::, 1.2::tracer (overwatch)::"
    assert found.prompt() == r"solo, (long hair:0.8), (tracer \(overwatch\):1.2)"


def test_it_ends_where_nothing_may_follow(site: BooruEmbedder) -> None:
    found = site.fill("", MAX_FILL_TAGS)
    assert 10 < len(found.tags) < len(TAGS)
    assert site.fill("solo", 5, banned=["*"]).caption == "solo"


def test_what_is_odd_in_the_caption_stays_and_is_noted(site: BooruEmbedder) -> None:
    found = site.fill("solo blonde_hair black_hair", 2, banned=["solo"])
    assert names(found)[:3] == ["solo", "blonde_hair", "black_hair"]
    assert found.notes == (
        "solo: banned, but the caption has it; it stays",
        "blonde_hair, black_hair: they contradict each other; all stay",
    )


def test_unknown_tags_stay_in_the_prompt(site: BooruEmbedder) -> None:
    with pytest.warns(UnknownTagsWarning, match="masterpiece, best_quality"):
        found = site.fill("masterpiece, best quality, 1girl, (cat ears:1.3)", 1, 0, banned=["*_*"])
    assert found.unknown == ("masterpiece", "best_quality")
    assert found.prompt().startswith("1girl, (cat ears:1.3), masterpiece, best quality, ")
    assert site.normalize(found.prompt("novelai")).tags == site.normalize(found.caption).tags
    with pytest.raises(UnknownTagsError, match="masterpiece"):
        site.fill("masterpiece")
    with pytest.warns(UnknownTagsWarning, match="banned: blorb"):
        site.fill("solo", 1, banned=["blorb"])


def test_weights_that_a_dialect_cannot_say_are_noted(site: BooruEmbedder) -> None:
    found = site.fill("(1girl:1.3), hat", n=0)
    assert found.prompt_notes("danbooru") == (
        *found.notes,
        "a danbooru prompt has no weights; left out: 1girl (1.3)",
    )
    assert found.prompt_notes("novelai") == found.notes
    assert site.fill("1girl, hat", n=0).prompt_notes("danbooru") == ()


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_prompt_reads_as_the_caption(site: BooruEmbedder, dialect: str) -> None:
    for seed in range(10):
        found = site.fill("1girl, (tracer_(overwatch):1.2)", 10, 2, seed)
        read = site.normalize(found.prompt(dialect))
        assert read.tags == tuple((one.category, one.tag) for one in found.tags)
        if dialect != "danbooru":
            assert read.weights == pytest.approx([one.weight for one in found.tags])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n": -1}, "n -1 is not between 0 and 200"),
        ({"n": 201}, "n 201 is not between 0 and 200"),
        ({"temperature": -0.1}, "temperature -0.1 is not between 0 and 10"),
        ({"temperature": float("nan")}, "temperature nan is not between 0 and 10"),
        ({"seed": -1}, "seed -1 is not between 0 and"),
        ({"categories": ["species"]}, "category 'species' is not one of general,"),
        ({"limits": {"species": 1}}, "category 'species' is not one of general,"),
        ({"limits": {"artist": -1}}, "limits: artist -1 is below 0"),
        ({"implied": "some"}, "implied 'some' is not one of drop, keep"),
        ({"rating": "x"}, "rating 'x' is not one of"),
    ],
)
def test_values_out_of_range(site: BooruEmbedder, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        site.fill("solo", **values)  # type: ignore[arg-type]

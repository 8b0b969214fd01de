"""Completions without what follows, what is banned, and what contradicts."""

from __future__ import annotations

import numpy as np
import pytest

from booru_embed_core.embedder.completion import renormalize
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsWarning
from tests.core.completion_helpers import IMPLIED, TAGS, site_embedder

LIKELY = {"hat": 9.0, "cat": 8.0, "long_hair": 7.0, "smile": 1.0}


@pytest.fixture(scope="module")
def site(search_embedder: BooruEmbedder) -> BooruEmbedder:
    return site_embedder(search_embedder.config, LIKELY)


def names(embedder: BooruEmbedder, caption: str, **values: object) -> list[str]:
    return [one.tag for one in embedder.complete(caption, k=99, **values)]  # type: ignore[arg-type]


@pytest.mark.parametrize("cause", list(IMPLIED))
def test_what_a_caption_implies_is_left_out_unless_it_is_kept(site: BooruEmbedder, cause: str) -> None:
    dropped, kept = names(site, cause), names(site, cause, implied="keep")
    assert set(kept) == set(TAGS) - {cause}
    assert set(kept) - set(dropped) == set(IMPLIED[cause])
    assert [tag for tag in kept if tag in dropped] == dropped  # the order stays


def test_probabilities_are_shares_of_what_may_follow(site: BooruEmbedder) -> None:
    caption = "witch_hat cat_ears very_long_hair"
    kept = {one.tag: one.probability for one in site.complete(caption, k=99, implied="keep")}
    assert kept["hat"] + kept["cat"] + kept["long_hair"] > 0.99  # the swamp
    found = site.complete(caption, k=99, banned=["*_eyes"])
    assert sum(one.probability for one in found) == pytest.approx(1, abs=1e-5)
    rest = sum(kept[one.tag] for one in found)
    for one in found:
        assert one.probability == pytest.approx(kept[one.tag] / rest, rel=1e-4)


def test_without_implications_and_bans_nothing_changes(search_embedder: BooruEmbedder) -> None:
    assert search_embedder.vocab.implications.num_pairs == 0
    every = search_embedder.vocab.num_tags
    found = search_embedder.complete("1girl cat_ears", k=every)
    assert found == search_embedder.complete("1girl cat_ears", k=every, implied="keep")
    assert {one.tag: one.probability for one in found} == {
        tag: p
        for tag, p in zip(
            search_embedder.vocab.tags, search_embedder.probabilities("1girl cat_ears").tolist(), strict=True
        )
        if p
    }


@pytest.mark.parametrize(
    ("banned", "gone"),
    [
        (["*_hair"], {"blonde_hair", "black_hair", "blue_hair", "multicolored_hair", "long_hair", "very_long_hair",
                      "short_hair"}),
        (["longhair"], {"long_hair", "very_long_hair"}),  # what implies it is banned too
        (["(Cat Ears:1.3)"], {"cat_ears"}),
        (["artist:*", "meta:*"], {"hakuartist", "ebifurya", "highres", "commentary"}),
        (["vocaloid"], {"vocaloid", "hatsune_miku"}),
        (["tracer (overwatch)"], {"tracer_(overwatch)"}),
        ([], set()),
    ],
)  # fmt: skip
def test_bans_hold(site: BooruEmbedder, banned: list[str], gone: set[str]) -> None:
    assert set(TAGS) - set(names(site, "", banned=banned)) == gone


@pytest.mark.parametrize("caption", ["solo, -1::hat::", "solo, (hat:0)", "solo, -hat"])
def test_what_the_caption_excludes_is_not_offered(site: BooruEmbedder, caption: str) -> None:
    assert site.normalize(caption).excluded == (("general", "hat"),)
    assert set(names(site, "solo")) - set(names(site, caption)) == {"hat", "witch_hat"}
    for seed in range(10):
        assert not {"hat", "witch_hat"} & {one.tag for one in site.fill(caption, 10, 2, seed).tags}


def test_a_ban_of_nothing_is_warned_of(site: BooruEmbedder) -> None:
    with pytest.warns(UnknownTagsWarning) as caught:
        assert names(site, "solo", banned=["blorb", "*_wings", "hat"]) == names(site, "solo", banned=["hat"])
    assert [str(one.message).partition(".")[0] for one in caught] == [
        "banned: blorb: no tag matches; nothing is banned by it",
        "banned: *_wings: no tag matches; nothing is banned by it",
    ]
    assert {one.filename for one in caught} == {__file__}


def test_no_such_implied(site: BooruEmbedder) -> None:
    with pytest.raises(ValueError, match="implied 'yes' is not one of drop, keep"):
        site.complete("", implied="yes")  # type: ignore[arg-type]


def test_contradictions_follow_implications(site: BooruEmbedder) -> None:
    def contradicting(caption: str) -> set[str]:
        _, sets = site.read_caption(caption)
        return {TAGS[tag] for tag in site.next_tags.contradicting(sets.tags).tolist()}

    assert {"standing"} == contradicting("wariza")
    assert {"sitting", "wariza"} == contradicting("standing")
    assert {":d", "open_mouth"} == contradicting("closed_mouth")
    assert {"2girls", "multiple_girls"} <= contradicting("solo")


def test_nothing_is_left_of_nothing() -> None:
    probabilities = np.array([0.25, 0.75], dtype=np.float32)
    renormalize(probabilities, np.array([0, 1]))
    assert probabilities.tolist() == [0, 0]

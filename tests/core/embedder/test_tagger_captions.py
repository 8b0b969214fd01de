"""Scores become weights by thresholds and a power; ratings and unknown tags are counted, and all adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.embedder.caption_files import CaptionFileError, InputFormat
from booru_embed_core.embedder.embed_file import embed_file
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.job_identity import JobSettings
from booru_embed_core.embedder.tagger_captions import TaggerCaptions, TaggerCounts, TaggerFile, TaggerRules
from booru_embed_core.embedder.tagger_files import TaggedImage
from booru_embed_core.embedder.tagger_values import KINDS, TagScore
from tests.core.model_helpers import CHARACTERS, TOPICS


def captions(embedder: BooruEmbedder, scores: list[TagScore], **rules: Any) -> tuple[dict[str, float], TaggerCounts]:
    counts = TaggerCounts()
    made = TaggerCaptions(embedder.tokenizer, TaggerRules(**rules), counts)
    return made.caption(TaggedImage("f: image x", "x", scores)), counts


def test_scores_above_the_threshold_of_their_category_are_weights(search_embedder: BooruEmbedder) -> None:
    scores = [TagScore(*one) for one in (("1girl", 0.9), ("cat ears", 0.5), ("tail", 0.34), ("hatsune_miku", 0.8))]
    scores += [TagScore("new_character", 0.84, "character"), TagScore("new_tag", 0.35), TagScore("sword", 0.0)]
    caption, counts = captions(search_embedder, scores, general_threshold=0.35, character_threshold=0.85)
    assert caption == pytest.approx({"1girl": 0.9**6, "cat ears": 0.5**6, "new_tag": 0.35**6})
    assert counts.num_below == {"general": 2, "character": 2}
    assert (counts.num_scores, counts.num_kept, counts.num_ratings) == (7, 3, 0)
    assert counts.unknown == {"new_tag": 1}
    caption, _ = captions(search_embedder, scores, general_threshold=0, character_threshold=0, power=0)
    assert set(caption.values()) == {1.0}
    assert "sword" not in caption


def test_the_category_is_the_files_then_that_of_selected_tags_then_the_vocabularys(
    search_embedder: BooruEmbedder,
) -> None:
    strict = {"general_threshold": 0.1, "character_threshold": 0.9}
    kinds = {"hatsune_miku": "general", "river_spirit": "rating"}
    for score, rules, kept in (
        (TagScore("hatsune miku", 0.5), {}, 0),
        (TagScore("hatsune miku", 0.5), {"kinds": kinds}, 1),
        (TagScore("hatsune miku", 0.5, "character"), {"kinds": kinds}, 0),
    ):
        assert captions(search_embedder, [score], **strict, **rules)[1].num_kept == kept
    with pytest.raises(CaptionFileError, match="f: image x: the rating is 'river_spirit'; ratings are general, sens"):
        captions(search_embedder, [TagScore("river_spirit", 0.5)], kinds=kinds)


def test_ratings_are_no_tags_and_the_most_probable_one_counts(search_embedder: BooruEmbedder) -> None:
    flat = [TagScore("general", 0.2), TagScore("explicit", 0.7), TagScore("rating:s", 0.6), TagScore("solo", 1.0)]
    caption, counts = captions(search_embedder, flat)
    assert caption == {"solo": 1.0}
    assert (counts.num_ratings, counts.ratings) == (3, {"e": 1})
    _, counts = captions(search_embedder, [TagScore("safe", 0.5, "rating"), TagScore("q", 0.4, "rating")])
    assert counts.ratings == {"g": 1}


def test_a_text_without_commas_is_its_tags(search_embedder: BooruEmbedder) -> None:
    caption, counts = captions(search_embedder, [TagScore("1girl cat_ears blorb", 1.0), TagScore("paw pose", 1.0)])
    assert caption == dict.fromkeys(("1girl", "cat_ears", "blorb", "paw pose"), 1.0)
    assert (counts.num_scores, counts.num_kept, counts.unknown) == (4, 4, {"blorb": 1})


NAMES = [*TOPICS[0], *CHARACTERS, "general", "explicit", "blorb", "", "1girl solo", ":3", "(", "rating:q"]


@given(
    scores=st.lists(
        st.builds(
            TagScore, st.sampled_from(NAMES), st.floats(0, 1), st.sampled_from([None, "general", "character", "meta"])
        ),
        max_size=12,
    ),
    thresholds=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_every_score_is_kept_or_below_or_a_rating(
    search_embedder: BooruEmbedder, scores: list[TagScore], thresholds: tuple[float, float]
) -> None:
    caption, counts = captions(
        search_embedder, scores, general_threshold=thresholds[0], character_threshold=thresholds[1]
    )
    assert counts.num_scores == counts.num_kept + counts.num_below.total() + counts.num_ratings
    assert len(caption) <= counts.num_kept
    assert counts.unknown.total() <= len(caption)
    assert all(0 <= weight <= 1 for weight in caption.values())
    assert set(KINDS.values()) == {"general", "artist", "copyright", "character", "meta", "rating"}


def test_the_vectors_are_those_of_the_weighted_captions(search_embedder: BooruEmbedder, tmp_path: Path) -> None:
    file, output = tmp_path / "tags.json", tmp_path / "vectors.npy"
    file.write_text(json.dumps({"a.png": {"1girl": 0.9, "cat_ears": 0.6, "general": 1}, "b.png": "sword, armor"}))
    source = TaggerFile(file, InputFormat.JSONL, tokenizer=search_embedder.tokenizer)
    assert [(row.id, row.caption) for row in source] == [
        ("a.png", {"1girl": 0.9**6, "cat_ears": 0.6**6}),
        ("b.png", {"sword": 1.0, "armor": 1.0}),
    ]
    source.counts = TaggerCounts()
    counts = embed_file(search_embedder, source, output, JobSettings())
    assert (counts.num_known, counts.num_rows) == (2, 2)
    found = np.load(output)
    wanted = search_embedder.embed([{"1girl": 0.9**6, "cat_ears": 0.6**6}, "sword, armor"])
    np.testing.assert_allclose(found, wanted, atol=1e-6)

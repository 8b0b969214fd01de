"""Posts found by what they show: filters hold, and what is found is what comparing all of them finds."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsError, UnknownTagsWarning
from booru_embed_core.schema import RATINGS
from booru_embed_core.search.folder import UnverifiedWarning, read_metadata, read_vectors
from booru_embed_core.search.parser import parse_query
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.search.query import Query
from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tokens.packed_file import PackedFile
from tests.core.model_helpers import TOPICS, Trained

TAGS = st.sets(st.sampled_from([*TOPICS[0][:4], *TOPICS[1][:3], "solo", "hatsune_miku", "highres"]), max_size=2)
CAPTIONS = ["", "1girl cat_ears", "sword, armor", "scenery - tree + sword", "id:1000", "hatsune_miku solo"]
PLUS = {
    "1girl cat_ears": {"1girl", "cat_ears"},
    "sword, armor": {"sword", "armor"},
    "hatsune_miku solo": {"hatsune_miku", "solo"},
}


@dataclass(frozen=True)
class Known:
    """The posts as the packed file has them, and a search that reads every list."""

    packed: PackedFile
    tags: list[set[str]]
    vectors: NDArray[np.float32]
    search: PostSearch
    query_vectors: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def known(trained: Trained, search_folder: Path, search_embedder: BooruEmbedder) -> Known:
    packed, vocab = trained.corpus.packed, trained.corpus.vocab
    ids = [packed.record_token_ids(row, vocab) - vocab.num_special for row in range(packed.num_posts)]
    search = PostSearch.open(search_folder)
    search.index.nprobe = search.index.num_lists
    vectors = read_vectors(search_folder).astype(np.float32)
    tags = [{vocab.tags[i] for i in record} for record in ids]
    queries = {caption: search.query_vector(search_embedder, caption) for caption in CAPTIONS}
    return Known(packed, tags, vectors, search, queries)


@settings(max_examples=40, deadline=None)
@given(
    caption=st.sampled_from(CAPTIONS),
    k=st.integers(1, 30),
    ratings=st.none() | st.sets(st.sampled_from(RATINGS)),
    typed=st.sampled_from([None, "g", "s"]),
    min_score=st.none() | st.integers(-1, 60),
    required=TAGS,
    excluded=TAGS,
    by=st.sampled_from(["tags", "embedding"]),
)
def test_filters_hold_and_the_best_of_what_passes_are_found(
    known: Known,
    search_embedder: BooruEmbedder,
    caption: str,
    k: int,
    ratings: set[str] | None,
    typed: str | None,
    min_score: int | None,
    required: set[str],
    excluded: set[str],
    by: str,
) -> None:
    packed = known.packed
    query = caption if typed is None else f"{caption} rating:{typed}"
    found = known.search.search(search_embedder, query, k, ratings, min_score, sorted(required), sorted(excluded), by)
    passing = [
        row
        for row, tags in enumerate(known.tags)
        if (ratings is None or RATINGS[packed.rating[row]] in ratings)
        and typed in (None, RATINGS[packed.rating[row]])
        and (min_score is None or packed.score[row] >= min_score)
        and required <= tags
        and not excluded & tags
        and caption != f"id:{packed.post_id[row]}"
        and not (by == "tags" and "- tree" in caption and "tree" in tags)
    ]
    similarities = known.vectors[passing] @ known.query_vectors[caption]
    base, plus = ({"scenery"}, {"scenery", "sword"}) if "- tree" in caption else (set(), PLUS.get(caption, set()))
    held = [(len(plus & known.tags[row]), len(base & known.tags[row])) for row in passing]
    best = sorted(zip(held if by == "tags" else [(0, 0)] * len(held), similarities, strict=True), reverse=True)[:k]
    assert [post.similarity for post in found] == pytest.approx([similarity for _, similarity in best], abs=1e-3)
    if by == "tags":
        assert [len(post.matched) for post in found] == [num for (num, _), _ in best]
    rows = np.searchsorted(packed.post_id, [post.post_id for post in found]).tolist()
    assert set(rows) <= set(passing)
    for row, post in zip(rows, found, strict=True):
        assert {tag.tag for tag in post.tags} == known.tags[row]
        assert set(post.matched) == plus & known.tags[row]
        assert (post.rating, post.score) == (RATINGS[packed.rating[row]], packed.score[row])


def test_a_caption_finds_posts_that_show_it(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    for topic in TOPICS:
        found = post_search.search(search_embedder, " ".join(topic[1:4]), 10)
        shares = [len({tag.tag for tag in post.tags} & set(topic)) / len(topic) for post in found]
        assert np.mean(shares) > 0.5  # of all posts .25


def test_terms_are_added_and_subtracted(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    vectors = search_embedder.embed(["cat_ears", "tail", "sword"])
    expected = vectors[0] - vectors[1] + vectors[2]
    found = post_search.query_vector(search_embedder, "cat_ears - tail + sword")
    assert found == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    with pytest.raises(ValueError, match="cancels out"):
        post_search.query_vector(search_embedder, "sword - sword")


def test_near_tags_are_seen_from_the_mean(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    near = post_search.near_tags(search_embedder, "cat_ears - tail + sword", 99)
    table, vocab = search_embedder.tag_embeddings().astype(np.float64), search_embedder.vocab
    mean = (table * vocab.counts[:, None]).sum(0) / vocab.counts.sum()
    one, other, third = (table[vocab.tags.index(tag)] - mean for tag in ("cat_ears", "tail", "sword"))
    asked, centred = one - other + third, table - mean
    cosines = centred @ asked / np.linalg.norm(centred, axis=1) / np.linalg.norm(asked)
    assert {"cat_ears", "tail", "sword"}.isdisjoint(found.tag for found in near)
    assert len(near) == vocab.num_tags - 3
    for found in near:
        assert found.similarity == pytest.approx(cosines[vocab.tags.index(found.tag)], abs=1e-5)
    assert [found.similarity for found in near] == sorted((found.similarity for found in near), reverse=True)
    alone = post_search.near_tags(search_embedder, "sword", 5)
    expected = search_embedder.similar_tags("sword", 5)
    assert [found.tag for found in alone] == [found.tag for found in expected]
    assert [found.similarity for found in alone] == pytest.approx([found.similarity for found in expected], abs=1e-5)
    with pytest.raises(ValueError, match="k 0 is below 1; ask for at least one tag"):
        post_search.near_tags(search_embedder, "sword", 0)
    for query in ("sword rating:s", "sword -tail", "order:id"):
        with pytest.raises(ValueError, match="filters and orders choose posts, not tags"):
            post_search.near_tags(search_embedder, query)


def test_a_sign_excludes_by_tags_and_only_moves_by_embedding(known: Known, search_embedder: BooruEmbedder) -> None:
    for text, plus, minus in (("1girl - cat_ears", "1girl", "cat_ears"), ("sword - armor + cape", "sword", "armor")):
        found = known.search.search(search_embedder, text, 300)
        assert found
        assert not any(minus in {tag.tag for tag in post.tags} for post in found)
        has_plus = [plus in post.matched for post in found]
        num_plus = sum(plus in tags and minus not in tags for tags in known.tags)
        assert 0 < sum(has_plus) == num_plus
        by_embedding = known.search.search(search_embedder, text, 300, by="embedding")
        assert len(by_embedding) == 300
    # Of posts with one of the two tags, those come first that have the one before the sign.
    held = [set(post.matched) for post in known.search.search(search_embedder, "horse - solo + cloud", 300)]
    ranks = [(len(tags), "horse" in tags) for tags in held]
    assert ranks == sorted(ranks, reverse=True)
    assert {(1, True), (1, False)} <= set(ranks)


def test_posts_with_all_tags_come_first_however_few(known: Known, search_embedder: BooruEmbedder) -> None:
    for row in range(0, 300, 37):
        asked = sorted(known.tags[row])
        found = known.search.search(search_embedder, " ".join(asked), 20)
        held = sorted((len(known.tags[other] & set(asked)) for other in range(300)), reverse=True)[:20]
        assert [len(post.matched) for post in found] == held
        assert found[0].matched == tuple(dict.fromkeys(asked))


def test_an_order_sorts_the_posts_with_all_tags(known: Known, search_embedder: BooruEmbedder) -> None:
    packed = known.packed
    rows = [row for row, tags in enumerate(known.tags) if {"sword", "armor"} <= tags]
    for order, key in (
        ("score", lambda row: (-packed.score[row], -packed.post_id[row])),
        ("score_asc", lambda row: (packed.score[row], packed.post_id[row])),
        ("id", lambda row: packed.post_id[row]),
        ("id_desc", lambda row: -packed.post_id[row]),
    ):
        for k in (7, 300):
            found = known.search.search(search_embedder, f"sword armor order:{order}", k)
            assert [post.post_id for post in found] == [packed.post_id[row] for row in sorted(rows, key=key)][:k]
            for post in found:
                row = int(np.searchsorted(packed.post_id, post.post_id))
                expected = float(known.vectors[row] @ known.search.query_vector(search_embedder, "sword armor"))
                assert post.similarity == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match="has an order, and by embedding is another"):
        known.search.search(search_embedder, "sword order:score", by="embedding")


def test_a_query_of_filters_is_near_to_the_tags_that_they_want(
    post_search: PostSearch, search_embedder: BooruEmbedder
) -> None:
    def unit(captions: list[str]) -> NDArray[np.float32]:
        mean = search_embedder.embed(captions).mean(axis=0)
        return mean / np.linalg.norm(mean)

    vector = post_search.query_vector(search_embedder, "( cat_ears ~ tail ) -sword score:>3")
    assert vector == pytest.approx(unit(["cat_ears", "tail"]), abs=1e-6)
    assert post_search.query_vector(search_embedder, "rating:g") == pytest.approx(unit([""]), abs=1e-6)
    found = post_search.search(search_embedder, "( cat_ears ~ tail ) -sword", 300)
    for post in found:
        assert set(post.matched) == {"cat_ears", "tail"} & {tag.tag for tag in post.tags}
        assert post.matched


def test_weights_of_a_query_move_its_embedding(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    found = post_search.query_vector(search_embedder, "(cat ears:3), sword, -tail")
    assert found == pytest.approx(search_embedder.embed([{"cat_ears": 3.0, "sword": 1.0}])[0], abs=1e-6)
    assert found != pytest.approx(search_embedder.embed("cat_ears sword")[0], abs=1e-3)


def test_a_post_is_a_query(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    vectors = read_vectors(post_search.folder).astype(np.float32)
    row = 130
    post_id = int(post_search.table.post_id[row])
    assert post_search.query_vector(search_embedder, f"id:{post_id}") == pytest.approx(vectors[row], abs=1e-3)
    assert post_id not in {post.post_id for post in post_search.search(search_embedder, f"id:{post_id}", 300)}
    post = post_search.post(search_embedder, post_id)
    assert (post.post_id, post.similarity) == (post_id, 1)
    with pytest.raises(SearchError, match="post 5 is not among the 300 of"):
        post_search.search(search_embedder, "id:5")


def test_an_unknown_tag_is_left_out_of_a_query_and_refused_in_a_filter(
    post_search: PostSearch, search_embedder: BooruEmbedder
) -> None:
    with pytest.warns(UnknownTagsWarning, match="zebra"):
        found = post_search.search(search_embedder, "sword zebra", 3)
    assert found == post_search.search(search_embedder, "sword", 3)
    query = parse_query("sword zebra - okapi + tail", search_embedder.tokenizer)
    assert query.unknown() == ("zebra", "okapi")
    with pytest.raises(UnknownTagsError, match="okapi; posts cannot be filtered by what the index does not hold"):
        post_search.search(search_embedder, query)
    with pytest.warns(UnknownTagsWarning), pytest.raises(UnknownTagsError, match="okapi; no known tag is left"):
        post_search.search(search_embedder, query, by="embedding")
    with pytest.raises(UnknownTagsError, match="zebra; posts cannot be filtered"):
        post_search.search(search_embedder, "sword zebra order:score")
    for filters in ({"required": ["sword zebra"]}, {"excluded": ["zebra"]}):
        with pytest.raises(UnknownTagsError, match="zebra; posts cannot be filtered by what the index does not hold"):
            post_search.search(search_embedder, "sword", 3, **filters)  # type: ignore[arg-type]


def test_filters_are_read_like_captions(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    asked = [["cat_ears", "paw_pose"], ["Cat Ears, paw pose"], ["cat_ears paw_pose"]]
    one, *others = [post_search.search(search_embedder, "sword", 50, required=tags) for tags in asked]
    assert one
    assert all(other == one for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k 0 is below 1"),
        ({"ratings": ["x"]}, "rating 'x' is not one"),
        ({"by": "x"}, "by 'x' is not one of tags"),
    ],
)
def test_wrong_use_is_named(
    post_search: PostSearch, search_embedder: BooruEmbedder, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        post_search.search(search_embedder, "sword", **arguments)  # type: ignore[arg-type]


def test_posts_of_another_model_are_refused(
    post_search: PostSearch, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    real = other.embed
    monkeypatch.setattr(other, "embed", lambda captions: np.roll(real(captions), 1, axis=1))
    with pytest.raises(SearchError, match=r"made by another model \(cosine .* for post \d+\); give the checkpoint"):
        post_search.search(other, "sword")


def test_the_model_is_told_by_a_post_whose_tags_can_be_named(
    search_folder: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder, posts = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32"), PostSearch.open(search_folder)
    unknown = np.isin(embedder.vocab.tags, ["solo", "highres"])
    monkeypatch.setattr(type(embedder.vocab), "is_unknown", unknown)
    real, asked = embedder.embed, []

    def embed(captions: str) -> NDArray[np.float32]:
        asked.append(captions)
        return real(captions)

    monkeypatch.setattr(embedder, "embed", embed)
    assert posts.post(embedder, 1003).post_id == 1003
    (caption,) = asked
    assert len(caption.split()) > 3
    assert not {"solo", "highres"} & set(caption.split())
    posts.post(embedder, 1006)
    assert len(asked) == 1


@pytest.fixture
def copied(search_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(search_folder, tmp_path / "copy"))


def test_posts_of_another_vocabulary_are_refused(copied: Path, search_embedder: BooruEmbedder) -> None:
    read_metadata(copied).model_copy(update={"vocab_hash": "0" * 64}).write(copied)
    with pytest.raises(SearchError, match="made with the vocab 0000000000000000, but the model has"):
        PostSearch.open(copied).search(search_embedder, "sword")


@pytest.mark.parametrize("name", ["index.faiss", "posts.arrow", "tags.arrow", "part-00002.parquet"])
def test_a_folder_that_is_cut_short_is_refused_in_one_line(copied: Path, name: str) -> None:
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:-1])
    with pytest.raises(SearchError, match=rf"{name}: has {len(data) - 1} bytes instead of {len(data)}; rebuild it"):
        PostSearch.open(copied)
    (copied / name).unlink()
    with pytest.raises(SearchError, match=rf"{name}: has None bytes"):
        PostSearch.open(copied)


@pytest.mark.parametrize("name", ["index.faiss", "posts.arrow", "tags.arrow"])
def test_a_file_of_something_else_is_refused_in_one_line(copied: Path, name: str) -> None:
    (copied / name).write_bytes(b"x" * (copied / name).stat().st_size)
    with pytest.raises(SearchError) as caught:
        PostSearch.open(copied)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "should be an object"),
        ('{"format_version": 1}', "lacks num_posts"),
        ('{"format_version": 99}', "format_version 99 instead of 1"),
    ],
)
def test_metadata_that_cannot_be_read_are_refused(copied: Path, text: str, message: str) -> None:
    (copied / "search.json").write_text(text)
    with pytest.raises(SearchError, match=message):
        PostSearch.open(copied)


def test_a_folder_without_a_search_is_named(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match=r"search\.json: no such file; make it with `booru-embed index`"):
        PostSearch.open(tmp_path)


def test_search_folders_of_version_0_1_are_read(copied: Path) -> None:
    metadata = json.loads((copied / "search.json").read_text())
    metadata["probes"] = metadata.pop("nprobe")
    del metadata["sha256"], metadata["checksum"]
    (copied / "search.json").write_text(json.dumps(metadata))
    with pytest.warns(UnverifiedWarning):
        assert PostSearch.open(copied).index.nprobe == metadata["probes"]


def test_a_query_is_parsed_once(
    post_search: PostSearch, search_embedder: BooruEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(text: str, tokenizer: Tokenizer) -> Query:
        read.append(text)
        return parse_query(text, tokenizer)

    monkeypatch.setattr("booru_embed_core.search.parser.parse_query", counted)
    query = parse_query("cat_ears - tail", search_embedder.tokenizer)
    for search in (post_search.search, post_search.near_tags, post_search.query_vector):
        found = search(search_embedder, "cat_ears - tail")
        assert read == ["cat_ears - tail"]
        assert repr(found) == repr(search(search_embedder, query))
        assert len(read) == 1
        read.clear()

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
from booru_embed_core.search.post_search import PostSearch, read_vectors, unknown_tags
from booru_embed_core.search.query import Query, parse_query
from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.tokens.packed_file import PackedFile
from tests.core.model_helpers import TOPICS, Trained

TAGS = st.sets(st.sampled_from([*TOPICS[0][:4], *TOPICS[1][:3], "solo", "hatsune_miku", "highres"]), max_size=2)
CAPTIONS = ["", "1girl cat_ears", "sword, armor", "scenery - tree + sword", "id:1000", "hatsune_miku solo"]


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
)
def test_filters_hold_and_the_nearest_of_what_passes_are_found(
    known: Known,
    search_embedder: BooruEmbedder,
    caption: str,
    k: int,
    ratings: set[str] | None,
    typed: str | None,
    min_score: int | None,
    required: set[str],
    excluded: set[str],
) -> None:
    packed = known.packed
    query = caption if typed is None else f"{caption} rating:{typed}"
    found = known.search.search(search_embedder, query, k, ratings, min_score, sorted(required), sorted(excluded))
    passing = [
        row
        for row, tags in enumerate(known.tags)
        if (ratings is None or RATINGS[packed.rating[row]] in ratings)
        and typed in (None, RATINGS[packed.rating[row]])
        and (min_score is None or packed.score[row] >= min_score)
        and required <= tags
        and not excluded & tags
        and caption != f"id:{packed.post_id[row]}"
    ]
    similarities = known.vectors[passing] @ known.query_vectors[caption]
    assert [post.similarity for post in found] == pytest.approx(-np.sort(-similarities)[:k], abs=1e-3)
    rows = np.searchsorted(packed.post_id, [post.post_id for post in found]).tolist()
    assert set(rows) <= set(passing)
    for row, post in zip(rows, found, strict=True):
        assert {tag.tag for tag in post.tags} == known.tags[row]
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
    near = post_search.near_tags(search_embedder, "cat_ears - tail + sword", 99)
    table, vocab = search_embedder.tag_embeddings(), search_embedder.vocab
    assert {"cat_ears", "tail", "sword"}.isdisjoint(one.tag for one in near)
    assert len(near) == vocab.num_tags - 3
    best = max((i for i in range(vocab.num_tags) if vocab.tags[i] == near[0].tag), key=lambda i: table[i] @ found)
    assert near[0].similarity == pytest.approx(float(table[best] @ found), abs=1e-6)
    assert [one.similarity for one in near] == sorted((one.similarity for one in near), reverse=True)
    with pytest.raises(ValueError, match="k 0 is below 1; ask for at least one tag"):
        post_search.near_tags(search_embedder, "sword", 0)
    with pytest.raises(ValueError, match="cancels out"):
        post_search.query_vector(search_embedder, "sword - sword")


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
    assert unknown_tags(search_embedder, parse_query("sword zebra - okapi + tail")) == ["zebra", "okapi"]
    for filters in ({"required": ["sword zebra"]}, {"excluded": ["zebra"]}):
        with pytest.raises(UnknownTagsError, match="cannot filter by tags that are not in the vocabulary: zebra"):
            post_search.search(search_embedder, "sword", 3, **filters)  # type: ignore[arg-type]


def test_filters_are_read_like_captions(post_search: PostSearch, search_embedder: BooruEmbedder) -> None:
    asked = [["cat_ears", "paw_pose"], ["Cat Ears, paw pose"], ["cat_ears paw_pose"]]
    one, *others = [post_search.search(search_embedder, "sword", 50, required=tags) for tags in asked]
    assert one
    assert all(other == one for other in others)


@pytest.mark.parametrize(
    ("arguments", "message"), [({"k": 0}, "k 0 is below 1"), ({"ratings": ["x"]}, "rating 'x' is not one")]
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
    metadata = json.loads((copied / "search.json").read_text())
    (copied / "search.json").write_text(json.dumps({**metadata, "vocab_hash": "0" * 64}))
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
        ("{", "not the metadata of an index"),
        ("[]", "not the metadata of an index"),
        ('{"format_version": 1}', "not the metadata of an index"),
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
    (copied / "search.json").write_text(json.dumps(metadata))
    assert PostSearch.open(copied).index.nprobe == metadata["probes"]


def test_a_query_is_parsed_once(
    post_search: PostSearch, search_embedder: BooruEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(text: str) -> Query:
        parsed.append(text)
        return parse_query(text)

    monkeypatch.setattr("booru_embed_core.search.query.parse_query", counted)
    query = parse_query("cat_ears - tail rating:safe")
    for search in (post_search.search, post_search.near_tags, post_search.query_vector):
        found = search(search_embedder, "cat_ears - tail rating:safe")
        assert parsed == ["cat_ears - tail rating:safe"]
        assert repr(found) == repr(search(search_embedder, query))
        assert len(parsed) == 1
        parsed.clear()

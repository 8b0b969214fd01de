"""What a user gets: unit vectors, tags that were not there yet, and a word on every tag that is not known."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import pickle
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import repeats
from booru_embed_core.embedder.captions import Caption
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsError, UnknownTagsWarning
from booru_embed_core.schema import RATINGS, SPECIAL_TOKENS, Category
from booru_embed_core.training.checkpoint_config import CheckpointError
from booru_embed_core.training.hardware import pick_dtype
from tests.core.model_helpers import TOPICS, Trained

CATS = "1girl cat_ears tail"


@pytest.fixture(scope="module")
def embedder(trained: Trained) -> BooruEmbedder:
    return BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")


@pytest.fixture(scope="module")
def captions_of(embedder: BooruEmbedder) -> Callable[[int], list[str]]:
    """Random captions of known tags, the empty one among them."""

    def draw(seed: int) -> list[str]:
        numbers = np.random.default_rng(seed)
        tags = embedder.vocab.tags
        return ["", *(" ".join(tags[i] for i in numbers.permutation(len(tags))[: 1 + size]) for size in range(12))]

    return draw


def error_of(action: Callable[[], object], kind: type[ValueError] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_embeddings_are_unit_vectors_of_float32(
    embedder: BooruEmbedder, captions_of: Callable[[int], list[str]]
) -> None:
    captions = captions_of(1)
    for dim in (None, 1, 4, 8, 15, 16):
        vectors = embedder.embed(captions, dim=dim)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(captions), dim or 16)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_a_shorter_embedding_is_the_prefix_of_the_whole(embedder: BooruEmbedder) -> None:
    whole, short = embedder.embed(CATS)[0], embedder.embed(CATS, dim=4)[0]
    assert short == pytest.approx(whole[:4] / np.linalg.norm(whole[:4]), abs=1e-6)


def test_one_caption_gives_one_row_and_none_gives_none(embedder: BooruEmbedder) -> None:
    assert embedder.embed(CATS).shape == (1, 16)
    assert np.array_equal(embedder.embed(CATS), embedder.embed([CATS]))
    assert embedder.embed([]).shape == (0, 16)
    states, cu_seqlens = embedder.hidden_states([])
    assert states.shape == (0, 32)
    assert cu_seqlens.tolist() == [0]


@given(order=st.permutations(CATS.split()), separator=st.sampled_from([" ", ", ", ",", " , "]))
@settings(deadline=None, max_examples=20)
def test_order_and_separator_change_nothing(embedder: BooruEmbedder, order: list[str], separator: str) -> None:
    assert embedder.embed(separator.join(order)) == pytest.approx(embedder.embed(CATS), abs=2e-6)


def test_company_changes_nothing(embedder: BooruEmbedder, captions_of: Callable[[int], list[str]]) -> None:
    captions = captions_of(2)
    together = embedder.embed(captions)
    for caption, vector in zip(captions, together, strict=True):
        assert embedder.embed(caption)[0] == pytest.approx(vector, abs=2e-6)


def test_tags_as_people_type_them(embedder: BooruEmbedder) -> None:
    exported = embedder.embed("1girl cat_ears tracer_(overwatch)")
    for typed in (
        r"1girl, cat ears, tracer_\(overwatch\)",
        r"1Girl, Cat Ears, tracer \(overwatch\)",
        "1girl,cat_ears,\n tracer (overwatch)",
        r"1girl cat_ears tracer_\(overwatch\) 1girl",
    ):
        assert embedder.embed(typed) == pytest.approx(exported, abs=2e-6), typed


def test_posts_of_one_topic_are_near_each_other(embedder: BooruEmbedder) -> None:
    halves = [" ".join(tags) for topic in TOPICS for tags in (topic[:3], topic[3:])]
    vectors = embedder.embed(halves)
    nearest = (vectors @ vectors.T - 2 * np.eye(6)).argmax(1)
    assert nearest.tolist() == [1, 0, 3, 2, 5, 4]


def test_rating_and_score_are_read(embedder: BooruEmbedder) -> None:
    found = [embedder.embed(CATS), *(embedder.embed(CATS, rating=rating) for rating in RATINGS)]
    found += [embedder.embed(CATS, rating="g", score=score) for score in (-100, 5, 100_000)]
    for one, other in itertools.combinations(found, 2):
        assert np.abs(one - other).max() > 1e-4
    # A score is read as its decile.
    assert np.array_equal(embedder.embed(CATS, rating="g", score=10**6), embedder.embed(CATS, rating="g", score=10**9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rating": "x"}, "rating 'x' is not one of g, s, q, e"),
        ({"rating": ""}, "rating '' is not one of g, s, q, e"),
        ({"score": 3}, "score 3 needs a rating: scores are compared among posts of one rating"),
        ({"dim": 0}, "dim 0 is not between 1 and 16, the length of the embedding"),
        ({"dim": 17}, "dim 17 is not between 1 and 16, the length of the embedding"),
    ],
)
def test_wrong_arguments_of_embed_are_named(
    embedder: BooruEmbedder, arguments: dict[str, object], message: str
) -> None:
    assert error_of(lambda: embedder.embed(CATS, **arguments)) == message  # type: ignore[arg-type]


def test_unknown_tags_are_named_and_left_out(embedder: BooruEmbedder) -> None:
    with pytest.warns(UnknownTagsWarning) as caught:
        vectors = embedder.embed([CATS, "1girl, no such tag, cat ears, tail, xyzzy"])
    assert [str(warning.message) for warning in caught] == [
        "'1girl, no such tag, cat ears, tail, xyzzy': not in the vocabulary: no_such_tag, xyzzy; left out. "
        "`booru-embed inspect vocab` lists the known tags"
    ]
    assert caught[0].filename == __file__
    assert vectors[1] == pytest.approx(vectors[0], abs=2e-6)
    with pytest.warns(UnknownTagsWarning, match="xyzzy"):
        embedder.complete("1girl xyzzy")
    with pytest.warns(UnknownTagsWarning, match="xyzzy"):
        embedder.hidden_states("1girl xyzzy")


@pytest.mark.parametrize("caption", ["xyzzy", "no such tag, xyzzy", SPECIAL_TOKENS[0].replace(" ", "_")])
def test_nothing_but_unknown_tags_is_an_error(embedder: BooruEmbedder, caption: str) -> None:
    for action in (
        lambda: embedder.embed([CATS, caption]),
        lambda: embedder.complete(caption),
        lambda: embedder.hidden_states(caption),
        lambda: embedder.similar_tags(caption),
    ):
        message = error_of(action, UnknownTagsError)
        assert message.startswith(f"{caption!r}: not in the vocabulary: ")
        assert message.endswith("`booru-embed inspect vocab` lists the known tags")


def test_what_is_understood_is_told_without_a_warning(embedder: BooruEmbedder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = embedder.normalize("1girl, (Cat Ears:1.2), xyzzy, artist:artist_a, rating:g")
    assert found.caption == "1girl cat_ears artist_a"
    assert found.tags == ((Category.GENERAL, "1girl"), (Category.GENERAL, "cat_ears"), (Category.ARTIST, "artist_a"))
    assert (found.unknown, found.ratings) == (("xyzzy",), ("g",))
    assert found.notes == ("(Cat Ears:1.2): read as cat_ears with weight 1.2",)
    again = embedder.normalize(found.caption)
    assert again[:5] == (found.caption, found.tags, (), (), ())


def test_the_empty_caption_stands_for_anything(embedder: BooruEmbedder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = embedder.embed(["", "  ", " , ,"])
        found = embedder.complete("", k=36)
    assert np.abs(empty[1:] - empty[0]).max() < 2e-6
    assert len(found) == 36


def test_completions_are_never_tags_of_the_input(
    embedder: BooruEmbedder, captions_of: Callable[[int], list[str]]
) -> None:
    num_tags = embedder.vocab.num_tags
    for caption in captions_of(3):
        found = embedder.complete(caption, k=num_tags)
        assert {one.tag for one in found} == set(embedder.vocab.tags) - set(caption.split())
        probabilities = [one.probability for one in found]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert embedder.complete(caption, k=4) == found[:4]
        every = embedder.probabilities(caption)
        assert every.dtype == np.float32
        assert {tag: p for tag, p in zip(embedder.vocab.tags, every.tolist(), strict=True) if p} == {
            one.tag: one.probability for one in found
        }


def test_completions_belong_to_the_topic(embedder: BooruEmbedder) -> None:
    for topic in TOPICS:
        best = [one.tag for one in embedder.complete(" ".join(topic[:3]), k=4, category="general")]
        assert sorted(best) == sorted(topic[3:])


def test_a_category_filters_and_leaves_probabilities_alone(embedder: BooruEmbedder) -> None:
    every = {one.tag: one for one in embedder.complete(CATS, k=100)}
    for category in (Category.META, "artist", "character"):
        found = embedder.complete(CATS, k=100, category=category)
        wanted = [one for one in every.values() if one.category == category]
        assert found == wanted
        assert len(found) == 3


def test_a_caption_of_every_tag_has_no_completion(embedder: BooruEmbedder) -> None:
    assert embedder.complete(" ".join(embedder.vocab.tags)) == []
    assert not embedder.probabilities(" ".join(embedder.vocab.tags)).any()
    assert embedder.complete("highres absurdres commentary", category="meta") == []


@pytest.mark.parametrize("method", ["complete", "similar_tags"])
def test_wrong_arguments_of_lists_are_named(embedder: BooruEmbedder, method: str) -> None:
    ask = getattr(embedder, method)
    assert error_of(lambda: ask("1girl", k=0)) == "k 0 is below 1; ask for at least one tag"
    assert error_of(lambda: ask("1girl", category="artists")) == (
        "category 'artists' is not one of general, artist, copyright, character, meta"
    )


def test_similar_tags_are_the_nearest_embeddings_seen_from_the_mean(embedder: BooruEmbedder) -> None:
    mean = np.average(embedder.tag_embeddings().astype(np.float64), axis=0, weights=embedder.vocab.counts)
    vectors = {tag: embedder.embed(tag)[0] - mean for tag in embedder.vocab.tags}
    vectors = {tag: vector / np.linalg.norm(vector) for tag, vector in vectors.items()}
    found = embedder.similar_tags("cat ears", k=100)
    assert found[:6] == embedder.similar_tags("cat_ears", k=6)
    assert {one.tag for one in found} == set(vectors) - {"cat_ears"}
    for one in found:
        assert one.similarity == pytest.approx(float(vectors["cat_ears"] @ vectors[one.tag]), abs=1e-5)
    similarities = [one.similarity for one in found]
    assert similarities == sorted(similarities, reverse=True)
    others = embedder.similar_tags("cat_ears", k=100, category=Category.ARTIST)
    assert others == [one for one in found if one.category == Category.ARTIST]
    assert others[0].tag == "artist_a"


def test_similar_tags_wants_one_known_tag(embedder: BooruEmbedder) -> None:
    assert error_of(lambda: embedder.similar_tags("cat_ears tail")) == (
        "'cat_ears tail' is 2 tags, not one; use `embed` for sets of tags"
    )
    assert error_of(lambda: embedder.similar_tags("")).startswith("'' is 0 tags, not one")
    for tag, unknown in (("cat_ears, xyzzy", "xyzzy"), ("no such tag", "no_such_tag")):
        message = error_of(lambda tag=tag: embedder.similar_tags(tag), UnknownTagsError)  # type: ignore[misc]
        assert message.startswith(f"{tag!r}: not in the vocabulary: {unknown}; ")


def test_tag_embeddings_are_those_of_one_tag_captions(embedder: BooruEmbedder) -> None:
    table = embedder.tag_embeddings()
    assert table.shape == (embedder.vocab.num_tags, 16)
    assert table.dtype == np.float32
    assert table == pytest.approx(embedder.embed(embedder.vocab.tags), abs=2e-6)


def test_hidden_states_follow_their_tokens(embedder: BooruEmbedder) -> None:
    states, cu_seqlens = embedder.hidden_states([CATS, "", "tail 1girl cat_ears"])
    assert states.dtype == np.float32
    assert states.shape == (9, 32)
    assert cu_seqlens.dtype == np.int32
    assert cu_seqlens.tolist() == [0, 4, 5, 9]
    assert states[5:][[0, 2, 3, 1]] == pytest.approx(states[:4], abs=2e-6)
    assert embedder.hidden_states(CATS)[0] == pytest.approx(states[:4], abs=2e-6)
    assert np.abs(states[1] - states[2]).max() > 1e-2


def test_hidden_states_have_rating_and_score_behind_the_summary(embedder: BooruEmbedder) -> None:
    plain, rated, scored = (
        embedder.hidden_states(CATS, **metadata)  # type: ignore[arg-type]
        for metadata in ({}, {"rating": "s"}, {"rating": "s", "score": 5})
    )
    assert [cu_seqlens.tolist() for _, cu_seqlens in (plain, rated, scored)] == [[0, 4], [0, 5], [0, 6]]
    swapped = embedder.hidden_states("tail cat_ears 1girl", rating="s", score=5)[0]
    assert swapped[[0, 1, 2, 5, 4, 3]] == pytest.approx(scored[0], abs=2e-6)


def test_padded_hidden_states_are_the_same_states(embedder: BooruEmbedder) -> None:
    captions = [CATS, "", "tail"]
    states, cu_seqlens = embedder.hidden_states(captions)
    padded, is_token = embedder.padded_hidden_states(captions)
    assert (padded.shape, padded.dtype, is_token.dtype) == ((3, 4, 32), np.float32, np.bool_)
    assert is_token.sum(1).tolist() == np.diff(cu_seqlens).tolist() == [4, 1, 2]
    assert np.array_equal(padded[is_token], states)
    assert not padded[~is_token].any()
    padded, is_token = embedder.padded_hidden_states([])
    assert (padded.shape, is_token.shape) == ((0, 0, 32), (0, 0))


def test_a_stream_takes_no_more_captions_than_a_batch(
    embedder: BooruEmbedder, captions_of: Callable[[int], list[str]]
) -> None:
    captions = captions_of(4)
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        for caption in itertools.cycle(captions):
            taken += 1
            yield caption

    stream = embedder.embed_stream(endless(), batch_size=5, dim=8)
    assert taken == 0
    for number in range(1, 7):
        batch = next(stream)
        assert (batch.shape, taken) == ((5, 8), 5 * number)
    whole = list(embedder.embed_stream(iter(captions), batch_size=5, rating="g"))
    assert [len(batch) for batch in whole] == [5, 5, 3]
    assert np.concatenate(whole) == pytest.approx(embedder.embed(captions, rating="g"), abs=2e-6)
    assert list(embedder.embed_stream([])) == []


def test_what_is_wrong_with_a_stream_is_said_before_it_starts(embedder: BooruEmbedder) -> None:
    for arguments, message in (
        ({"batch_size": 0}, "batch_size 0 is below 1"),
        ({"dim": 17}, "dim 17 is not between"),
        ({"rating": "x"}, "rating 'x' is not one of"),
    ):
        assert error_of(lambda a=arguments: embedder.embed_stream([CATS], **a)).startswith(message)  # type: ignore[misc]
    stream = embedder.embed_stream([CATS, "xyzzy"], batch_size=1)
    assert len(next(stream)) == 1
    with pytest.raises(UnknownTagsError, match="xyzzy"):
        next(stream)
    with pytest.warns(UnknownTagsWarning, match="xyzzy; left out") as caught:
        next(embedder.embed_stream(["tail xyzzy"]))
    assert caught[0].filename == __file__


def test_threads_get_what_one_alone_gets(trained: Trained, captions_of: Callable[[int], list[str]]) -> None:
    """The caches are empty at the start: all threads want the table of tag embeddings at once."""
    fresh = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    captions = captions_of(5) * 4
    start = threading.Barrier(4)

    def ask(part: int) -> list[object]:
        start.wait(30)
        similar: list[object] = [fresh.similar_tags("tail", k=3)]
        for caption in captions[part::4]:
            states, cu_seqlens = fresh.hidden_states(caption)
            similar += [
                fresh.embed(caption).tobytes(),
                fresh.complete(caption, k=5),
                states.tobytes(),
                cu_seqlens.tolist(),
            ]
        return similar

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(ask, range(4)))
    start = threading.Barrier(1)
    assert together == [ask(part) for part in range(4)]


def test_loading_names_what_is_missing(trained: Trained) -> None:
    with pytest.raises(CheckpointError, match="no such file; give the folder of a checkpoint"):
        BooruEmbedder.load(trained.checkpoint.parent)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_loading_onto_a_gpu_that_is_not_there_is_an_error(trained: Trained) -> None:
    with pytest.raises(ValueError, match="torch finds no GPU"):
        BooruEmbedder.load(trained.checkpoint, "cuda")


def test_no_completion_of_10_000_random_inputs_repeats_an_input_tag(
    embedder: BooruEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network reads all inputs in one batch, batches of one being slow; the rest is `complete`'s own."""
    spellings = embedder.tokenizer.spellings
    captions = list(repeats.random_inputs(spellings, repeats.NUM_INPUTS, repeats.SEED))
    monkeypatch.setattr(embedder.tokenizer, "encode", functools.cache(embedder.tokenizer.encode))  # asked four times
    read = [embedder.tokenizer.encode(caption) for caption in captions]
    assert {len(one.token_ids) for one in read} == set(range(len(spellings) + 1))
    assert any(one.unknown for one in read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTagsWarning)
        scores = iter(embedder.network.tag_scores(embedder._sets(captions, None, None)))
        monkeypatch.setattr(embedder.network, "tag_scores", lambda _: next(scores)[None])
        found = repeats.count(embedder, captions)
    expected = sum(min(10, len(spellings) - len(one.token_ids)) for one in read)
    assert found == {"num_offered": expected, "num_repeated": 0, "num_twice": 0}
    assert next(scores, None) is None


WEIGHTS = (0.01, 0.1, 0.3, 0.6, 1.0, 1.5, 3.0, 10.0)


def path_of(embedder: BooruEmbedder, tag: str, others: list[str], weights: Sequence[float]) -> NDArray[np.float32]:
    """The embeddings of `others` with `tag` at each of `weights`."""
    return embedder.embed([{**dict.fromkeys(others, 1.0), tag: weight} for weight in weights])


def test_a_weight_moves_the_embedding_from_without_the_tag_to_with_it_and_on(embedder: BooruEmbedder) -> None:
    others = ["1girl", "tail", "sword", "smile"]
    for tag in ("cat_ears", "sky", "artist_b"):
        vectors = path_of(embedder, tag, others, WEIGHTS)
        without, with_it = embedder.embed([others, [*others, tag]])
        to_without, to_with = vectors @ without, vectors @ with_it
        one = WEIGHTS.index(1.0)
        assert (np.diff(to_without) < 0).all()
        assert (np.diff(to_with[: one + 1]) > 0).all()
        assert (np.diff(to_with[one:]) < 0).all()
        assert vectors[one] == pytest.approx(with_it, abs=2e-6)
        for weight, wanted in ((1, [*others, tag]), (0, others)):
            assert np.array_equal(path_of(embedder, tag, others, [weight]), embedder.embed([wanted]))
        (nearly,) = path_of(embedder, tag, others, [1e-7])
        assert nearly == pytest.approx(without, abs=1e-5)


def test_a_step_of_the_weight_is_a_step_of_everything(embedder: BooruEmbedder) -> None:
    """No jump: a hundredth more weight moves embedding, completions and states by about as much everywhere."""
    weights = np.linspace(0.01, 2, 200).tolist()
    captions = [{"1girl": 1, "tail": 1, "sword": w} for w in weights]
    vectors = embedder.embed(captions)
    probabilities = np.array([embedder.probabilities(caption) for caption in captions])
    states = embedder.hidden_states(captions)[0].reshape(len(weights), 4, -1)
    for moved in (vectors, probabilities, states.reshape(len(weights), -1)):
        steps = np.linalg.norm(np.diff(moved, axis=0), axis=1)
        assert steps.min() > 0
        assert steps.max() < 0.1 * np.linalg.norm(moved[-1] - moved[0])


def test_text_and_mapping_with_the_same_weights_are_the_same(embedder: BooruEmbedder) -> None:
    text = "1girl, (cat ears:1.3), (tail:0.5)"
    mapping = {"1girl": 1, "cat_ears": 1.3, "tail": 0.5}
    vectors = embedder.embed([text, mapping])
    assert np.array_equal(*vectors)
    assert np.abs(vectors - embedder.embed("1girl cat_ears tail")).max() > 1e-3
    assert embedder.complete(text, k=9) == embedder.complete(mapping, k=9)
    assert embedder.complete(text, k=9) != embedder.complete("1girl cat_ears tail", k=9)
    assert np.array_equal(embedder.hidden_states(text)[0], embedder.hidden_states(mapping)[0])
    (read, sets), (other, same) = embedder.read_caption(text), embedder.read_caption(mapping)
    assert read.weights == other.weights == (1, 1.3, 0.5)
    assert np.array_equal(sets.tag_weights(), same.tag_weights())
    assert np.array_equal(embedder.probabilities_of(sets)[0], embedder.probabilities(text))


def test_weights_elsewhere_in_the_batch_change_no_bit(
    embedder: BooruEmbedder, captions_of: Callable[[int], list[str]]
) -> None:
    captions = captions_of(6)
    alone = embedder.embed(captions)
    mixed = embedder.embed([*captions, {"1girl": 0.3}, {"tail": 2.5, "bell": 0.1}])
    assert np.array_equal(mixed[: len(captions)], alone)
    ones = [dict.fromkeys(caption.split(), 1.0) for caption in captions]
    assert np.array_equal(embedder.embed(ones), alone)


def test_captions_come_in_every_form(embedder: BooruEmbedder) -> None:
    expected = embedder.embed(["1girl solo", "cat_ears"])
    for captions in (
        [["1girl", "solo"], ["cat ears"]],
        [("solo", "1girl"), {"cat_ears": 1}],
        ("1girl solo", {"cat_ears"}),
        (caption for caption in ["1girl solo", "cat_ears"]),
        np.array(["1girl solo", "cat_ears"]),
    ):
        assert np.array_equal(embedder.embed(captions), expected)
    (streamed,) = embedder.embed_stream(iter([["1girl", "solo"], "cat_ears"]))
    assert np.array_equal(streamed, expected)
    one = embedder.embed("1girl solo")
    assert np.array_equal(embedder.embed({"1girl": 1, "solo": 1}), one)
    assert np.array_equal(next(embedder.embed_stream("1girl solo")), one)
    assert embedder.complete(["1girl", "solo"]) == embedder.complete("1girl solo")
    assert embedder.normalize({"cat ears": 0.5, "xyzzy": 0.2})[:3] == (
        "cat_ears", ((Category.GENERAL, "cat_ears"),), ("xyzzy",)
    )  # fmt: skip
    message = error_of(lambda: embedder.embed(["1girl", {"cat_ears": -0.2}]))
    assert message == "'cat_ears' has the weight -0.2; give a number from 0 to 100"


def test_a_caption_of_unknown_tags_need_not_end_a_job(embedder: BooruEmbedder) -> None:
    captions: list[Caption] = ["1girl", "blorb", "solo, blorb", ["xyzzy", "no such tag"], "", {"blorb": 0.0}]
    known = embedder.embed(["1girl", "", "solo", "", "", ""])
    for on_unknown, lost in (("zero", np.zeros(16)), ("empty", known[1])):
        expected = known.copy()
        expected[[1, 3]] = lost
        with pytest.warns(UnknownTagsWarning) as caught:
            found = embedder.embed(captions, on_unknown=on_unknown)  # type: ignore[arg-type]
        assert np.array_equal(found, expected)
        outcome = {"zero": "its vector is zero", "empty": "read as the empty caption"}[on_unknown]
        assert [str(warning.message).split(". `booru-embed inspect vocab`")[0] for warning in caught] == [
            f"'blorb': not in the vocabulary: blorb; no known tag is left; {outcome}",
            "'solo, blorb': not in the vocabulary: blorb; left out",
            f"'xyzzy, no such tag': not in the vocabulary: xyzzy, no_such_tag; no known tag is left; {outcome}",
        ]
        assert {warning.filename for warning in caught} == {__file__}
        stream = embedder.embed_stream(captions, batch_size=2, on_unknown=on_unknown)  # type: ignore[arg-type]
        with pytest.warns(UnknownTagsWarning) as caught:
            found = np.concatenate(list(stream))
        assert found == pytest.approx(expected, abs=2e-6)
        assert {warning.filename for warning in caught} == {__file__}
    for action in (
        lambda: embedder.embed("1girl", on_unknown="skip"),  # type: ignore[arg-type]
        lambda: embedder.embed_stream("1girl", on_unknown="skip"),  # type: ignore[arg-type]
    ):
        assert error_of(action) == "on_unknown 'skip' is not one of raise, zero, empty"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_embedder_goes_to_a_worker_and_gives_the_same_there(
    trained: Trained, precision: str, tmp_path: Path
) -> None:
    shutil.copytree(trained.checkpoint, tmp_path / "moved")
    embedder = BooruEmbedder.load(tmp_path / "moved", "cpu", precision)
    embedder.complete("1girl")  # fills the caches, which are not pickled
    embedder.tag_embeddings()
    shutil.rmtree(tmp_path / "moved")  # a newer version replaced it
    captions: list[Caption] = [CATS, "", {"1girl": 0.5, "tail": 1.5}]
    before = torch.random.get_rng_state()
    copied = pickle.loads(pickle.dumps(embedder))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(copied.embed(captions), embedder.embed(captions))
    if precision == "fp32":
        with multiprocessing.get_context("spawn").Pool(1) as workers:
            assert np.array_equal(workers.apply(embedder.embed, (captions,)), embedder.embed(captions))
            assert workers.apply(embedder.complete, (CATS, 5)) == embedder.complete(CATS, 5)


def test_precision_is_of_the_trunk_and_vectors_stay_near(
    trained: Trained, embedder: BooruEmbedder, captions_of: Callable[[int], list[str]]
) -> None:
    captions = captions_of(3)
    exact = embedder.embed(captions)
    coarse = BooruEmbedder.load(trained.checkpoint, "cpu", precision="bf16")
    assert not np.array_equal(coarse.embed(captions), exact)
    assert (coarse.embed(captions) * exact).sum(1).min() > 0.99
    backwards = [" ".join(caption.split()[::-1]) for caption in captions]
    assert np.array_equal(coarse.embed(backwards), coarse.embed(captions)), "the order of tags changes nothing"
    native = pick_dtype("auto", torch.device("cpu")) == torch.bfloat16
    as_it_ships = BooruEmbedder.load(trained.checkpoint, "cpu").embed(captions)
    assert np.array_equal(as_it_ships, coarse.embed(captions) if native else exact)
    message = error_of(lambda: BooruEmbedder.load(trained.checkpoint, "cpu", precision="fp8"))
    assert message == "precision 'fp8' is not one of auto, fp32, bf16, int8"

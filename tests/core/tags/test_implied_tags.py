"""Implications that are counted in posts, against the obvious loop, and what a cut makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts.read_export import read_export
from booru_embed_core.schema import Category
from booru_embed_core.settings import CategoryCut, PostsSettings, VocabSettings
from booru_embed_core.tags import implied_tags as module
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.implied_tags import IMPLIED_SCHEMA, read_implied_tags
from booru_embed_core.tags.vocab import Vocab
from tests.core.export_helpers import ONE_THREAD, Walked, csv_bytes, row

Posts = Sequence[Mapping[str, str]]
ALL = VocabSettings(keep_percentile=100, min_count=1)


def counted(folder: Path, posts: Posts, table: str = "") -> Path:
    """The folder of frequencies of `posts`, tags by category."""
    for name in ("posts", "freq"):
        (folder / name).mkdir(parents=True)
    rows = [row(i, post.get("general", ""), **{k: v for k, v in post.items() if k != "general"}) for i, post in
            enumerate(posts)]  # fmt: skip
    (folder / "posts.csv").write_bytes(csv_bytes(rows))
    (folder / "implied.csv").write_text("antecedent_name,consequent_name\n" + table)
    named = {"implications": folder / "implied.csv"} if table else {}
    read_export(
        PostsSettings.model_validate({"export": (str(folder / "posts.csv"),), "tag_separator": " ", **named}),
        folder, folder / "posts", ONE_THREAD,
    )  # fmt: skip
    count_tags(folder / "posts", folder / "freq", ONE_THREAD)
    return folder / "freq"


def named_pairs(vocab: Vocab) -> set[tuple[str, str]]:
    return {(vocab.tags[a], vocab.tags[b]) for a, b in vocab.implications.pairs.tolist()}


def counted_slowly(posts: Posts) -> set[tuple[str, str, str, str, int, int]]:
    uses = [{(c, tag) for c, tags in post.items() for tag in tags.split()} for post in posts]
    every = set().union(*uses)
    found = set()
    for a in every:
        of_a = [tags for tags in uses if a in tags]
        for b in every - {a}:
            both = sum(b in tags for tags in of_a)
            if len(of_a) >= 20 and both > 0.9 * len(of_a):
                found.add((a[1], a[0], b[1], b[0], len(of_a), both))
    return found


POST = st.fixed_dictionaries(
    {"general": st.sets(st.sampled_from("abcd")).map(lambda tags: " ".join(sorted(tags))),
     "character": st.sampled_from(["", "a", "x", "a x"])}
)  # fmt: skip


@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(POST, min_size=1, max_size=4), st.lists(POST, max_size=3))
def test_pairs_are_those_of_the_loop(
    tmp_path_factory: pytest.TempPathFactory, often: list[dict[str, str]], rare: list[dict[str, str]]
) -> None:
    posts = [*often * 21, *rare]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_COUNTED_USES", 30)
        freq_dir = counted(tmp_path_factory.mktemp("loop"), posts)
    table = read_implied_tags(freq_dir)
    assert table.schema.equals(IMPLIED_SCHEMA)
    assert {tuple(one.values()) for one in table.to_pylist()} == counted_slowly(posts)


def test_of_a_frequent_tag_some_posts_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SAMPLED_POSTS", 100)
    posts: Posts = [{"general": "a b c" if i % 50 else "a b"} for i in range(1000)] + [{"general": "d b"}] * 30
    table = {(one["tag"], one["implied_tag"]): one for one in read_implied_tags(counted(tmp_path, posts)).to_pylist()}
    assert set(table) == {("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b"), ("d", "b")}
    assert 90 <= table["a", "b"]["num_posts"] <= 110
    assert table["a", "b"]["num_both"] == table["a", "b"]["num_posts"]
    assert table["d", "b"]["num_posts"] == 30


def test_the_settings_say_when_a_tag_implies_another(tmp_path: Path) -> None:
    posts: Posts = [{"general": "hat" + " witch_hat" * (i < 30), "meta": "new" * (i % 30 > 0)} for i in range(60)]
    freq_dir = counted(tmp_path, posts)
    assert named_pairs(build_vocab(freq_dir, ALL)) == {("witch_hat", "hat"), ("new", "hat")}
    lower = ALL.model_copy(update={"implied_threshold": 0.95})
    assert named_pairs(build_vocab(freq_dir, lower)) == {
        ("witch_hat", "hat"), ("new", "hat"), ("witch_hat", "new"), ("hat", "new"),
    }  # fmt: skip
    assert named_pairs(build_vocab(freq_dir, ALL.model_copy(update={"implied_min_count": 31}))) == {("new", "hat")}
    assert named_pairs(build_vocab(freq_dir, ALL.model_copy(update={"implied_threshold": 1.0}))) == set()


def test_chains_of_a_table_pass_through_tags_that_the_cut_has_lost(tmp_path: Path) -> None:
    posts = [{"general": f"{name} {name}{i}", "character": "hat" if i else ""} for name in
                    ("witch_hat", "hat", "headwear") for i in range(5)]  # fmt: skip
    posts.append({"artist": "lost"})
    table = "witch_hat,lost\nlost,unheard_of\nunheard_of,hat\nhat,headwear\n"
    freq_dir = counted(tmp_path, posts, table)
    cut = VocabSettings(keep_percentile=100, min_count=5)
    vocab = build_vocab(freq_dir, cut)
    assert set(vocab.tags) == {"witch_hat", "hat", "headwear"}
    general, character = Category.GENERAL.value, Category.CHARACTER.value
    pairs = [
        tuple((vocab.tags[i], list(Category)[vocab.categories[i]].value) for i in pair)
        for pair in vocab.implications.pairs.tolist()
    ]
    of_character = (("hat", character), ("headwear", general))
    # The name of a consequent is that of its most used tag, the character here.
    assert set(pairs) == {
        (("witch_hat", general), ("hat", character)), (("witch_hat", general), ("headwear", general)),
        (("hat", general), ("headwear", general)), of_character,
    }  # fmt: skip
    without = build_vocab(freq_dir, cut.model_copy(update={"character": CategoryCut(min_count=99)}))
    assert named_pairs(without) == {("witch_hat", "hat"), ("witch_hat", "headwear"), ("hat", "headwear")}


def test_frequencies_without_implications_make_a_vocabulary_without(tmp_path: Path) -> None:
    freq_dir = counted(tmp_path, [{"general": "a b"}] * 30)
    assert named_pairs(build_vocab(freq_dir, ALL)) == {("a", "b"), ("b", "a")}
    (freq_dir / "implications.parquet").unlink()
    assert read_implied_tags(freq_dir).num_rows == 0


def test_the_sample_implies_what_its_names_say(sample: Walked) -> None:
    pairs = named_pairs(sample.vocab)
    assert {("witch_hat", "hat"), ("hair_ribbon", "ribbon"), ("large_breasts", "breasts")} <= pairs
    assert ("hat", "witch_hat") not in pairs
    assert pq.read_schema(sample.freq_dir / "implications.parquet").names == IMPLIED_SCHEMA.names


def test_what_waits_on_the_disk_lies_outside_of_the_product(
    sample: Walked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[Path | None] = []
    real = module.scratch_folder
    monkeypatch.setattr(module, "scratch_folder", lambda folder: used.append(folder) or real(folder))
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    count_tags(sample.posts_dir, tmp_path / "out", ONE_THREAD, tmp_path / "scratch")
    assert used == [tmp_path / "scratch"]

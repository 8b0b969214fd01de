"""What the cut makes a vocabulary of, what it loses, and what other programs read of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tokenizers

from booru_embed_core.json_files import content_checksum
from booru_embed_core.schema import CATEGORIES, SPECIAL_TOKENS, UNKNOWN_TAGS, Category
from booru_embed_core.settings import CategoryCut, VocabSettings
from booru_embed_core.tags.build import (
    IMPLICATIONS_SCHEMA,
    LOST_SCHEMA,
    VOCAB_SCHEMA,
    build_vocab,
    save_vocab,
    what_is_lost,
)
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab, VocabError
from tests.core.export_helpers import Walked, write_frequencies

UNK = VocabSettings(keep_percentile=80, min_count=2, unpopular="unk")
COUNTED = {
    Category.GENERAL: [("1girl", 9), ("solo", 7), ("smile", 2), ("rare", 1)],
    Category.ARTIST: [("someone", 1)],
    Category.META: [("highres", 8)],
}


def test_ties_are_broken_by_bytes_and_settings_hold_by_category(tmp_path: Path) -> None:
    tied = [("B", 10), ("a", 10), ("b", 10), ("\u00e9", 10)]
    write_frequencies(tmp_path, {Category.GENERAL: tied, Category.ARTIST: tied, Category.META: [("rare", 4)]})
    settings = VocabSettings(keep_percentile=50, min_count=5, artist=CategoryCut(keep_percentile=100))
    vocab = build_vocab(tmp_path, settings)
    assert vocab.tags == ("B", "a", "B", "a", "b", "\u00e9")
    assert vocab.sizes == dict(zip(CATEGORIES, (2, 4, 0, 0, 0), strict=True))


def test_percentile_100_and_min_count_1_keep_all(sample: Walked) -> None:
    vocab = build_vocab(sample.freq_dir, VocabSettings(keep_percentile=100, min_count=1))
    assert vocab.sizes == {category: summary.num_tags for category, summary in sample.summaries.items()}


def test_ids_are_dense_and_local_ids_count_within_the_category(sample: Walked) -> None:
    vocab = sample.vocab
    table = pq.read_table(sample.vocab_dir / "vocab.parquet")
    assert table.schema.equals(VOCAB_SCHEMA)
    assert table["token_id"].to_pylist() == list(range(len(SPECIAL_TOKENS), vocab.num_tokens))
    seen = dict.fromkeys((category.value for category in CATEGORIES), 0)
    for entry in table.to_pylist():
        assert entry["local_id"] == seen[entry["category"]]
        category = Category(entry["category"])
        assert entry["token_id"] == vocab.first_token_id(category) + entry["local_id"]
        assert vocab.tags_of(category)[entry["local_id"]] == entry["tag"]
        seen[entry["category"]] += 1
    assert list(seen.values()) == [vocab.sizes[category] for category in CATEGORIES]
    assert vocab.category_offsets[-1] == vocab.num_tokens == vocab.num_special + vocab.num_tags
    order = [(CATEGORIES.index(Category(e["category"])), -e["count"], e["tag"].encode()) for e in table.to_pylist()]
    assert order == sorted(order)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_frequencies(tmp_path, {Category.GENERAL: [("a", 4)]})
    with pytest.raises(VocabError, match=r"no tag has min_count = 5 uses or more; lower \[vocab\] min_count"):
        build_vocab(tmp_path, VocabSettings())


def test_each_category_ends_with_its_unknown_token_that_counts_the_lost_uses(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    vocab = build_vocab(tmp_path, UNK)
    assert list(zip(vocab.tags, vocab.counts.tolist(), strict=True)) == [
        ("1girl", 9), ("solo", 7), ("unknown general", 3),
        ("unknown artist", 1),
        ("unknown copyright", 0),
        ("unknown character", 0),
        ("highres", 8), ("unknown meta", 0),
    ]  # fmt: skip
    assert vocab.sizes == dict(zip(CATEGORIES, (3, 1, 1, 1, 2), strict=True))
    assert [vocab.unknown_local_id(category) for category in CATEGORIES] == [2, 0, 0, 0, 1]
    assert vocab.is_unknown.tolist() == [False, False, True, True, True, True, False, True]
    for category in CATEGORIES:
        tag_index = vocab.first_token_id(category) + vocab.sizes[category] - 1 - vocab.num_special
        assert vocab.tags[tag_index] == UNKNOWN_TAGS[category]
        assert vocab.local_ids[tag_index] == vocab.unknown_local_id(category)


def test_dropping_makes_no_unknown_token_and_another_hash(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    dropping = build_vocab(tmp_path, UNK.model_copy(update={"unpopular": "drop"}))
    assert dropping.tags == ("1girl", "solo", "highres")
    assert [dropping.unknown_local_id(category) for category in CATEGORIES] == [None] * 5
    assert dropping.hash != build_vocab(tmp_path, UNK).hash


@pytest.mark.parametrize("unpopular", ["drop", "unk"])
def test_what_a_cut_loses_is_kept_with_the_vocabulary(tmp_path: Path, unpopular: str) -> None:
    write_frequencies(tmp_path, COUNTED)
    save_vocab(build_vocab(tmp_path, UNK.model_copy(update={"unpopular": unpopular})), tmp_path)
    loaded = Vocab.load(tmp_path)
    table = what_is_lost(loaded)
    assert table.schema.equals(LOST_SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("general", 2, 2, 16, 3, 3 / 19),
        ("artist", 0, 1, 0, 1, 1.0),
        ("copyright", 0, 0, 0, 0, 0.0),
        ("character", 0, 0, 0, 0, 0.0),
        ("meta", 1, 0, 8, 0, 0.0),
    ]
    assert what_is_lost(Vocab(loaded.tags, loaded.categories, loaded.counts)).num_rows == 0


def test_unknown_tokens_survive_the_disk_and_the_tokenizers_library_has_a_word_for_each(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    vocab = build_vocab(tmp_path, UNK)
    save_vocab(vocab, tmp_path)
    loaded = Vocab.load(tmp_path)
    assert (loaded.hash, loaded.tags, loaded.settings, loaded.lost) == (vocab.hash, vocab.tags, UNK, vocab.lost)
    assert loaded.is_unknown.tolist() == vocab.is_unknown.tolist()
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.get_vocab_size() == vocab.num_tokens
    for tag_index in np.flatnonzero(vocab.is_unknown).tolist():
        assert library.token_to_id(vocab.tags[tag_index]) == vocab.num_special + tag_index
    unknown = library.token_to_id("unknown tag")
    assert library.encode("1girl unknown artist solo").ids == [
        vocab.num_special,
        unknown,
        unknown,
        vocab.num_special + 1,
    ]


def test_a_vocabulary_of_unknown_tokens_alone_is_an_error(tmp_path: Path) -> None:
    write_frequencies(tmp_path, {Category.GENERAL: [("a", 4)]})
    with pytest.raises(VocabError, match="no tag has min_count = 5"):
        build_vocab(tmp_path, VocabSettings(unpopular="unk"))


def test_other_names_of_its_tags_travel_with_a_vocabulary_and_are_no_part_of_its_hash(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    aliases = {Category.GENERAL: {"1girls": "1girl", "scarce": "rare"}, Category.META: {"hires": "highres"}}
    plain, named = (build_vocab(tmp_path, UNK, aliases=known) for known in (None, aliases))
    assert named.hash == plain.hash
    assert (plain.aliases, named.aliases) == (
        {}, {Category.GENERAL: {"1girls": "1girl"}, Category.META: {"hires": "highres"}},
    )  # fmt: skip
    save_vocab(named, tmp_path)
    assert Vocab.load(tmp_path).aliases == named.aliases


def test_implications_travel_with_a_vocabulary_and_are_no_part_of_its_hash(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    plain = build_vocab(tmp_path, UNK)
    implying = replace(plain, implications=Implications.of_pairs(np.array([1]), np.array([0]), plain.num_tags))
    assert implying.hash == plain.hash
    save_vocab(implying, tmp_path)
    assert Vocab.load(tmp_path).implications.pairs.tolist() == [[1, 0]]
    table = pq.read_table(tmp_path / "implications.parquet")
    assert table.schema.equals(IMPLICATIONS_SCHEMA)
    assert [tuple(row.values()) for row in table.to_pylist()] == [("solo", "general", "1girl", "general")]


def test_a_vocabulary_from_before_implications_has_none(tmp_path: Path) -> None:
    write_frequencies(tmp_path, COUNTED)
    save_vocab(build_vocab(tmp_path, UNK), tmp_path)
    description = json.loads((tmp_path / "vocab.json").read_text())
    del description["implications"], description["checksum"]
    (tmp_path / "vocab.json").write_text(json.dumps({**description, "checksum": content_checksum(description)}))
    loaded = Vocab.load(tmp_path)
    assert loaded.implications.num_pairs == 0
    assert loaded.implications.num_tags == loaded.num_tags


@pytest.mark.parametrize("wrong", [{"0": "99"}, {"0": "x"}, {"one": "0"}, [1], {"-1": "0"}])
def test_implications_of_no_tags_are_an_error(tmp_path: Path, wrong: object) -> None:
    write_frequencies(tmp_path, COUNTED)
    save_vocab(build_vocab(tmp_path, UNK), tmp_path)
    description = json.loads((tmp_path / "vocab.json").read_text())
    description = {**description, "implications": wrong, "checksum": None}
    (tmp_path / "vocab.json").write_text(json.dumps({**description, "checksum": content_checksum(description)}))
    with pytest.raises(VocabError, match=r"vocab.json: .*; build the vocab again"):
        Vocab.load(tmp_path)

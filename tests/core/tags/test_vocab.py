"""What the cut makes a vocabulary of, and the vocabulary on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from export_helpers import Walked, write_frequencies

from booru_embed_core.schema import CATEGORIES, SPECIAL_TOKENS, UNKNOWN_TAGS, Category
from booru_embed_core.settings import CategoryCut, VocabSettings
from booru_embed_core.tags.vocab import LOST_SCHEMA, VOCAB_SCHEMA, Vocab, VocabError, build_vocab, what_is_lost


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


def test_the_description_says_what_is_inside(sample: Walked) -> None:
    description = json.loads((sample.vocab_dir / "vocab.json").read_text(encoding="utf-8"))
    assert description["sha256"] == sample.vocab.hash
    assert description["special_ids"] == {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    assert description["sizes"] == {category.value: size for category, size in sample.vocab.sizes.items()}
    assert VocabSettings.model_validate(description["settings"]) == sample.vocab.settings == VocabSettings()


def test_a_loaded_vocab_is_the_saved_one_to_the_byte(sample: Walked, tmp_path: Path) -> None:
    loaded = Vocab.load(sample.vocab_dir)
    assert (loaded.hash, loaded.tags, loaded.settings) == (sample.vocab.hash, sample.vocab.tags, sample.vocab.settings)
    loaded.save(tmp_path)
    for name in ("vocab.parquet", "vocab.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (sample.vocab_dir / name).read_bytes(), name


def test_the_hash_sees_order_category_and_count_but_no_settings() -> None:
    def hash_of(tags: str, categories: list[int], counts: list[int], settings: VocabSettings | None = None) -> str:
        return Vocab(
            tuple(tags), np.array(categories, np.uint8), np.array(counts, np.int64), settings or VocabSettings()
        ).hash

    base = hash_of("ab", [0, 1], [3, 2])
    others = [hash_of("ba", [0, 1], [3, 2]), hash_of("ab", [0, 0], [3, 2]), hash_of("ab", [0, 1], [3, 1])]
    assert len({base, *others}) == 4
    assert hash_of("ab", [0, 1], [3, 2], VocabSettings(keep_percentile=50)) == base


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_frequencies(tmp_path, {Category.GENERAL: [("a", 4)]})
    with pytest.raises(VocabError, match=r"no tag has min_count = 5 uses or more; lower \[vocab\] min_count"):
        build_vocab(tmp_path, VocabSettings())


def reseal(vocab_dir: Path, **changed: object) -> None:
    """Makes ``vocab.json`` fit the other files again, as somebody would who writes vocabularies by another program."""
    file = vocab_dir / "vocab.json"
    description = json.loads(file.read_text(encoding="utf-8")) | changed
    for name in description["files"]:
        description["files"][name] = hashlib.sha256((vocab_dir / name).read_bytes()).hexdigest()
    del description["checksum"]
    text = json.dumps(description, sort_keys=True)
    file.write_text(json.dumps({**description, "checksum": hashlib.sha256(text.encode()).hexdigest()}))


def change_table(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def apply(vocab_dir: Path) -> None:
        pq.write_table(change(pq.read_table(vocab_dir / "vocab.parquet")), vocab_dir / "vocab.parquet")
        reseal(vocab_dir)

    return apply


def swap_two_tags(table: pa.Table) -> pa.Table:
    tags = table["tag"].to_pylist()
    tags[0], tags[1] = tags[1], tags[0]
    return table.set_column(2, "tag", pa.array(tags))


def shift_token_ids(table: pa.Table) -> pa.Table:
    return table.set_column(0, "token_id", pa.array([n + 1 for n in table["token_id"].to_pylist()], pa.int32()))


def spell_counts(table: pa.Table) -> pa.Table:
    return table.set_column(3, "count", pa.array(["many"] * len(table)))


def break_table(vocab_dir: Path) -> None:
    (vocab_dir / "vocab.parquet").write_bytes(b"PAR1 none")
    reseal(vocab_dir)


def text_of(name: str, text: str) -> Callable[[Path], object]:
    return lambda vocab_dir: (vocab_dir / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: reseal(folder, sha256="0ab"), r"vocab\.json: its sha256 '0ab' is not that of vocab\.parquet "),
        (change_table(swap_two_tags), r"vocab\.json: its sha256 .* is not that of"),
        (change_table(shift_token_ids), r"vocab\.json: its sha256 .* is not that of"),
        (
            change_table(lambda table: table.drop_columns("count")),
            r"vocab\.parquet: columns token_id,category,tag,local_id instead of",
        ),
        (change_table(spell_counts), r"vocab\.json: unknown category, type or settings"),
        (lambda folder: reseal(folder, settings={"min_count": -1}), r"vocab\.json: unknown category, type or settings"),
        (
            lambda folder: reseal(folder, format_version=1),
            r"vocab\.json: format_version 1 instead of 2; build the vocab",
        ),
        (break_table, r"vocab\.parquet: not a readable vocab"),
        (text_of("vocab.json", "{"), r"vocab\.json: not a readable vocab"),
        (text_of("vocab.json", "[" * 100_000), r"vocab\.json: not a readable vocab"),
        (text_of("vocab.json", "[]"), "format_version None"),
        (text_of("vocab.json", '{"format_version": 2}'), r"vocab\.json: was changed: its checksum is another"),
        (text_of("tokenizer.json", "{}"), r"tokenizer\.json: was changed or belongs to another vocab"),
        (lambda folder: (folder / "tokenizer.json").unlink(), r"tokenizer\.json: no such file; build the vocab first"),
        (lambda folder: (folder / "vocab.parquet").unlink(), r"vocab\.parquet: no such file; build the vocab first"),
        (shutil.rmtree, r"vocab\.json: no such file; build the vocab first"),
    ],
)
def test_a_damaged_vocab_is_refused_in_one_line(sample: Walked, tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "vocab"
    shutil.copytree(sample.vocab_dir, folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(VocabError, match=message) as caught:
        Vocab.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


UNK = VocabSettings(keep_percentile=80, min_count=2, unpopular="unk")
COUNTED = {
    Category.GENERAL: [("1girl", 9), ("solo", 7), ("smile", 2), ("rare", 1)],
    Category.ARTIST: [("someone", 1)],
    Category.META: [("highres", 8)],
}


def test_the_hash_of_a_vocabulary_without_unknown_tokens_stays_what_it_was() -> None:
    """The literal is of the code before unknown tokens: packed files and checkpoints name their vocabulary by it."""
    vocab = Vocab(
        ("1girl", "solo", "someone", "original"), np.array([0, 0, 1, 2], np.uint8), np.array([9, 7, 3, 2], np.int64)
    )
    assert vocab.hash == "217c6a334664f95bd6927fb9d6cde2c3866d912cae0eab55596f753c93bf87b7"
    assert not vocab.is_unknown.any()


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
    build_vocab(tmp_path, UNK.model_copy(update={"unpopular": unpopular})).save(tmp_path)
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
    vocab.save(tmp_path)
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


@pytest.mark.parametrize("name", ["vocab.parquet", "vocab.json", "tokenizer.json"])
def test_any_flipped_bit_and_any_cut_is_refused_by_name_or_harmless(sample: Walked, tmp_path: Path, name: str) -> None:
    shutil.copytree(sample.vocab_dir, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(7)
    places = generator.integers(0, len(content), 150).tolist()
    flips = [content[:p] + bytes([content[p] ^ 1 << bit]) + content[p + 1 :] for p in places for bit in (p % 8, 5)]
    num_read = 0
    for damaged in (*flips, *(content[:place] for place in (0, 1, *places, len(content) - 2))):
        (tmp_path / name).write_bytes(damaged)
        try:
            loaded = Vocab.load(tmp_path)
        except VocabError as error:
            assert str(tmp_path / name) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert name == "vocab.json", "only white space between JSON's signs may change"
            assert (loaded.hash, loaded.settings) == (sample.vocab.hash, sample.vocab.settings)
            num_read += 1
    assert num_read < len(places)


def test_files_of_another_vocab_are_refused_by_name(sample: Walked, tmp_path: Path) -> None:
    other = build_vocab(sample.freq_dir, VocabSettings(keep_percentile=50))
    other.save(tmp_path)
    for name in ("vocab.parquet", "tokenizer.json"):
        folder = tmp_path / f"with-{name}"
        shutil.copytree(sample.vocab_dir, folder)
        shutil.copy(tmp_path / name, folder)
        with pytest.raises(VocabError, match=rf"/{name}: was changed or belongs to another vocab: .*build the vocab"):
            Vocab.load(folder)

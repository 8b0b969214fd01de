"""The cut, its cost curve, and the vocabulary on disk."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from export_helpers import Walked
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.manifest import write_manifest
from booru_embed_core.schema import CATEGORIES, SPECIAL_TOKENS, Category
from booru_embed_core.settings import CategoryCut, VocabSettings
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA, frequency_file, read_frequencies
from booru_embed_core.tags.vocab import (
    COST_PERCENTILES,
    COST_SCHEMA,
    VOCAB_SCHEMA,
    Vocab,
    VocabError,
    build_vocab,
    cost_curve,
    cut_size,
    write_vocab_cost,
)


def write_frequencies(freq_dir: Path, counts: dict[Category, list[tuple[str, int]]]) -> None:
    for category in CATEGORIES:
        rows = [{"tag": tag, "count": count, "cumulative_share": 0.0} for tag, count in counts.get(category, [])]
        pq.write_table(pa.Table.from_pylist(rows, schema=FREQUENCY_SCHEMA), frequency_file(freq_dir, category))
    write_manifest(freq_dir)


def naive_cut(counts: list[int], percentile: str, min_count: int) -> int:
    """Tags taken one by one until their uses reach the percentile, in whole fractions."""
    kept, uses = 0, 0
    while kept < len(counts) and Fraction(uses, sum(counts)) < Fraction(percentile) / 100:
        uses += counts[kept]
        kept += 1
    return sum(count >= min_count for count in counts[:kept])


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=30).map(lambda counts: sorted(counts, reverse=True)),
    percentile=st.decimals(min_value="0.01", max_value=100, places=2),
    min_count=st.integers(1, 20),
)
def test_the_cut_is_the_naive_one(counts: list[int], percentile: object, min_count: int) -> None:
    array = np.array(counts, dtype=np.int64)
    assert cut_size(array, float(str(percentile)), min_count) == naive_cut(counts, str(percentile), min_count)


@pytest.mark.parametrize("percentile", COST_PERCENTILES)
def test_a_prefix_that_makes_the_percentile_exactly_is_enough(percentile: float) -> None:
    """10,000 uses, the first tag having just the percentile of them: no float may ask for one more."""
    first = int(Fraction(str(percentile)) * 100)
    counts = np.array([first, *[1] * (10_000 - first)], dtype=np.int64)
    assert cut_size(counts, percentile, 1) == 1
    if first < 10_000:
        one_less = np.array([first - 1, *[1] * (10_001 - first)], dtype=np.int64)
        assert cut_size(one_less, percentile, 1) == 2


def test_the_cut_of_counts_beyond_float_precision_is_exact() -> None:
    counts = np.array([2**61, 2**61 - 1, 1], dtype=np.int64)
    assert cut_size(counts, 50, 1) == 1
    assert cut_size(counts - np.array([1, 0, 0]), 50, 1) == 2
    assert cut_size(counts, 100, 1) == 3


def test_an_empty_category_keeps_nothing() -> None:
    assert cut_size(np.empty(0, dtype=np.int64), 100, 1) == 0


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


def test_the_cost_curve_agrees_with_the_cuts(sample: Walked, tmp_path: Path) -> None:
    table = write_vocab_cost(sample.freq_dir, tmp_path)
    assert table.schema.equals(COST_SCHEMA)
    assert pq.read_table(tmp_path / "vocab_cost.parquet").equals(table)
    assert cost_curve(sample.freq_dir).equals(table)
    frequencies = read_frequencies(sample.freq_dir)
    for entry in table.to_pylist():
        category = Category(entry["category"])
        counts = frequencies[category]["count"].to_pylist()
        kept = counts[: entry["vocab_size"]]
        assert len(kept) == naive_cut(counts, str(entry["percentile"]), 1)
        assert entry["min_count"] == (kept[-1] if kept else 0)
        assert entry["coverage"] == (sum(kept) / sum(counts) if counts else 1)
        assert entry["coverage"] >= entry["percentile"] / 100
    assert {entry["percentile"] for entry in table.to_pylist()} >= {50.0, 90.0, 99.1, 99.9, 100.0}

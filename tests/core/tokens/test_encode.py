"""Packed records against the export as Python's csv module reads it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from booru_embed_core.posts import parquet_parts as parts_module
from booru_embed_core.posts.parquet_parts import part_files
from booru_embed_core.posts.validation import TooManyRejectsError
from booru_embed_core.schema import CATEGORIES, RATINGS, UNKNOWN_TAGS, Category, tag_column
from booru_embed_core.settings import DuckdbSettings, TokensSettings, VocabSettings
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import VocabError
from booru_embed_core.tokens import encode as encode_module
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from tests.core.export_helpers import ONE_THREAD, Walked, csv_bytes, hostile_rows, kept, record_fields, row, walk


def assert_decodes_to(walked: Walked, rows: Sequence[Mapping[str, str]]) -> None:
    """Every record, decoded by hand, holds the row's distinct tags in the vocabulary, in order."""
    vocab, packed = walked.vocab, walked.packed
    assert packed.num_posts == len(rows)
    known = {category: vocab.tags_of(category) for category in CATEGORIES}
    known_sets = {category: set(tags) for category, tags in known.items()}
    tokens, lengths = packed.tokens.tolist(), packed.field_lengths.tolist()
    place = 0
    for post_index, post in enumerate(rows):
        assert packed.offsets[post_index] == place
        for category, length in zip(CATEGORIES, lengths[post_index], strict=True):
            decoded = [known[category][local_id] for local_id in tokens[place : place + length]]
            place += length
            tags = dict.fromkeys(post[tag_column(category)].split(" "))
            assert decoded == [tag for tag in tags if tag in known_sets[category]], post["id"]
    assert packed.num_tokens == place
    assert packed.post_id.tolist() == [int(post["id"]) for post in rows]
    assert packed.score.tolist() == [int(post["score"]) for post in rows]
    assert [RATINGS[rating] for rating in packed.rating] == [post["rating"] for post in rows]


def assert_reconciles(walked: Walked) -> None:
    report = walked.encode_report
    vocab = walked.vocab
    for category, summary in walked.summaries.items():
        rest = report.dropped_uses[category] + report.unknown_uses[category]
        assert report.kept_uses[category] + rest == summary.num_uses, category
        is_kept = (vocab.categories == CATEGORIES.index(category)) & ~vocab.is_unknown
        assert report.kept_uses[category] == vocab.counts[is_kept].sum()
    num_unknown = vocab.is_unknown[walked.packed.global_token_ids(vocab) - vocab.num_special].sum()
    assert report.num_tokens == sum(report.kept_uses.values()) + num_unknown


@pytest.mark.slow
def test_the_whole_sample_decodes_to_what_the_csv_module_reads(
    sample: Walked, sample_rows: list[dict[str, str]]
) -> None:
    assert len(sample_rows) == 54_763
    assert_decodes_to(sample, sample_rows)


def test_uses_kept_and_dropped_reconcile_with_the_frequencies(sample: Walked) -> None:
    assert_reconciles(sample)
    report = sample.encode_report
    assert min(report.dropped_uses[Category.GENERAL], report.kept_uses[Category.GENERAL]) > 0
    assert report.file_bytes == sample.packed_path.stat().st_size
    assert (report.num_posts, report.num_tokens) == (sample.packed.num_posts, sample.packed.num_tokens)


def test_global_ids_decode_to_the_same_tags(sample: Walked) -> None:
    token_ids = sample.packed.global_token_ids(sample.vocab)
    categories = sample.vocab.categories[token_ids - sample.vocab.num_special]
    np.testing.assert_array_equal(categories, sample.packed.token_categories())
    local_ids = sample.vocab.local_ids[token_ids - sample.vocab.num_special]
    np.testing.assert_array_equal(local_ids, sample.packed.tokens)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=hostile_rows(),
    min_count=st.integers(1, 2),
    group_posts=st.sampled_from([2, 1_000]),
)
def test_hostile_exports_survive_the_whole_path(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, object]],
    min_count: int,
    group_posts: int,
) -> None:
    monkeypatch.setattr(parts_module, "ROW_GROUP_POSTS", group_posts)
    uses = [(category, tag) for post in rows for category in CATEGORIES for tag in _tags(post, category)]
    assume(any(uses.count(use) >= min_count for use in uses))
    work = tmp_path_factory.mktemp("walk")
    (work / "export.csv").write_bytes(csv_bytes(rows))
    walked = walk(work / "export.csv", work, VocabSettings(keep_percentile=100, min_count=min_count))
    text = (work / "export.csv").read_bytes().decode()
    assert_decodes_to(walked, list(csv.DictReader(io.StringIO(text, newline=""))))
    assert_reconciles(walked)


def _tags(post: Mapping[str, object], category: Category) -> set[str]:
    return set(str(post[tag_column(category)]).split(" ")) - {""}


def test_repeats_spaces_and_unknown_tags(tmp_path: Path) -> None:
    rows = [row(1, " b a  b a ", meta="m"), row(2, "once once"), row(3, "a b"), row(4, "", meta="m m")]
    (tmp_path / "export.csv").write_bytes(csv_bytes(rows))
    walked = walk(tmp_path / "export.csv", tmp_path, VocabSettings(keep_percentile=100, min_count=2))
    assert walked.vocab.tags == ("a", "b", "m")
    assert walked.packed.tokens.tolist() == [1, 0, 0, 0, 1, 0]
    assert walked.packed.offsets.tolist() == [0, 3, 3, 5, 6]
    report = walked.encode_report
    assert report.dropped_uses[Category.GENERAL] == 1
    assert report.num_posts_without_tags == 1
    assert_reconciles(walked)


def test_an_unknown_token_ends_each_field_with_a_tag_beyond_the_vocabulary(tmp_path: Path) -> None:
    rows = [row(1, "a x y w"), row(2, "a b", artist="z"), row(3, "y", meta="m"), row(4, "", meta="m")]
    (tmp_path / "export.csv").write_bytes(csv_bytes(rows))
    walked = walk(tmp_path / "export.csv", tmp_path, VocabSettings(keep_percentile=100, min_count=2, unpopular="unk"))
    general, artist = UNKNOWN_TAGS[Category.GENERAL], UNKNOWN_TAGS[Category.ARTIST]
    assert [
        [
            walked.vocab.tags[token_id - walked.vocab.num_special]
            for token_id in walked.packed.record_token_ids(post, walked.vocab)
        ]
        for post in range(4)
    ] == [["a", "y", general], ["a", general, artist], ["y", "m"], ["m"]]
    report = walked.encode_report
    assert report.dropped_uses == dict.fromkeys(CATEGORIES, 0)
    assert report.unknown_uses == dict.fromkeys(CATEGORIES, 0) | {Category.GENERAL: 3, Category.ARTIST: 1}
    assert_reconciles(walked)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows(), min_count=st.integers(1, 2))
def test_posts_are_encoded_as_the_tokenizer_does(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]], min_count: int
) -> None:
    work = tmp_path_factory.mktemp("walk")
    (work / "export.csv").write_bytes(csv_bytes(rows))
    vocab_settings = VocabSettings(keep_percentile=100, min_count=min_count, unpopular="unk")
    try:
        walked = walk(work / "export.csv", work, vocab_settings)
    except VocabError:
        assume(False)
    tokenizer = Tokenizer(walked.vocab)
    for post_index, post in enumerate(kept(rows)):
        expected = tokenizer.encode_fields(record_fields(post))
        assert walked.packed.record_token_ids(post_index, walked.vocab).tolist() == list(expected.token_ids)
    assert_reconciles(walked)


def test_row_groups_and_threads_give_the_same_bytes(
    sample: Walked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts_module, "ROW_GROUP_POSTS", 10_000)
    walked = walk(sample.export, tmp_path, sample.vocab.settings, DuckdbSettings(threads=2))
    assert pq.read_metadata(part_files(walked.posts_dir)[0]).num_row_groups == 6
    assert walked.packed_path.read_bytes() == sample.packed_path.read_bytes()


@pytest.mark.parametrize("unpopular", ["drop", "unk"])
def test_slices_and_common_look_ups_change_no_byte(
    sample: Walked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unpopular: str
) -> None:
    frequencies = tmp_path / "frequencies"
    frequencies.mkdir()
    count_tags(sample.posts_dir, frequencies, ONE_THREAD)
    vocab = build_vocab(frequencies, VocabSettings(keep_percentile=90, unpopular=unpopular))
    content = set()
    for at_a_time, together in ((1 << 20, 1), (1_000, 3)):
        monkeypatch.setattr(encode_module, "_POSTS_AT_A_TIME", at_a_time)
        monkeypatch.setattr(encode_module, "_LOOKED_UP_TOGETHER", together)
        report = encode_posts(sample.posts_dir, vocab, tmp_path, TokensSettings())
        content.add(((tmp_path / PACKED_FILE).read_bytes(), report.to_json()))
    assert len(content) == 1
    assert sum(report.dropped_uses.values()) > 0 if unpopular == "drop" else sum(report.unknown_uses.values()) > 0


def test_a_big_category_takes_32_bits(sample: Walked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sample.packed.tokens.dtype == np.uint16
    limit = max(sample.vocab.sizes.values())
    for name, max_tags, dtype in (("fits", limit, np.uint16), ("over", limit - 1, np.uint32)):
        monkeypatch.setattr(encode_module, "MAX_U16_TAGS", max_tags)
        (tmp_path / name).mkdir()
        encode_posts(sample.posts_dir, sample.vocab, tmp_path / name, TokensSettings())
        packed = PackedFile.open(tmp_path / name / PACKED_FILE, sample.vocab.hash)
        assert packed.tokens.dtype == dtype
        np.testing.assert_array_equal(packed.tokens, sample.packed.tokens)


def test_a_field_of_more_tags_than_16_bits_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode_module, "MAX_FIELD_TAGS", 2)
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(4, "a b"), row(5, "a", character="x y z")]))
    with pytest.raises(ValueError, match="post 5: 3 tags in character, more than 2; remove the post"):
        walk(tmp_path / "export.csv", tmp_path)


def test_a_field_of_exactly_as_many_tags_as_16_bits_count_is_encoded(tmp_path: Path) -> None:
    tags = [f"t{number:05}" for number in range(2**16)]
    for name, num_tags in (("most", 2**16 - 1), ("more", 2**16)):
        (tmp_path / f"{name}.csv").write_bytes(csv_bytes([row(1, " ".join(tags[:num_tags]))]))
    packed = walk(tmp_path / "most.csv", tmp_path / "most").packed
    assert packed.field_lengths.tolist() == [[2**16 - 1, 0, 0, 0, 0]]
    assert sorted(packed.tokens.tolist()) == list(range(2**16 - 1))
    with pytest.raises(TooManyRejectsError, match="line 2: 65536 tags, more than 65535"):
        walk(tmp_path / "more.csv", tmp_path / "more")


def test_the_vocab_of_other_posts_may_know_nothing(sample: Walked, tmp_path: Path) -> None:
    (tmp_path / "export.csv").write_bytes(csv_bytes([row(1, "no_such_tag")]))
    walked = walk(tmp_path / "export.csv", tmp_path)
    out_dir = tmp_path / "out"
    out_dir.mkdir()
    report = encode_posts(walked.posts_dir, sample.vocab, out_dir, TokensSettings())
    assert (report.num_tokens, report.num_posts_without_tags) == (0, 1)
    assert PackedFile.open(out_dir / PACKED_FILE).num_posts == 1
    assert sum(report.dropped_uses.values()) == count_tags(walked.posts_dir, out_dir, ONE_THREAD)["general"].num_uses

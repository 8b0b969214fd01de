"""Any tags, from any kind of export, through the whole data path and back, compared with a count in plain Python."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import CATEGORIES, RATINGS, Category, tag_column
from booru_embed_core.tags.frequency import read_frequencies
from tests.core.export_helpers import Walked, csv_bytes, hostile_rows, row, walk

pytestmark = pytest.mark.slow

Rows = Sequence[Mapping[str, object]]


def tsv_bytes(rows: Rows) -> bytes:
    return csv_bytes(rows, delimiter="\t")


def json_bytes(rows: Rows) -> bytes:
    return "".join(json.dumps(post, ensure_ascii=False) + "\n" for post in rows).encode()


def escaped_json_bytes(rows: Rows) -> bytes:
    return "".join(json.dumps(post) + "\n" for post in rows).encode()


def parquet_bytes(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out)
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


KINDS: dict[str, Callable[[Rows], bytes]] = {
    "export.csv": csv_bytes,
    "windows.csv": lambda rows: b"\xef\xbb\xbf" + csv_bytes(rows, newline="\r\n"),
    "export.csv.gz": lambda rows: gzip.compress(csv_bytes(rows)),
    "export.csv.zst": lambda rows: zstd(csv_bytes(rows)),
    "export.tsv": tsv_bytes,
    "export.tsv.gz": lambda rows: gzip.compress(tsv_bytes(rows)),
    "export.jsonl": json_bytes,
    "escaped.jsonl.gz": lambda rows: gzip.compress(escaped_json_bytes(rows)),
    "export.jsonl.zst": lambda rows: zstd(json_bytes(rows)),
    "export.parquet": parquet_bytes,
}


def tags_of(post: Mapping[str, object], category: Category) -> list[str]:
    """A field's tags in its order, each once."""
    return list(dict.fromkeys(tag for tag in str(post[tag_column(category)]).split(" ") if tag))


def check(walked: Walked, rows: Rows) -> None:
    """Asserts that frequencies and packed file hold exactly the posts of `rows`."""
    packed, vocab = walked.packed, walked.vocab
    assert walked.report.num_kept == packed.num_posts == len(rows)
    for index, post in enumerate(rows):
        indices = (packed.record_token_ids(index, vocab) - vocab.num_special).tolist()
        found: dict[Category, list[str]] = {category: [] for category in CATEGORIES}
        for tag_index in indices:
            found[CATEGORIES[vocab.categories[tag_index]]].append(vocab.tags[tag_index])
        assert found == {category: tags_of(post, category) for category in CATEGORIES}
        values = packed.post_id[index], RATINGS[packed.rating[index]], packed.score[index]
        assert values == (post["id"], post["rating"], post["score"])
    for category, table in read_frequencies(walked.freq_dir).items():
        counts = Counter(tag for post in rows for tag in tags_of(post, category))
        assert dict(zip(table["tag"].to_pylist(), table["count"].to_pylist(), strict=True)) == counts


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=hostile_rows())
def test_any_tags_survive_from_any_kind_of_export(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("round")
    rows = [*rows, row(next(number for number in range(9) if number not in {post["id"] for post in rows}))]
    (folder / name).write_bytes(KINDS[name](rows))
    check(walk(folder / name, folder / "work"), rows)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tags=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \r\n"), min_size=1, max_size=255),
        min_size=1,
        max_size=20,
        unique=True,
    )
)
def test_any_set_of_long_tags_survives(tmp_path_factory: pytest.TempPathFactory, tags: list[str]) -> None:
    folder = tmp_path_factory.mktemp("round")
    rows = [row(1, " ".join(tags), artist=tags[0]), row(2, " ".join(reversed(tags)), meta=tags[-1])]
    (folder / "export.csv").write_bytes(csv_bytes(rows))
    check(walk(folder / "export.csv", folder / "work"), rows)


@pytest.mark.parametrize("break_", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("name", ["export.csv", "export.tsv", "export.jsonl", "export.parquet"])
def test_a_line_break_inside_a_tag_costs_its_own_post(
    tmp_path_factory: pytest.TempPathFactory, name: str, break_: str
) -> None:
    folder = tmp_path_factory.mktemp("round")
    rows = [row(1), row(2, f"line{break_}break"), row(3)]
    (folder / name).write_bytes(KINDS[name](rows))
    walked = walk(folder / name, folder / "work")
    check(walked, [rows[0], rows[2]])
    assert walked.report.num_rejected == 1

"""Old names are replaced in their category's field alone, counted, and never a tag that is one."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from export_helpers import ONE_THREAD, csv_bytes, read_rows, row
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.files import read_posts
from booru_embed_core.posts.parts import POSTS_SCHEMA
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, Category, tag_column
from booru_embed_core.settings import PostsSettings

TABLE = """name,category,post_count,aliases
1girl,0,6008644,1girls sole_female
highres,5,5256195,high_res hires
":,",0,900,"comma ,"
solo,0,50,1girl hires sole_female
"""


@pytest.fixture
def aliases(tmp_path: Path) -> Aliases:
    file = tmp_path / "tags.csv.gz"
    file.write_bytes(gzip.compress(TABLE.encode()))
    return Aliases.load(file)


def test_aliases_count_in_their_category_and_a_tag_is_never_replaced(aliases: Aliases) -> None:
    rows = [
        row(1, "sole_female solo 1girl", meta="high_res hires highres"),
        row(2, "high_res hires", artist="1girls"),
        row(3, "comma , 1girls"),
        row(4, "", meta="absurdres"),
    ]
    posts = pa.RecordBatch.from_pylist(rows, POSTS_SCHEMA)
    replaced, num_replaced = aliases.apply(posts)
    names = ("tag_string_general", "tag_string_artist", "tag_string_meta")
    assert [tuple(post[name] for name in names) for post in replaced.to_pylist()] == [
        ("1girl solo", "", "highres"),
        ("high_res solo", "1girls", ""),
        (":, 1girl", "", ""),
        ("", "", "absurdres"),
    ]
    assert num_replaced == 1 + 2 + 1 + 3


FIELD = st.lists(st.sampled_from(["a", "b", "c", "old_a", "old_b", "\u3000", ","]), max_size=6).map(" ".join)


@given(fields=st.lists(st.tuples(FIELD, FIELD), max_size=6))
def test_replacing_is_what_a_loop_over_tags_does(fields: list[tuple[str, str]]) -> None:
    tag_of = {Category.GENERAL: {"old_a": "a", "old_b": "b"}, Category.META: {"old_a": "c"}}
    rows = [row(number, general, meta=meta) for number, (general, meta) in enumerate(fields)]
    replaced, num_replaced = Aliases(tag_of).apply(pa.RecordBatch.from_pylist(rows, POSTS_SCHEMA))
    expected, count = [], 0
    for post in rows:
        for category in CATEGORIES:
            tags = str(post[tag_column(category)]).split(" ")
            hits = [tag for tag in tags if tag in tag_of.get(category, {})]
            if hits:
                names = tag_of[category]
                post[tag_column(category)] = " ".join(dict.fromkeys(names.get(tag, tag) for tag in tags))
                count += len(hits)
        expected.append(post)
    assert (replaced.to_pylist(), num_replaced) == (expected, count)


def test_kept_posts_alone_are_counted(aliases: Aliases, tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_bytes(csv_bytes([row(1, "1girls"), row(1, "1girls"), row(2)]))
    files[1].write_bytes(csv_bytes([row(3, "sole_female 1girls x"), row(4, "1girls", rating="e")]))
    out_dir = tmp_path / "posts"
    out_dir.mkdir()
    report = read_posts(files, out_dir, PostsSettings(ratings=("s",)), ONE_THREAD, aliases=aliases)
    assert [post["tag_string_general"] for post in read_rows(out_dir)] == ["1girl", "1girl", "1girl x"]
    assert (report.num_aliases, [counts.num_aliases for counts in report.files]) == (3, [1, 2])
    assert report.reconciles


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n", r"found the columns 'a,b', wanted tag,category,aliases"),
        (b"tag,category,aliases\nx,0,y\nz,2,\n", r"line 3: 'z,2,' is no tag with a category of 0, 1, 3, 4, 5; mend"),
        (b"tag,category,aliases\nx,0\n", r"line 2: 'x,0' is no tag"),
        (b"tag,category,aliases\n\xff,0,\n", r"not a CSV file in UTF-8 .*mend it or remove \[posts\] aliases"),
        (None, r"no such file; correct \[posts\] aliases"),
    ],
)
def test_what_is_no_table_of_aliases_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tags.csv").write_bytes(content)
    with pytest.raises(ExportError, match=r"tags\.csv:? " + message):
        Aliases.load(tmp_path / "tags.csv")

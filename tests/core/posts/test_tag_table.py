"""Tables of tags: which lines are read, and what is told of those that cannot be."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from booru_embed_core.posts.tag_table import read_tag_table
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import Category


def test_lines_come_in_order_with_the_columns_that_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "tags.csv.gz"
    file.write_bytes(gzip.compress(b'\xef\xbb\xbfpost_count,category,name,aliases\n9,4,miku,"a b"\n\n8,0,"a,b",\n'))
    assert list(read_tag_table(file, "aliases", ["aliases", "post_count"])) == [
        ("miku", Category.CHARACTER, ["a b", "9"]),
        ("a,b", Category.GENERAL, ["", "8"]),
    ]
    assert [tag for tag, _, _ in read_tag_table(file, "tag_categories")] == ["miku", "a,b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"tag,group\na,0\n", r"found the columns 'tag,group', wanted tag,category,aliases"),
        (b"", r"found the columns '', wanted tag,category"),
        (
            b"tag,category,aliases\na,2,\n",
            r"tags\.csv line 2: 'a,2,' is no tag with a category of 0, 1, 3, 4, 5; c",
        ),
        (b"tag,category,aliases\na,0\n", r"tags\.csv line 2: 'a,0' is no tag"),
        (
            b"tag,category,aliases\n\xff,0,\n",
            r"not a CSV file in UTF-8 .*; correct it or remove \[posts\] some_set",
        ),
        (b'tag,category,aliases\n"a,0,\n', r"not a CSV file in UTF-8"),
    ],
)
def test_what_is_no_table_of_tags_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "tags.csv"
    file.write_bytes(content)
    with pytest.raises(ExportError, match=message):
        list(read_tag_table(file, "some_setting", ["aliases"]))


def test_a_missing_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.csv: no such file; correct \[posts\] some_setting"):
        list(read_tag_table(tmp_path / "none.csv", "some_setting"))

"""Old names are replaced in their category's field alone, counted, and never a tag that is one."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from itertools import product
from pathlib import Path

import pyarrow as pa
import pytest

from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.posts.tag_lists import TagLists
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, Category, tag_column
from booru_embed_core.settings import PostsSettings
from tests.core.export_helpers import ONE_THREAD, csv_bytes, read_rows, row

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


@pytest.mark.parametrize(
    ("category", "fields", "expected", "num_replaced"),
    [
        (Category.GENERAL, ["sole_female solo 1girl", "high_res hires", "comma , 1girls", ""],
         ["1girl solo", "high_res solo", ":, 1girl", ""], 1 + 1 + 3),
        (Category.META, ["high_res hires highres", "", "sole_female", "absurdres"],
         ["highres", "", "sole_female", "absurdres"], 2),
        (Category.ARTIST, ["1girls", "hires"], ["1girls", "hires"], 0),
    ],
)  # fmt: skip
def test_aliases_count_in_their_category_and_a_tag_is_never_replaced(
    aliases: Aliases, category: Category, fields: list[str], expected: list[str], num_replaced: int
) -> None:
    lists, count = aliases.apply(TagLists.split(pa.array(fields)), category)
    assert [" ".join(tags) for tags in lists.without_repeats()[0].to_arrow().to_pylist()] == expected
    assert count == num_replaced


def test_kept_posts_alone_are_counted(aliases: Aliases, tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    files[0].write_bytes(csv_bytes([row(1, "1girls"), row(1, "1girls"), row(2)]))
    files[1].write_bytes(csv_bytes([row(3, "sole_female 1girls x"), row(4, "1girls", rating="e")]))
    out_dir = tmp_path / "posts"
    out_dir.mkdir()
    report = read_posts(files, out_dir, PostsSettings(ratings=("s",)), ONE_THREAD, aliases=aliases)
    assert [post["tag_string_general"] for post in read_rows(out_dir)] == ["1girl", "1girl", "1girl x"]
    assert (report.num_aliases, report.num_repeats) == (3, 1)
    assert report.reconciles


def test_the_bundled_table_is_of_the_samples_tags_and_names_them_as_they_are_called_today(
    sample_rows: list[dict[str, str]],
) -> None:
    file = Path(__file__).parents[3] / "data/sample/tags.csv"
    tag_of = Aliases.load(file).tag_of
    replaced: Counter[tuple[str, str]] = Counter()
    tags: set[str] = set()
    for post, category in product(sample_rows, CATEGORIES):
        names = post[tag_column(category)].split()
        tags.update(names)
        replaced.update((name, tag_of[category][name]) for name in names if name in tag_of.get(category, {}))
    assert replaced["bunny_ears", "rabbit_ears"] == 2_237
    assert (len(replaced), replaced.total()) == (12, 10_457)  # as data/sample/README.md says
    assert "nekomimi" not in tags
    assert tag_of[Category.GENERAL]["nekomimi"] == "cat_ears"
    of_sample = tags | {tag for _, tag in replaced}
    table = csv.DictReader(file.read_text(encoding="utf-8").splitlines())
    assert {line["tag"] for line in table} <= of_sample


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n", r"found the columns 'a,b', wanted tag,category,aliases"),
        (b"tag,category,aliases\nx,0,y\nz,2,\n", r"line 3: 'z,2,' is no tag with a category of 0, 1, 3, 4, 5; correct"),
        (b"tag,category,aliases\nx,0\n", r"line 2: 'x,0' is no tag"),
        (b"tag,category,aliases\n\xff,0,\n", r"not a CSV file in UTF-8 .*correct it or remove \[posts\] aliases"),
        (None, r"no such file; correct \[posts\] aliases"),
    ],
)
def test_what_is_no_table_of_aliases_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tags.csv").write_bytes(content)
    with pytest.raises(ExportError, match=r"tags\.csv:? " + message):
        Aliases.load(tmp_path / "tags.csv")


ONE_FIELD = """tag,category,aliases
1girl,0,1girls shared
anna,1,old_anna shared miku
miku,4,old_miku
"""


@pytest.mark.parametrize("limit", [None, 3])
def test_in_one_field_of_all_tags_old_names_go_to_their_tags_category(tmp_path: Path, limit: int | None) -> None:
    (tmp_path / "tags.csv").write_text(ONE_FIELD, encoding="utf-8")
    fields = ["1girls old_anna old_miku", "shared miku", "old_anna old_anna anna other", "old_miku"]
    posts = [{"id": n, "rating": "s", "score": 0, "tag_string": field} for n, field in enumerate(fields)]
    posts.insert(1, posts[0])  # a duplicate's old names are not counted
    (tmp_path / "posts.json").write_text("\n".join(map(json.dumps, posts)), encoding="utf-8")
    out_dir = tmp_path / "posts"
    out_dir.mkdir()
    report = read_posts(
        [tmp_path / "posts.json"],
        out_dir,
        PostsSettings(limit_posts=limit),
        ONE_THREAD,
        aliases=Aliases.load(tmp_path / "tags.csv"),
        tag_categories=TagCategories.load(tmp_path / "tags.csv"),
    )
    assert (
        read_rows(out_dir)
        == [
            row(0, "1girl", artist="anna", character="miku"),
            row(1, "1girl", character="miku"),  # the first tag has `shared`; `miku` is a tag
            row(2, "other", artist="anna"),
            row(3, "", character="miku"),
        ][:limit]
    )
    assert (report.num_aliases, report.num_repeats) == (6 if limit else 7, 2)
    assert report.num_unknown_tags == 1


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1girls,sole_female", "longhair", ""], {"1girls": "a", "sole_female": "a", "longhair": "b"}),
        (["1girls,sole_female", "long hair", ""], {"1girls,sole_female": "a", "long": "b", "hair": "b"}),
        ([":,", "longhair", ","], {":,": "a", "longhair": "b", ",": "c"}),
        (["1girls", "", "x,y,"], {"1girls": "a", "x,y,": "c"}),
        (["1girls", "x,y", ":,"], {"1girls": "a", "x": "b", "y": "b", ":": "c"}),
    ],
)
def test_aliases_are_separated_by_commas_where_no_line_has_a_space(
    tmp_path: Path, column: list[str], expected: dict[str, str]
) -> None:
    lines = [f'{tag},0,9,"{aliases}"' for tag, aliases in zip("abc", column, strict=True)]
    (tmp_path / "tags.csv").write_text("\n".join(["tag,category,post_count,aliases", *lines]), encoding="utf-8")
    aliases = Aliases.load(tmp_path / "tags.csv")
    assert aliases.tag_of == {Category.GENERAL: expected}
    assert aliases.tag_of_any == expected

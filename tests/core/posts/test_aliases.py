"""Old names are replaced in their category's field alone, counted, and never a tag that is one."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from itertools import product
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
        (
            b"tag,category,aliases\nx,0,y\nz,2,\n",
            r"line 3: the tag 'z' has the category '2', and none of 0, 1, 3, 4, 5",
        ),
        (b"tag,category,aliases\nx,0\n", r"line 2: 'x,0' has 2 values instead of 3"),
        (b"tag,category,aliases\n\xff,0,\n", r"line 2: not UTF-8 .*save it as CSV in UTF-8"),
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
    assert (report.num_unknown_tags, report.num_split_tags) == (1, 13 if limit is None else 12)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (["1girls,sole_female", "longhair", ""], {"1girls": "a", "sole_female": "a", "longhair": "b"}),
        (["1girls,sole_female", "long hair", ""], {"1girls": "a", "sole_female": "a", "long_hair": "b"}),
        (["1girls, sole female", "", "x ,y, "], {"1girls": "a", "sole_female": "a", "x": "c", "y": "c"}),
        ([":,", "longhair", ","], {":,": "a", "longhair": "b", ",": "c"}),
        (["1girls", "", "x,y,"], {"1girls": "a", "x": "c", "y": "c"}),
        (["1girls", "x,y", ":,"], {"1girls": "a", "x": "b", "y": "b", ":": "c"}),
    ],
)
def test_aliases_are_separated_by_commas_where_the_table_has_some(
    tmp_path: Path, column: list[str], expected: dict[str, str]
) -> None:
    lines = [f'{tag},0,9,"{aliases}"' for tag, aliases in zip("abc", column, strict=True)]
    (tmp_path / "tags.csv").write_text("\n".join(["tag,category,post_count,aliases", *lines]), encoding="utf-8")
    aliases = Aliases.load(tmp_path / "tags.csv")
    assert aliases.tag_of == {Category.GENERAL: expected}
    assert aliases.tag_of_any == expected


def test_one_comma_among_many_spaces_separates_nothing(tmp_path: Path) -> None:
    rows = [f"tag_{number},0,old_{number} older_{number}" for number in range(200)]
    (tmp_path / "tags.csv").write_text("\n".join(["tag,category,aliases", *rows, 'tag_x,0,"x,y z"']), encoding="utf-8")
    tag_of = Aliases.load(tmp_path / "tags.csv").tag_of_any
    assert (tag_of["older_7"], tag_of["x,y"], tag_of["z"]) == ("tag_7", "tag_x", "tag_x")


@pytest.mark.parametrize("name", ["tags.csv", "no_header.csv", "lists.json", "lists.parquet", "spaces.csv"])
def test_aliases_come_in_many_shapes(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, object]] = [
        {"name": "1girl", "category": 0, "post_count": 9, "aliases": ["1girls", "sole_female"]},
        {"name": "solo", "category": 0, "post_count": 8, "aliases": []},
        {"name": "miku", "category": 4, "post_count": 7, "aliases": ["old_miku"]},
    ]
    fields = {"1girl": '"1girls,sole_female"', "solo": "", "miku": "old_miku"}
    text = [f"{row['name']},{row['category']},{row['post_count']},{fields[str(row['name'])]}" for row in rows]
    (tmp_path / "no_header.csv").write_text("\n".join(text), encoding="utf-8")
    (tmp_path / "tags.csv").write_text("\n".join(["tag,category,post_count,aliases", *text]), encoding="utf-8")
    spaced = [line.replace("sole_female", "sole female").replace("old_miku", "old miku") for line in text]
    (tmp_path / "spaces.csv").write_text("\n".join(spaced), encoding="utf-8")
    (tmp_path / "lists.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "lists.parquet")
    aliases = Aliases.load(tmp_path / name)
    general = {"1girls": "1girl", "sole_female": "1girl"}
    assert aliases.tag_of == {Category.GENERAL: general, Category.CHARACTER: {"old_miku": "miku"}}
    assert aliases.tag_of_any == {**general, "old_miku": "miku"}


PAIRS = [
    ("old_b", "b", "active"),
    ("a", "c", "active"),
    ("gone", "b", "deleted"),
    ("older_b", "old_b", "active"),
    ("oldest_b", "older_b", "Active"),
    ("wanted", "b", "pending"),
    ("b", "b", "active"),
    ("null", "nan", "active"),
]


@pytest.mark.parametrize("name", ["tag_aliases.csv", "tag_aliases.json", "array.json", "tag_aliases.parquet"])
def test_a_table_of_aliases_counts_where_they_are_active(tmp_path: Path, name: str) -> None:
    rows: list[dict[str, object]] = [
        {"id": number, "antecedent_name": old, "consequent_name": new, "created_at": "2020", "status": status}
        for number, (old, new, status) in enumerate(PAIRS)
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "tag_aliases.parquet")
    lines = [",".join(map(str, row.values())) for row in rows]
    (tmp_path / "tag_aliases.csv").write_text("\n".join([",".join(table.schema.names), *lines]), encoding="utf-8")
    (tmp_path / "tag_aliases.json").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (tmp_path / "array.json").write_text(json.dumps(rows), encoding="utf-8")
    aliases = Aliases.load(tmp_path / name)
    expected = {"old_b": "b", "a": "c", "older_b": "b", "oldest_b": "b", "null": "nan"}
    assert aliases.tag_of_any == expected
    assert aliases.tag_of == dict.fromkeys(CATEGORIES, expected)
    assert aliases.left_out == {"aliases that are not active": 2}


def test_an_alias_without_a_category_counts_where_its_tag_may_stand(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("old,new\nold_miku,miku\nold_x,x\n", encoding="utf-8")
    categories = TagCategories({"miku": Category.CHARACTER})
    aliases = Aliases.load(tmp_path / "a.csv", categories=categories)
    assert aliases.tag_of[Category.CHARACTER] == {"old_miku": "miku", "old_x": "x"} == aliases.tag_of_any
    assert aliases.tag_of[Category.GENERAL] == {"old_x": "x"}


@given(st.permutations(range(40)), st.integers(0, 39))
def test_chains_of_aliases_end_at_the_tag(tmp_path_factory: pytest.TempPathFactory, order: list[int], cut: int) -> None:
    file = tmp_path_factory.mktemp("aliases") / "a.csv"
    rows = [f"n{number},n{number + 1}" for number in order if number != cut]
    file.write_text("\n".join(["antecedent,consequent", *rows]), encoding="utf-8")
    tag_of = Aliases.load(file).tag_of_any
    assert tag_of == {f"n{n}": f"n{cut}" if n < cut else "n40" for n in range(40) if n != cut}


def test_aliases_that_lead_back_to_themselves_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("antecedent,consequent\nz,a\na,b\nb,c\nc,a\n", encoding="utf-8")
    with pytest.raises(
        ExportError, match=r"a\.csv: aliases lead back to themselves: a → b → c → a; remove one of them"
    ):
        Aliases.load(tmp_path / "a.csv")


def test_entities_are_taken_back_where_the_setting_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("old,new\njoan,jeanne_d&#039;arc\nr&amp;b,r&b\n", encoding="utf-8")
    assert Aliases.load(tmp_path / "a.csv").tag_of_any == {"joan": "jeanne_d&#039;arc", "r&amp;b": "r&b"}
    assert Aliases.load(tmp_path / "a.csv", html_entities=True).tag_of_any == {"joan": "jeanne_d'arc"}


@pytest.mark.parametrize("name", ["pairs.csv", "mapping.json"])
def test_pairs_of_alias_and_tag_count_in_every_field(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs.csv").write_text("alias,tag\nold_a,a\nolder_a,a\nold_b,b\n", encoding="utf-8")
    (tmp_path / "mapping.json").write_text('{"old_a": "a", "older_a": "a", "old_b": "b"}', encoding="utf-8")
    aliases = Aliases.load(tmp_path / name)
    assert aliases.tag_of_any == {"old_a": "a", "older_a": "a", "old_b": "b"}
    assert aliases.tag_of == dict.fromkeys(CATEGORIES, aliases.tag_of_any)


def test_a_table_of_aliases_is_applied_to_the_fields_of_categories(tmp_path: Path) -> None:
    (tmp_path / "posts.csv").write_bytes(
        csv_bytes([row(1, "old_a null gone", character="old_miku", artist="old_miku")])
    )
    lines = ["old_a,older,active", "older,a,active", "gone,b,deleted", "old_miku,miku,active"]
    (tmp_path / "aliases.csv").write_text("\n".join(["antecedent,consequent,status", *lines]), encoding="utf-8")
    aliases = Aliases.load(tmp_path / "aliases.csv", categories=TagCategories({"miku": Category.CHARACTER}))
    out_dir = tmp_path / "posts"
    out_dir.mkdir()
    report = read_posts([tmp_path / "posts.csv"], out_dir, PostsSettings(), ONE_THREAD, aliases=aliases)
    assert read_rows(out_dir) == [row(1, "a null gone", character="miku", artist="old_miku")]
    assert report.num_aliases == 2
    assert report.left_out_rows == {"aliases that are not active": 1}

"""Tables of tags and aliases: every shape gives the same rows, and what cannot be read is named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.tag_table import read_tag_table
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, Category
from tests.core.export_helpers import write_parquet

TAGS = {
    "1girl": Category.GENERAL,
    "null": Category.GENERAL,
    "nan": Category.ARTIST,
    '"quoted"_tag': Category.GENERAL,
    ";)": Category.GENERAL,
    "a,b": Category.COPYRIGHT,
    "Miku": Category.CHARACTER,
    "\u521d\u97f3\u30df\u30af": Category.CHARACTER,
    "highres": Category.META,
}
NUMBERS = {"general": 0, "artist": 1, "copyright": 3, "character": 4, "meta": 5}


def tags_in(
    file: Path, setting: str = "tag_categories", numbers: Mapping[str, Category] | None = None
) -> dict[str, Category]:
    table = read_tag_table(file, setting, numbers)
    ids = table.category_ids.tolist()
    return {str(tag): CATEGORIES[number] for tag, number in zip(table.tags.to_pylist(), ids, strict=True)}


def csv_rows(delimiter: str = ",") -> list[str]:
    def value(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if delimiter in text or '"' in text else text

    return [delimiter.join([value(tag), str(NUMBERS[category]), "7"]) for tag, category in TAGS.items()]


def objects() -> list[dict[str, object]]:
    return [
        {"id": number, "name": tag, "post_count": 7, "category": NUMBERS[category], "words": []}
        for number, (tag, category) in enumerate(TAGS.items())
    ]


SHAPES = {
    "tags.csv": "\n".join(["name,category,post_count", *csv_rows()]),
    "upper.csv": "\n".join(["Name,Category,Count", *csv_rows(), ""]),
    "crlf.csv": "\ufeff" + "\r\n".join(["tag,category,post_count", *csv_rows(), "", ""]),
    "no_header.csv": "\n".join(csv_rows()),
    "semicolon.csv": "\n".join(["name;category;n", *(row for row in csv_rows(";"))]),
    "tags.tsv": "\n".join(["name\tcategory\tn", *(f"{tag}\t{NUMBERS[c]}\t7" for tag, c in TAGS.items())]),
    "quoted.tsv": "\n".join(["name\tcategory\tn", *csv_rows("\t")]),
    "words.csv": "\n".join(
        ["name,category", *(row.rsplit(",", 2)[0] + "," + c for row, c in zip(csv_rows(), TAGS.values(), strict=True))]
    ),
    "floats.csv": "\n".join(["name,category,n", *(row.removesuffix(",7") + ".0,7" for row in csv_rows())]),
    "tags.json": "\n".join(json.dumps(one) for one in objects()),
    "utf8.jsonl": "\ufeff" + "\r\n".join(json.dumps(one, ensure_ascii=False) for one in objects()) + "\r\n",
    "array.json": json.dumps(objects()),
    "pretty.json": json.dumps(objects(), indent=2),
    "pages.json": "\n".join(json.dumps([one]) for one in objects()),
    "wrapped.json": json.dumps({"@attributes": {"limit": 100}, "tag": objects()}),
    "mapping.json": json.dumps({tag: NUMBERS[category] for tag, category in TAGS.items()}),
    "by_word.json": json.dumps({tag: category.value.upper() for tag, category in TAGS.items()}),
    "by_name.json": json.dumps({tag: {"category": NUMBERS[category]} for tag, category in TAGS.items()}),
    "by_index.json": json.dumps(
        {str(n): {"tag": one["name"], "category": one["category"]} for n, one in enumerate(objects())}
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_a_table_gives_the_same_tags(tmp_path: Path, name: str, packed: bool) -> None:
    data = SHAPES[name].encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if packed else data)
    assert tags_in(tmp_path / name) == TAGS


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string_view()]
)
@pytest.mark.parametrize("number", [pa.int64(), pa.uint8(), pa.float32(), pa.string()])
def test_parquet_gives_them_too(tmp_path: Path, kind: pa.DataType, number: pa.DataType) -> None:
    names = pa.array(list(TAGS)).cast(kind)
    numbers = pa.array([NUMBERS[category] for category in TAGS.values()]).cast(number)
    table = pa.table({"words": [["a"]] * len(TAGS), "category": numbers, "name": names})
    write_parquet(table, tmp_path / "tags.parquet", row_group_size=4)
    assert tags_in(tmp_path / "tags.parquet") == TAGS


@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(lambda t: t.strip(" ")), min_size=1
    )
)
def test_names_keep_their_spelling(names: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tags")
    (folder / "tags.json").write_text(json.dumps([{"name": name, "category": 0} for name in names]), encoding="utf-8")
    rows = ['"' + name.replace('"', '""') + '",0' for name in names]
    (folder / "tags.csv").write_text("\n".join(["name,category", *rows]), encoding="utf-8")
    wanted = [name.strip(" ").replace(" ", "_") for name in names]
    for file in folder.iterdir():
        assert read_tag_table(file, "tag_categories").tags.to_pylist() == wanted


def test_spaces_in_names_become_underscores(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("name, category\nlong hair, 0\n hatsune miku ,4\n^_^,0\n", encoding="utf-8")
    assert list(tags_in(tmp_path / "tags.csv")) == ["long_hair", "hatsune_miku", "^_^"]


def test_the_ratings_of_a_wd_tagger_are_no_tags(tmp_path: Path) -> None:
    rows = [
        "tag_id,name,category,count",
        "9999999,general,9,807858",
        "9999996,explicit,9,1",
        "470575,1girl,0,5",
        "9,x,4,1",
    ]
    (tmp_path / "selected_tags.csv").write_text("\n".join(rows), encoding="utf-8")
    table = read_tag_table(tmp_path / "selected_tags.csv", "tag_categories")
    assert table.tags.to_pylist() == ["1girl", "x"]
    assert table.category_ids.tolist() == [0, 3]
    assert table.left_out == {"ratings": 2}
    (tmp_path / "other.csv").write_text("name,category\n1girl,9\n", encoding="utf-8")
    with pytest.raises(ExportError, match="line 2: the tag '1girl' has the category '9'"):
        read_tag_table(tmp_path / "other.csv", "tag_categories")
    assert tags_in(tmp_path / "other.csv", numbers={"9": Category.META}) == {"1girl": Category.META}


@pytest.mark.parametrize(("ambiguous", "site"), [(False, "Moebooru"), (0, "Gelbooru")])
def test_a_number_means_what_its_site_says(tmp_path: Path, ambiguous: object, site: str) -> None:
    rows = [
        {"id": 1, "name": name, "count": 3, "type": int(kind), "ambiguous": ambiguous}
        for name, kind in zip("abc", "056", strict=True)
    ]
    file = tmp_path / "tag.json"
    file.write_text(json.dumps({"tag": rows} if site == "Gelbooru" else rows), encoding="utf-8")
    if site == "Gelbooru":
        table = read_tag_table(file, "tag_categories")
        assert (table.tags.to_pylist(), table.category_ids.tolist()) == (["a", "b"], [0, 4])
        assert table.left_out == {"deprecated tags": 1}
        return
    with pytest.raises(
        ExportError, match=r"entry 2: the tag 'b' has the type '5', which is circle on yande.re and style"
    ):
        read_tag_table(file, "tag_categories")
    numbers = {"5": Category.ARTIST, "6": Category.META}
    assert list(tags_in(file, numbers=numbers).values()) == [Category.GENERAL, Category.ARTIST, Category.META]


def test_e621s_categories_are_named_by_number_or_by_word(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text(
        "id,name,category,post_count\n1,a,0,1\n2,canine,5,1\n3,mtf,8,1\n", encoding="utf-8"
    )
    with pytest.raises(
        ExportError, match=r"line 4: the tag 'mtf' has the category '8'.* category_numbers.*e621-export"
    ):
        read_tag_table(tmp_path / "tags.csv", "tag_categories")
    numbers = {"5": Category.GENERAL, "8": Category.META}
    assert list(tags_in(tmp_path / "tags.csv", numbers=numbers).values()) == [
        Category.GENERAL,
        Category.GENERAL,
        Category.META,
    ]
    (tmp_path / "words.csv").write_text("name,category\na,species\nb,Lore\n", encoding="utf-8")
    with pytest.raises(ExportError, match=r"'species'.* such as { species = "):
        read_tag_table(tmp_path / "words.csv", "tag_categories")
    numbers = {"species": Category.GENERAL, "lore": Category.META}
    assert list(tags_in(tmp_path / "words.csv", numbers=numbers).values()) == [Category.GENERAL, Category.META]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"tag,group\na,0\n", r"found the columns 'tag,group', wanted tag,category; correct the header"),
        (b"", r"found the columns '', wanted tag,category"),
        (b"tag,category\na,0\nb,2\n", r"t line 3: the tag 'b' has the category '2', and none of 0, 1, 3, 4, 5"),
        (b"tag,category\na,\n", r"t line 2: the tag 'a' has no category; correct it"),
        (b"tag,category\na\n", r"t line 2: 'a' has 1 values instead of 2, tag,category; correct the line"),
        (b"tag,category\n\xff,0\n", r"t line 2: not UTF-8 .*; save it as CSV in UTF-8"),
        (b'tag,category\nb,0\n"a,0\n', r"t line 3: broken quotes \(unexpected end of data\); correct the line"),
        (b'tag,category\n"b"x,0\na,0\n', r"t line 2: broken quotes"),
        (b"tag,category\na,0\n\n,4\n", r"t line 4: the name is empty; correct it \(pandas reads the tags null and nan"),
        (b'tag,category\n"a\nb",0\n', r"t line 2: the name 'a.nb' is no tag"),
        (b'{"name": "a", "category": 0}\n{"name": "b"\n', r"t line 2: not JSON"),
        (b'{"name": "a", "category": 0}\n[]\n', r"t line 2: '\[\]' is not an object"),
        (b'{"name": "a", "category": 0}\n{"name": "b"}\n', r"t line 2: the tag 'b' has no category"),
        (b'{"name": "a", "category": 0}\n{"name": null, "category": 0}\n', r"t line 2: the name is empty"),
        (b'{"name": "a", "category": [0]}\n', r"t entry 1|t line 1: the tag 'a' has the category '\[0\]'"),
        (b'[{"name": "a", "category": 0}, {"name": "\\ud83d", "category": 0}]', r"t entry 2: the name '.*' is no tag"),
        (b'[["a", 0]]', r"t: 'a' is not an object; wanted a list of objects"),
        (b'[{"name": "a"', r"t: not JSON"),
        (b'{"success": false, "message": "gone"}', r"found the columns 'success,message'"),
        (b"<tags><tag name='a' type='0'/></tags>", r"XML or HTML; fetch JSON from the site"),
        (b"\x00\x01\x02", r"a table of tags is CSV, TSV, JSON or Parquet in UTF-8"),
        (b"id,tag\n1,a\n", r"found the columns 'id,tag', wanted tag,category"),
        (b"PAR1 and no more", r"t: a broken Parquet file"),
        (b"id,rating,score,tag_string\n1,g,2,a b\n", r"holds posts and no tags: .*; name it under \[posts\] export"),
        (b'{"id": 1, "rating": "g", "tags": [{"name": "a", "category": 0}]}', r"holds posts and no tags"),
        (b"antecedent_name,consequent_name\na,b\n", r"a table of aliases, which has no categ.*\[posts\] aliases"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_tags_is_named_with_the_remedy(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ExportError, match=message) as raised:
        read_tag_table(tmp_path / "t", "tag_categories")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,category\na,0\n", r"a table of tags without aliases: .*name it under \[posts\] tag_categories"),
        ("a,0,5\n", r"a table of tags without aliases"),
        ("old_a,a\n", r"found the columns 'old_a,a', wanted tag,category,aliases or antecedent_name,consequent_name"),
        ("id,rating,tag_string\n", r"holds posts and no tags"),
        (
            "antecedent_name,consequent_name\na,b\na,c\n",
            r"line 3: 'a' is an old name of 'c', and of 'b' in line 2; rem",
        ),
        ("antecedent_name,consequent_name\na,\n", r"line 2: the name is empty"),
        ("antecedent_name,consequent_name,status\na,b,deleted\n", r"1 aliases, and none with the status active"),
    ],
)
def test_what_is_no_table_of_aliases_is_named_with_the_remedy(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t").write_text(content, encoding="utf-8")
    with pytest.raises(ExportError, match=message):
        read_tag_table(tmp_path / "t", "aliases")


def test_implications_are_no_aliases(tmp_path: Path) -> None:
    file = tmp_path / "tag_implications.csv"
    file.write_text("antecedent_name,consequent_name,status\na,b,active\n", encoding="utf-8")
    with pytest.raises(
        ExportError,
        match=r"which replace no tag; name it under \[posts\] implications, and give",
    ):
        read_tag_table(file, "aliases")


def test_a_missing_table_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"none\.csv: no such file; correct \[posts\] tag_categories$"):
        read_tag_table(tmp_path / "none.csv", "tag_categories")
    with pytest.raises(ExportError, match="a folder; name the table in it"):
        read_tag_table(tmp_path, "tag_categories")


@pytest.mark.parametrize("name", ["tags.csv", "array.json", "tags.json"])
@pytest.mark.parametrize("packing", ["xz", "bz2", "zst", "zip", "tar.xz"])
def test_a_table_may_be_packed_in_any_way(tmp_path: Path, name: str, packing: str) -> None:
    data = SHAPES[name].encode()
    file = tmp_path / f"{name}.{packing}"
    if packing == "zip":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"metadata/{name}", data)
    elif packing == "tar.xz":
        with tarfile.open(file, "w:xz") as tar:
            info = tarfile.TarInfo(f"metadata/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    elif packing == "zst":
        with pa.CompressedOutputStream(str(file), "zstd") as stream:
            stream.write(data)
    else:
        file.write_bytes((lzma if packing == "xz" else bz2).compress(data))
    assert tags_in(file) == TAGS


def test_of_two_tables_in_an_archive_none_is_chosen(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", "name,category\na,0\n")
        archive.writestr("b.csv", "name,category\nb,0\n")
    with pytest.raises(ExportError, match=r"t\.zip: holds .*t\.zip/a\.csv and .*t\.zip/b\.csv; unpack it and name one"):
        read_tag_table(tmp_path / "t.zip", "tag_categories")


def test_a_wrong_row_in_an_archive_is_named_by_its_place_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("folder/a.csv", "name,category\na,7\n")
    with pytest.raises(ExportError, match=r"t\.zip/folder/a\.csv line 2: the tag 'a' has the category '7'"):
        read_tag_table(tmp_path / "t.zip", "tag_categories")


def test_a_later_row_may_need_the_slow_way(tmp_path: Path) -> None:
    """Blocks of plain lines are read by Arrow, and the rest of the file line by line: rows and numbers go on."""
    num = 400_000  # more than one block of lines
    rows = [f"tag_{number},{number % 2}" for number in range(num)]
    rows[num - 5] = '"tag\n",4'
    file = tmp_path / "tags.csv"
    file.write_text("\n".join(["name,category", *rows]), encoding="utf-8")
    with pytest.raises(ExportError, match=f"line {num - 5 + 2}: the name 'tag.n' is no tag"):
        read_tag_table(file, "tag_categories")
    rows[num - 5] = "\nlast,4"
    file.write_text("\n".join(["name,category", *rows]), encoding="utf-8")
    table = read_tag_table(file, "tag_categories")
    assert len(table.tags) == num
    assert table.tags[num - 5].as_py() == "last"
    assert table.category_ids[num - 5] == CATEGORIES.index(Category.CHARACTER)
    rows[num - 2] = "last,8"
    file.write_text("\n".join(["name,category", *rows]), encoding="utf-8")
    with pytest.raises(ExportError, match=f"line {num - 2 + 3}: the tag 'last' has the category '8'"):
        read_tag_table(file, "tag_categories")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\"['lh', 'longhair']\"", "['one']"),
        ('"{lh,longhair}"', "{one}"),
        ("\"['lh', None, 'longhair']\"", '"[""one""]"'),
    ],
)
def test_aliases_may_be_printed_lists(tmp_path: Path, first: str, second: str) -> None:
    file = tmp_path / "tags.csv"
    file.write_text(f"name,category,aliases\nlong_hair,0,{first}\nsolo,0,{second}\nbook,0,[]\n", encoding="utf-8")
    aliases = [("lh", "long_hair"), ("longhair", "long_hair"), ("one", "solo")]
    assert list(read_tag_table(file, "aliases").aliases) == aliases

"""Records of several lines: e621's export as it comes, and stray quotes that must not swallow posts."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from booru_embed_core.posts.read_export import read_export as read_export_of
from booru_embed_core.posts.report import PostsReport
from booru_embed_core.schema import POST_COLUMNS
from booru_embed_core.settings import DuckdbSettings, PostsSettings
from tests.core.export_helpers import csv_bytes, read_rejects, read_rows, row

ReadExport = Callable[..., tuple[PostsReport, Path]]

# fmt: off
E621_COLUMNS = (
    "id", "uploader_id", "created_at", "md5", "source", "rating", "image_width", "image_height", "tag_string",
    "locked_tags", "fav_count", "file_ext", "parent_id", "change_seq", "approver_id", "file_size", "comment_count",
    "description", "duration", "updated_at", "is_deleted", "is_pending", "is_flagged", "score", "up_score",
    "down_score", "is_rating_locked", "is_status_locked", "is_note_locked",
)
# fmt: on
TAGS = ("solo", "wolf", "\\m/", '"quoted"', "a;b", "somebody", "lore_(lore)", ":\\")
PROSE = (
    "[b]Part 1[/b]", 'she said "no", then left', "", "1, 2, 3, and 4", '"', '""', ",", "'", "a;b|c", "caf\u00e9",
    '",,,"', "1001,1,2020,x,,s,1,1,solo,,0,png,,1,,1,1,,,2020,f,f,f,1,1,0,f,f,f", "x" * 3000, "\\", "[url=/a]\tb[/url]",
)  # fmt: skip


def e621_posts(num_posts: int, random: Random) -> list[dict[str, str]]:
    def prose(most: int) -> str:
        lines = [random.choice(PROSE) for _ in range(random.choice([0, 1, 2, most]))]
        return "".join(line + random.choice(["\r\n", "\r\n", "\n"]) for line in lines).rstrip("\r\n")

    return [
        dict.fromkeys(E621_COLUMNS, "7")
        | {
            "id": str(number),
            "rating": random.choice("sqe"),
            "source": "\n".join(f"https://example.org/{index}" for index in range(random.randrange(4))),
            "tag_string": " ".join(random.sample(TAGS, 3)),
            "description": prose(random.choice([5, 5, 300])),
            "locked_tags": "",
            "parent_id": "",
            "duration": "",
            "score": str(random.randint(-5, 500)),
        }
        | {name: "f" for name in E621_COLUMNS if name.startswith("is_")}
        | {"is_deleted": "ft"[number % 10 == 0]}
        for number in range(1, num_posts + 1)
    ]


@pytest.fixture
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tags") / "tags.csv"
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "name", "category", "post_count"])
        numbers = (0, 5, 0, 0, 0, 1, 8, 0)
        writer.writerows([index, tag, numbers[index], 1] for index, tag in enumerate(TAGS))
    return file


def line_numbers(content: bytes) -> list[int]:
    """The physical line on which each record begins, as Python's csv module counts."""
    reader = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    starts = [1, *(reader.line_num + 1 for _ in reader)]
    return starts[1:-1]


def read_e621(content: bytes, tags: Path, threads: int = 1, **settings: object) -> tuple[PostsReport, Path]:
    """Reads `content` with the settings that the guide gives for e621's export."""
    file, out_dir = tags.with_name("posts.csv.gz"), tags.with_name("posts")
    file.write_bytes(gzip.compress(content))
    out_dir.mkdir()
    values = {"export": [str(file)], "preset": "e621-export", "tag_categories": tags, **settings}
    return read_export_of(
        PostsSettings.model_validate(values), tags.parent, out_dir, DuckdbSettings(threads=threads)
    ), out_dir


@pytest.mark.parametrize("limit_posts", [None, 10**6])
@pytest.mark.parametrize("threads", [1, 2])
def test_e621s_export_is_read_as_it_comes(tags: Path, threads: int, limit_posts: int | None) -> None:
    posts = e621_posts(400, Random(7))
    content = csv_bytes(posts, E621_COLUMNS)
    report, posts_dir = read_e621(content, tags, threads, limit_posts=limit_posts, max_rejected_share=0)
    kept = [post for post in posts if post["is_deleted"] == "f"]
    assert (report.num_read, report.num_kept, report.num_filtered) == (400, 360, 40)
    rows = read_rows(posts_dir)
    assert [post["id"] for post in rows] == [int(post["id"]) for post in kept]
    assert [post["score"] for post in rows] == [int(post["score"]) for post in kept]
    fields = [" ".join(str(post[name]) for name in POST_COLUMNS[3:] if post[name]) for post in rows]
    assert [sorted(field.split(" ")) for field in fields] == [sorted(post["tag_string"].split(" ")) for post in kept]


def test_a_bad_record_of_several_lines_is_named_and_kept_whole(tags: Path) -> None:
    posts = e621_posts(60, Random(8))
    bad = {"score": "many", "description": 'first\r\n"second"\n\nlast'}
    posts[20] |= bad | {"is_deleted": "f"}
    posts[40] |= {"id": "1", "description": "one\ntwo", "is_deleted": "f"}
    content = csv_bytes(posts, E621_COLUMNS)
    report, posts_dir = read_e621(content, tags, max_rejected_share=0.1)
    assert (report.num_read, report.num_rejected, report.num_duplicate) == (60, 1, 1)
    rejects = read_rejects(posts_dir)
    starts = line_numbers(content)
    assert [reject["line"] for reject in rejects] == [starts[20], starts[40]]
    assert str(rejects[0]["reason"]).startswith("score 'many'")
    raw = [str(reject["raw"]) for reject in rejects]
    assert [next(csv.reader([text]))[E621_COLUMNS.index("description")] for text in raw] == [
        bad["description"], "one\ntwo"
    ]  # fmt: skip


GOOD = [b'%d,s,0,"long_hair, x",b,c,d,e,"note, %d"' % (number, number) for number in range(1, 60)]
HEADER = ",".join((*POST_COLUMNS, "note")).encode()


@pytest.mark.parametrize(
    "bad",
    [
        [b'99,s,0,"a,b,c,d,e,f'],  # a quote that opens and never closes
        [b'99,s,0,a",b,c,d,e,f'],
        [b'99,s,0,a,b,c,d,e,"f'],  # in a column that is not read
        [b'99,s,0,a,b,c,d,e,f"'],
        [b'99,s,0,a,b,c,d,"e,f', b'98,s,0,a,b,c,d,e,"f'],
        [b'99,s,0,"a', b'b",b,c,d,e,f'],  # a line break in a tag column
        [b'99,s,0,a,b,c,d,e,"f', b"g", b'h "i" j', b'k"'],  # a stray quote within a note of several lines
        [b"99,s,0,a,b,c,d,e", b"98,s"],
    ],
)
@pytest.mark.parametrize("place", [0, 30, 59])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("limit_posts", [None, 10**6])
def test_a_stray_quote_costs_its_own_record_alone(
    read_export: ReadExport, bad: list[bytes], place: int, newline: bytes, limit_posts: int | None
) -> None:
    content = newline.join([HEADER, *GOOD[:place], *bad, *GOOD[place:], b""])
    report, posts_dir = read_export(content, limit_posts=limit_posts)
    assert [post["id"] for post in read_rows(posts_dir)] == list(range(1, 60))
    rejects = read_rejects(posts_dir)
    assert rejects[0]["line"] == place + 2
    assert "\n".join(str(reject["raw"]).replace("\r\n", "\n") for reject in rejects).encode() == b"\n".join(bad)
    assert report.reconciles


def test_two_stray_quotes_do_not_swallow_the_posts_between_them(read_export: ReadExport) -> None:
    lines = [b"%d,s,0,a,b,c,d,e,note" % number for number in range(1, 30)]
    lines[4] = b'5,s,0,a,b,c,d,e,"note'
    lines[20] = b'21,s,0,a,b,c,d,e,note"'
    _, posts_dir = read_export(b"\n".join([HEADER, *lines]))
    assert [post["id"] for post in read_rows(posts_dir)] == [number for number in range(1, 30) if number not in (5, 21)]
    assert [reject["line"] for reject in read_rejects(posts_dir)] == [6, 22]


def test_a_note_may_hold_lines_that_look_like_posts(read_export: ReadExport) -> None:
    note = "see:\n7,s,0,a,b,c,d,e,f\n8,s,0,a,b,c,d,e,f\nend"
    content = csv_bytes([{**row(1), "note": note}, {**row(2), "note": "x\n\n\ny"}], [*POST_COLUMNS, "note"])
    report, posts_dir = read_export(content)
    assert [post["id"] for post in read_rows(posts_dir)] == [1, 2]
    assert report.num_read == 2


@pytest.mark.parametrize(("num_lines", "is_read"), [(10_000, True), (10_001, False)])
def test_a_record_has_a_bounded_number_of_lines(read_export: ReadExport, num_lines: int, is_read: bool) -> None:
    rows = [{**row(1), "note": "\n" * (num_lines - 1)}, {**row(2), "note": ""}]
    report, posts_dir = read_export(csv_bytes(rows, [*POST_COLUMNS, "note"]))
    assert [post["id"] for post in read_rows(posts_dir)] == ([1, 2] if is_read else [2])
    assert report.num_read - report.num_rejected == (2 if is_read else 1)


def test_lines_that_all_begin_a_record_take_linear_time(read_export: ReadExport) -> None:
    bad = [b'%d,s,0,"a,b' % number for number in range(20_000)]
    report, posts_dir = read_export(b"\n".join([HEADER, *bad, *GOOD]), max_rejected_share=0.9999)
    assert (report.num_read, report.num_kept) == (20_059, 59)
    assert len(read_rejects(posts_dir)) == 20_000

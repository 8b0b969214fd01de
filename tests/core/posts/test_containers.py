"""Packed exports, file by file: what holds posts is yielded once, what does not is named, and nothing stays on disk."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.containers import FREE_BYTES, called, unpacked
from booru_embed_core.posts.readers.archives import ARCHIVE_SUFFIXES
from booru_embed_core.posts.validation import ColumnsError, ExportError
from tests.core.posts.archive_helpers import (
    CONTENT,
    PACKERS,
    SKIPPABLE,
    encrypted,
    tar_info,
    tar_of,
    zip_of,
    zstd_with_window,
)

JSON = b"".join(json.dumps({"id": number, "tag_string": "long_hair"}).encode() + b"\n" for number in range(99))
SUFFIXES = {
    "gzip": ".gz",
    "zstd": ".zst",
    "xz": ".xz",
    "bzip2": ".bz2",
    "lzma": ".lzma",
    "lz4": ".lz4",
    "brotli": ".br",
}


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"id": [1, 2]}), out)
    return out.getvalue()


class Unpacker:
    """What comes out of one file in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.left_out: list[str] = []

    def __call__(self, content: bytes, name: str) -> dict[str, bytes]:
        """Contents by label; checks that scratch is empty before, between and behind the files."""
        (self.folder / name).write_bytes(content)
        found: dict[str, bytes] = {}
        with closing(unpacked(self.folder / name, name, self.scratch, self.left_out)) as files:
            for path, label in files:
                assert label not in found
                found[label] = path.read_bytes()
                below = [file for file in self.scratch.rglob("*") if file.is_file()]
                assert path in below or path == self.folder / name
                assert all(file.parent.parent == self.scratch for file in below)
        assert list(self.scratch.iterdir()) == []
        assert sorted(self.folder.iterdir()) == sorted([self.folder / name, self.scratch])
        return found

    def refused(self, content: bytes, name: str) -> str:
        with pytest.raises(ExportError) as raised:
            self(content, name)
        assert list(self.scratch.iterdir()) == []
        message = str(raised.value)
        assert message.startswith(str(self.folder / name))
        assert "\n" not in message
        return message


@pytest.fixture
def unpack(tmp_path: Path) -> Unpacker:
    return Unpacker(tmp_path)


PLAIN: dict[str, bytes] = {
    "posts.csv": CONTENT,
    "posts.parquet": parquet(),
    "posts.csv.gz": PACKERS["gzip"](CONTENT),
    "members.jsonl.gz": gzip.compress(JSON) + gzip.compress(JSON),
    "posts.csv.zst": PACKERS["zstd"](CONTENT),
    "skippable.csv.zst": SKIPPABLE + PACKERS["zstd"](CONTENT) + SKIPPABLE,
    "window.csv.zst": zstd_with_window(CONTENT, 27),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_readers_open_is_read_where_it_lies(unpack: Unpacker, name: str) -> None:
    assert unpack(PLAIN[name], name) == {name: PLAIN[name]}
    assert unpack.left_out == []


def test_a_folder_is_left_to_the_readers(tmp_path: Path) -> None:
    assert list(unpacked(tmp_path, "captions", tmp_path, [])) == [(tmp_path, "captions")]


ODD: dict[str, bytes] = {
    **{f"posts.csv{SUFFIXES[kind]}": PACKERS[kind](CONTENT) for kind in PACKERS if kind not in ("gzip", "zstd")},
    "window.csv.zst": zstd_with_window(CONTENT, 28),
    "padded.csv.gz": PACKERS["gzip"](CONTENT) + bytes(512),
    "padded.csv.zst": PACKERS["zstd"](CONTENT) + bytes(512),
    "padded.csv.xz": PACKERS["xz"](CONTENT[:-9]) + bytes(8) + PACKERS["xz"](CONTENT[-9:]),
    "twice.csv.gz.xz": PACKERS["xz"](PACKERS["gzip"](CONTENT) + bytes(1)),
}


@pytest.mark.parametrize("name", ODD)
def test_what_they_do_not_open_is_unpacked(unpack: Unpacker, name: str) -> None:
    assert unpack(ODD[name], name) == {name: CONTENT}


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_format_of_its_own_is_unpacked_from_any_compression(unpack: Unpacker, kind: str) -> None:
    name = f"posts.parquet{SUFFIXES[kind]}"
    assert unpack(PACKERS[kind](parquet()), name) == {name: parquet()}


FILES = {
    "dump/posts.csv": CONTENT,
    "dump/README.txt": b"Posts, as they were\n",
    "dump/1.jpg": b"\xff\xd8\xff",
    "dump/2021/posts000000000000": JSON,
    "dump/posts.parquet": parquet(),
    "__MACOSX/dump/._posts.csv": b"\0\5\x16\7",
    "dump/._posts.jsonl": b"\0\5\x16\7",
    "dump/empty.csv": b"",
    "dump/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "dump/state.json": b'{"_data_files": []}',
    "dump/table.txt": b"id\trating\ttags\n1\tg\tx\n",
}
WANTED = ("dump/posts.csv", "dump/2021/posts000000000000", "dump/posts.parquet", "dump/table.txt")
LEFT_OUT = [name for name in FILES if name not in WANTED]


@pytest.mark.parametrize("suffix", ["", *SUFFIXES.values()])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_gives_the_files_of_posts_and_names_the_others(unpack: Unpacker, suffix: str, form: int) -> None:
    content = tar_of(FILES, format=form)
    packed = next((PACKERS[kind](content) for kind in SUFFIXES if SUFFIXES[kind] == suffix), content)
    name = f"dump.tar{suffix}"
    assert unpack(packed, name) == {f"{name}/{wanted}": FILES[wanted] for wanted in WANTED}
    assert unpack.left_out == [f"{name}/{member}" for member in LEFT_OUT]


def test_a_zip_gives_the_same(unpack: Unpacker) -> None:
    found = unpack(zip_of({"dump/": b"", **FILES}), "dump.zip")
    assert found == {f"dump.zip/{wanted}": FILES[wanted] for wanted in WANTED}
    assert unpack.left_out == [f"dump.zip/{member}" for member in LEFT_OUT]


@pytest.mark.parametrize("kind", SUFFIXES)
def test_a_member_that_is_compressed(unpack: Unpacker, kind: str) -> None:
    inner = f"posts.csv{SUFFIXES[kind]}"
    found = unpack(tar_of({inner: PACKERS[kind](CONTENT)}), "dump.tar")
    as_it_lies = kind in ("gzip", "zstd")
    assert found == {f"dump.tar/{inner}": PACKERS[kind](CONTENT) if as_it_lies else CONTENT}


def test_archives_in_archives(unpack: Unpacker) -> None:
    inner = tar_of({"metadata.json.tar.xz": PACKERS["xz"](tar_of({"posts.json": JSON, "a.png": b"x"}))})
    found = unpack(zip_of({"inner.tar": inner, "images.zip": zip_of({"b.png": b"x"})}), "outer.zip")
    assert found == {"outer.zip/inner.tar/metadata.json.tar.xz/posts.json": JSON}
    assert unpack.left_out == ["outer.zip/inner.tar/metadata.json.tar.xz/a.png", "outer.zip/images.zip/b.png"]


def test_an_end_of_nesting(unpack: Unpacker) -> None:
    content = CONTENT
    for number in range(9):
        content = tar_of({f"{number}.tar": content})
    assert "is packed more than 4 times" in unpack.refused(content, "deep.tar")


def test_names_that_lead_elsewhere_lead_nowhere(unpack: Unpacker, tmp_path: Path) -> None:
    names = ["/etc/posts.csv", "../../posts.csv", "..\\posts.csv", "a\nb\x1b[0m.csv", "n" * 300 + ".csv", "-rf.csv"]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            archive.addfile(tar_info(name, len(CONTENT)), io.BytesIO(CONTENT))
        archive.addfile(tar_info("link.csv", kind=tarfile.SYMTYPE, link="/etc/passwd"))
        archive.addfile(tar_info("link.csv/posts.csv", len(CONTENT)), io.BytesIO(CONTENT))
        archive.addfile(tar_info("device.csv", kind=tarfile.CHRTYPE))
    found = unpack(out.getvalue(), "evil.tar")
    shown = [name.replace("\n", "\\n").replace("\x1b", "\\x1b") for name in [*names, "link.csv/posts.csv"]]
    assert list(found) == [f"evil.tar/{name}" for name in shown]
    assert unpack.left_out == ["evil.tar/link.csv", "evil.tar/device.csv"]


def test_a_name_that_is_no_utf8(unpack: Unpacker) -> None:
    content = bytearray(tar_of({"posts??.csv": CONTENT}, format=tarfile.GNU_FORMAT))
    content[5:7] = b"\xff\xfe"
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    assert list(unpack(bytes(content), "a.tar")) == [r"a.tar/posts\udcff\udcfe.csv"]


def test_two_members_of_one_name_have_two_labels(unpack: Unpacker) -> None:
    found = unpack(tar_of([("posts.csv", CONTENT), ("posts.csv", JSON)]), "a.tar")
    assert found == {"a.tar/posts.csv": CONTENT, "a.tar/posts.csv (2)": JSON}


def test_of_many_other_members_the_first_are_named(unpack: Unpacker) -> None:
    members = {**{f"{number}.jpg": b"x" for number in range(70)}, "a.txt": b"x", "posts.csv": CONTENT}
    unpack(tar_of(members), "a.tar")
    first = [f"a.tar/{number}.jpg" for number in range(20)]
    assert unpack.left_out == [*first, "a.tar: 51 more files (70 .jpg, 1 .txt in all)"]


@pytest.mark.parametrize(
    ("name", "members", "found", "command"),
    [
        ("a.tar", {}, "nothing", "tar -xf"),
        ("a.zip", {}, "nothing", "unzip"),
        ("a.tar.xz", {"1.jpg": b"x", "b/README": b"x"}, "1.jpg, b/README", "tar -xf"),
        ("a.zip", {f"{n}.png": b"x" for n in range(7)}, "0.png, 1.png, 2.png, 3.png, 4.png, …", "unzip"),
    ],
)
def test_an_archive_without_posts_is_refused(
    unpack: Unpacker, name: str, members: dict[str, bytes], found: str, command: str
) -> None:
    content = zip_of(members) if name.endswith(".zip") else tar_of(members)
    message = unpack.refused(lzma.compress(content) if name.endswith(".xz") else content, name)
    assert f"the archive holds no file of posts, found {found}; unpack it with {command} {unpack.folder}" in message


REFUSED: dict[str, tuple[bytes, str]] = {
    "posts.7z": (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(99), "is a 7z archive, which is not read; unpack it with 7z x"),
    "posts.rar": (b"Rar!\x1a\x07\x01\0" + bytes(99), "is a RAR archive, which is not read; unpack it with unrar x"),
    "posts.parquet": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "fetch that with git lfs pull"),
    "page.tar.xz": (b"\n<!DOCTYPE html><html>Quota exceeded</html>", "is a web page, such as one that answers"),
    "split.z01": (b"PK\x07\x08" + zip_of(FILES), "is one part of a split zip; unpack all parts with 7z x "),
    "split.zip": (bytes(99) + b"PK\5\6\1\0\1\0" + bytes(14), "/split.zip and set [posts] export"),
    "posts.csv.Z": (b"\x1f\x9d\x90" + bytes(99), "unpack it with uncompress"),
    "posts.csv.lz": (b"LZIP\x01" + bytes(99), "unpack it with lzip -d"),
    "posts.csv.lz4": (b"\x02\x21\x4c\x18" + bytes(99), "unpack it with lz4 -d"),
    "posts.csv.sz": (b"\xff\x06\0\0sNaPpY" + bytes(99), "unpack it with snzip -d"),
    "posts.csv.lzo": (b"\x89LZO\0\r\n\x1a\n" + bytes(99), "unpack it with lzop -d"),
    "posts.orc": (b"ORC\x0a\xff" + bytes(99), "is an ORC file, which is not read; write its rows as Parquet, and set"),
    "posts.avro": (b"Obj\x01\x04" + bytes(99), "is an Avro file"),
    "posts.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"),
    "posts.npy": (b"\x93NUMPY\x01\0" + bytes(99), "is a NumPy array"),
    "posts.pkl": (pickle.dumps([{"id": 1}] * 9, protocol=4), "is a pickle of Python"),
    "old.pkl": (pickle.dumps([{"id": 1}] * 9, protocol=2), "is a pickle of Python"),
    "posts.duckdb": (bytes(8) + b"DUCK\x40" + bytes(99), "is a database of DuckDB, which is not read; run there: copy"),
    "posts.dump": (b"PGDMP\x01\x0e\0" + bytes(99), "is a dump of pg_dump"),
    "posts.xml": (b'\xef\xbb\xbf<?xml version="1.0"?><posts/>', "is XML, which is not read; fetch the posts as JSON"),
    "posts.xls": (b"\xd0\xcf\x11\xe0" + bytes(99), "is an Excel workbook"),
    "posts.xlsx": (zip_of({"[Content_Types].xml": b"<a/>", "xl/workbook.xml": b"<b/>"}), "is an Excel workbook"),
    "my.sql": (b"-- MySQL dump 10.13\n--\n/*!40101 SET x */;\nDROP TABLE IF EXISTS `posts`;\n", "is a script of SQL"),
    "pg.sql": (b"--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\n", "is a script of SQL"),
    "lite.sql": (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\n", "is a script of SQL"),
    "posts.csv.xz": (PACKERS["xz"](CONTENT)[:-20], "the xz stream is broken"),
    "garbage.csv.gz": (PACKERS["gzip"](CONTENT) + b"garbage", "bytes that are no gzip follow the gzip stream"),
    "second.csv.bz2": (PACKERS["bzip2"](CONTENT) + b"BZh9" + bytes(30), "the bzip2 stream is broken"),
    "cut.tar": (tar_of(FILES)[:3000], "the archive is broken"),
    "cut.tar.xz": (PACKERS["xz"](tar_of(FILES))[:-20], "the xz stream is broken"),
    "cut.tar.gz": (PACKERS["gzip"](tar_of(FILES)[:3000]), "the archive is broken"),
    "cut.zip": (zip_of(FILES)[:-30], "the archive is broken"),
    "locked.zip": (encrypted(zip_of(FILES)), "/dump/posts.csv: is encrypted; unpack it with 7z x"),
    **{
        f"damaged.csv{suffix}": (b"\0" + PACKERS[kind](CONTENT)[1:], f"is no {suffix} file, although its name says so")
        for kind, suffix in SUFFIXES.items()
        if kind != "brotli"
    },
    "damaged.tar": (b"\1" + tar_of(FILES, format=0)[1:250] + bytes(9), "is no .tar file, although its name says so"),
    "damaged.tar.gz": (PACKERS["gzip"](parquet()[::-1]), "is no .tar.gz file, although its name says so"),
    "damaged.zip": (b"\xff" + zip_of(FILES)[1:], "is no .zip file, although its name says so"),
    "inner.zip": (zip_of({"a.csv.xz": PACKERS["xz"](CONTENT)[:-9]}), "/a.csv.xz: the xz stream is broken"),
    "inner.tar": (tar_of({"a": b"x", "b.csv.gz": b"\x1f\x8b"}), "/b.csv.gz: the gzip stream is broken"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_is_refused_by_name(unpack: Unpacker, name: str) -> None:
    content, problem = REFUSED[name]
    message = unpack.refused(content, name)
    assert problem in message
    assert "\\x" not in message


@pytest.mark.parametrize("suffix", [*SUFFIXES.values(), ".zip", ".tar", ".tar.gz"])
def test_text_is_read_whatever_its_name(unpack: Unpacker, suffix: str) -> None:
    name = f"posts.csv{suffix}"
    if suffix != ".br":  # which only the name tells
        assert unpack("長い髪,é\n".encode() * 999, name) == {name: "長い髪,é\n".encode() * 999}


@pytest.mark.parametrize("text", ["ORC,id\n1,2\n", "set name,id\n1,2\n", "-- id\n", "Obj,id\n", "PRAGMA\tid\n"])
def test_text_that_begins_like_another_format_is_text(unpack: Unpacker, text: str) -> None:
    assert unpack(text.encode(), "posts.csv") == {"posts.csv": text.encode()}


def test_a_member_that_is_not_read_names_both_commands(unpack: Unpacker) -> None:
    message = unpack.refused(tar_of({"posts.csv.xz": b"LZIP\x01" + bytes(99)}), "my dump.tar")
    assert f"unpack it with tar -xf '{unpack.folder}/my dump.tar' and then lzip -d posts.csv.xz and set" in message


def test_other_members_need_no_password(unpack: Unpacker) -> None:
    locked, open_zip = encrypted(zip_of({"image.jpg": b"x"})), zip_of({"posts.csv": CONTENT})
    found = unpack(tar_of({"images.zip": locked, "posts.zip": open_zip}), "a.tar")
    assert found == {"a.tar/posts.zip/posts.csv": CONTENT}


def disk_with(free: int) -> Callable[[str], SimpleNamespace]:
    return lambda _folder: SimpleNamespace(free=free)


@pytest.mark.parametrize(("room", "fits"), [(len(CONTENT), True), (len(CONTENT) - 1, False)])
def test_a_member_that_does_not_fit_on_the_disk(
    unpack: Unpacker, monkeypatch: pytest.MonkeyPatch, room: int, fits: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", disk_with(FREE_BYTES + room))
    if fits:
        assert unpack(tar_of({"posts.csv": CONTENT}), "a.tar") == {"a.tar/posts.csv": CONTENT}
    else:
        message = unpack.refused(tar_of({"posts.csv": CONTENT}), "a.tar")
        assert f"a.tar/posts.csv: the disk of {unpack.scratch} has no room to unpack it; free some" in message


def test_a_stream_that_unpacks_to_more_than_the_disk_holds(unpack: Unpacker, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []

    def disk_usage(folder: Path) -> SimpleNamespace:
        used.append(sum(file.stat().st_size for file in Path(folder).iterdir()))
        return SimpleNamespace(free=FREE_BYTES + (8 << 20) - used[-1])

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    monkeypatch.setattr("booru_embed_core.posts.containers._CHECKED_BYTES", 2 << 20)
    assert "has no room to unpack it" in unpack.refused(PACKERS["xz"](bytes(100 << 20)), "posts.csv.xz")
    assert max(used) < 12 << 20


def test_a_disk_that_is_full_all_the_same(unpack: Unpacker, monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full")
    monkeypatch.setattr("booru_embed_core.posts.containers._suffix", lambda name: "")
    folder = unpack.scratch / "full"
    folder.mkdir()
    os.symlink(full, folder / "1")

    class Folder:
        """The folder for unpacked files, whose first file is on a full disk."""

        def __init__(self, scratch: Path) -> None: ...
        def __enter__(self) -> Path:
            return folder

        def __exit__(self, *error: object) -> None:
            shutil.rmtree(folder)

    monkeypatch.setattr("booru_embed_core.posts.containers.scratch_folder", Folder)
    assert "has no room to unpack it" in unpack.refused(PACKERS["xz"](CONTENT), "posts.csv.xz")


def test_leaving_early_removes_what_was_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(PACKERS["gzip"](tar_of({"a.csv": CONTENT, "b.csv": CONTENT})))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with closing(unpacked(tmp_path / "a.tar.gz", "a.tar.gz", scratch, [])) as files:
        path, _ = next(files)
        assert path.is_file()
    assert list(scratch.iterdir()) == []


def test_errors_of_a_member_call_it_by_its_label(tmp_path: Path) -> None:
    path, file = tmp_path / "1.csv", tmp_path / "a.tar"
    label = "a.tar/posts.csv"
    with pytest.raises(ExportError, match=f"^{label}: wrong columns in {label}$"), called(label, path, file):
        raise ExportError(f"{path}: wrong columns in {path}")
    with pytest.raises(ColumnsError, match=f"^{label}: wrong columns$") as raised, called(label, path, file):
        raise ColumnsError(f"{path}: wrong columns", ["id"], ["rating"], holds_posts=True)
    assert (raised.value.found, raised.value.missing, raised.value.holds_posts) == (("id",), ("rating",), True)
    with pytest.raises(ExportError, match=f"^{file}: wrong columns$"), called("a.tar", file, file):
        raise ExportError(f"{file}: wrong columns")


def test_the_suffixes_of_archives_are_those_that_are_read(unpack: Unpacker) -> None:
    assert {suffix for suffix in ARCHIVE_SUFFIXES if suffix.startswith(".tar")} == {
        ".tar" + suffix for suffix in ("", *SUFFIXES.values())
    }


@given(
    members=st.lists(
        st.tuples(st.sampled_from(["a.csv", "b.jsonl", "c.jpg", "d"]), st.binary(max_size=2000)), max_size=5
    ),
    kind=st.sampled_from(["none", "gzip", "zstd", "xz"]),
)
def test_each_member_is_found_or_named(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes]], kind: str
) -> None:
    unpack = Unpacker(tmp_path_factory.mktemp("any"))
    safe = [(name, b"x" + content) for name, content in members]
    content = tar_of([*safe, ("last.csv", CONTENT)])
    found = unpack(content if kind == "none" else PACKERS[kind](content), "a.tar")
    assert len(found) + len(unpack.left_out) == len(members) + 1
    wanted = [content for name, content in safe if name in ("a.csv", "b.jsonl")]
    assert list(found.values()) == [*wanted, CONTENT]

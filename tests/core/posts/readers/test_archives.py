"""The members of tar and zip: each once, in order, as streams; a damaged archive is refused and never cut short."""

from __future__ import annotations

import io
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.readers.archives import is_archive, members
from booru_embed_core.posts.validation import ExportError
from tests.core.posts.archive_helpers import CONTENT, PACKERS, encrypted, tar_info, tar_of, zip_of

FILES = {"a.txt": b"long_hair", "sub/b.json": b'{"tags": "x"}', "empty": b"", "posts.csv": CONTENT}
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": 14,
    "zstd": 93,
}


def contents(file: Path) -> list[tuple[str, bytes]]:
    found = []
    for member in members(file):
        with member.open() as stream:
            found.append((member.name, stream.read()))
    return found


def written(folder: Path, content: bytes, name: str = "posts.bin") -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["none", *sorted(PACKERS)])
def test_a_tar_in_any_compression(tmp_path: Path, form: str, kind: str) -> None:
    long_names = {f"{'folder/' * 30}{'長い名' * 20}.txt": b"x"} if form != "ustar" else {}
    content = tar_of(FILES | long_names, format=FORMATS[form])
    packed = PACKERS[kind](content) if kind != "none" else content
    file = written(tmp_path, packed, "a.tar.br" if kind == "brotli" else "posts.bin")
    assert is_archive(file)
    assert contents(file) == [*(FILES | long_names).items()]


@pytest.mark.parametrize("name", METHODS)
def test_a_zip_of_each_method(tmp_path: Path, name: str) -> None:
    if METHODS[name] == 93 and sys.version_info < (3, 14):
        from backports.zstd import zipfile as packer
    else:
        packer = zipfile
    out = io.BytesIO()
    with packer.ZipFile(out, "w", METHODS[name]) as archive:
        archive.writestr("sub/", b"")
        for member, content in FILES.items():
            archive.writestr(member, content)
    assert contents(written(tmp_path, out.getvalue())) == [*FILES.items()]


def test_a_zip_of_64_bits_and_one_that_was_streamed(tmp_path: Path) -> None:
    class Pipe(io.RawIOBase):
        """A file that cannot be sought, for which zip writes lengths behind the members."""

        def __init__(self, file: Path) -> None:
            self._out = file.open("wb")

        def writable(self) -> bool:
            return True

        def write(self, data: bytes) -> int:  # type: ignore[override]
            return self._out.write(data)

        def close(self) -> None:
            self._out.close()
            super().close()

    with (
        Pipe(tmp_path / "piped.zip") as pipe,
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("posts.csv", "w", force_zip64=True) as stream,
    ):
        stream.write(CONTENT)
    assert contents(tmp_path / "piped.zip") == [("posts.csv", CONTENT)]


def test_links_devices_and_folders_have_no_content(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tar_info("folder", kind=tarfile.DIRTYPE))
        archive.addfile(tar_info("/etc/../posts.csv", 2), io.BytesIO(b"ok"))
        archive.addfile(tar_info("hard.csv", kind=tarfile.LNKTYPE, link="/etc/../posts.csv"))
        archive.addfile(tar_info("soft.csv", kind=tarfile.SYMTYPE, link="/etc/passwd"))
        archive.addfile(tar_info("pipe", kind=tarfile.FIFOTYPE))
        archive.addfile(tar_info("disk", kind=tarfile.BLKTYPE))
    found = [(member.name, member.size) for member in members(written(tmp_path, out.getvalue()))]
    assert found == [("/etc/../posts.csv", 2), *((name, None) for name in ("hard.csv", "soft.csv", "pipe", "disk"))]


def test_a_sparse_file_has_its_holes(tmp_path: Path) -> None:
    # What GNU tar writes with --sparse --format=gnu: a header with the map, and only the data.
    header = bytearray(tar_info("sparse.csv", 512).tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (1024, 512)
    header[483:495] = b"%011o\0" % 2048
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    content = bytes(header) + b"x" * 512 + bytes(1024)
    assert contents(written(tmp_path, content)) == [("sparse.csv", bytes(1024) + b"x" * 512 + bytes(512))]


def test_what_is_no_archive(tmp_path: Path) -> None:
    for content in (CONTENT, b"a", bytes(2000), b"PK", b'{"ustar": 1}' * 99, PACKERS["xz"](CONTENT)):
        assert not is_archive(written(tmp_path, content))


@pytest.mark.parametrize("kind", ["none", "gzip"])
@pytest.mark.parametrize("number", range(1, 4))
def test_a_damaged_header_is_not_the_end(tmp_path: Path, kind: str, number: int) -> None:
    content = bytearray(tar_of({f"{n}.csv": b"x" * 700 for n in range(4)}))
    content[number * 1536 + 5] ^= 1
    packed = bytes(content) if kind == "none" else PACKERS[kind](bytes(content))
    with pytest.raises(ExportError, match=r"posts\.bin: the archive is broken \(bad checksum\); fetch the file again"):
        contents(written(tmp_path, packed))


@pytest.mark.parametrize("kind", ["none", "gzip"])
def test_every_cut_of_a_tar_is_refused(tmp_path: Path, kind: str) -> None:
    content = tar_of({f"{n}.csv": b"x" * 700 for n in range(3)})
    end = content.rstrip(b"\0")
    for length in {*range(520, len(end), 97), 1024, 1536, 2048, 3072, 4608}:
        cut = content[:length] if kind == "none" else PACKERS[kind](content[:length])
        with pytest.raises(ExportError, match=r"posts\.bin: the archive is broken"):
            contents(written(tmp_path, cut))


def test_one_block_of_zeros_is_end_enough(tmp_path: Path) -> None:
    content = tar_of({"a.csv": b"x"})
    assert contents(written(tmp_path, content[:1536])) == [("a.csv", b"x")]


@pytest.mark.parametrize("kind", ["none", "xz"])
def test_a_second_archive_behind_the_first_is_named(tmp_path: Path, kind: str) -> None:
    content = tar_of({"a.csv": b"x"}) + tar_of({"b.csv": b"y"})
    packed = content if kind == "none" else PACKERS[kind](content)
    with pytest.raises(ExportError, match=r"follow the tar archive; .*tar --ignore-zeros -xf .*posts\.bin"):
        contents(written(tmp_path, packed))


def test_damage_behind_the_last_member_is_found(tmp_path: Path) -> None:
    packed = bytearray(PACKERS["gzip"](tar_of(FILES)))
    packed[-5] ^= 1  # of the checksum
    with pytest.raises(ExportError, match="the gzip stream is broken"):
        contents(written(tmp_path, bytes(packed)))


def test_a_header_of_any_length_stays_out_of_memory(tmp_path: Path) -> None:
    header = tar_info("x", 1 << 40, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ExportError, match="archive is broken"):
        contents(written(tmp_path, header + bytes(2048)))


def test_a_member_of_negative_size(tmp_path: Path) -> None:
    content = tar_of({"a.csv": b"x"})[:1024] + tar_info("x.csv", -1536).tobuf(tarfile.GNU_FORMAT) + bytes(2048)
    with pytest.raises(ExportError, match="archive is broken"):
        contents(written(tmp_path, content))


def test_a_password_is_named(tmp_path: Path) -> None:
    file = written(tmp_path, encrypted(zip_of({"posts.csv": CONTENT})), "posts.zip")
    with pytest.raises(ExportError, match=r"posts\.zip/posts\.csv: is encrypted; unpack it with 7z x .*posts\.zip"):
        contents(file)
    assert [member.is_encrypted for member in members(file)] == [True]


def test_a_method_that_is_not_read_is_named(tmp_path: Path) -> None:
    content = zip_of({"posts.csv": CONTENT})
    for sign, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.index(sign) + offset
        content = content[:at] + b"\x09" + content[at + 1 :]  # deflate64, as Windows writes it above 2 GiB
    with pytest.raises(ExportError, match=r"posts\.zip: a member of the archive cannot be read .*7z x .*posts\.zip"):
        contents(written(tmp_path, content, "posts.zip"))


def test_a_zip_behind_a_zip_is_named(tmp_path: Path) -> None:
    content = zip_of({"a.csv": b"x"}) + zip_of({"b.csv": b"y"})
    with pytest.raises(ExportError, match=r"before its members, such as another zip; unpack it with 7z x .*posts\.zip"):
        contents(written(tmp_path, content, "posts.zip"))


@pytest.mark.parametrize("length", [4, 30, 100, -1, -22])
def test_a_cut_zip_is_refused(tmp_path: Path, length: int) -> None:
    with pytest.raises(ExportError, match=r"posts\.bin: the archive is broken"):
        contents(written(tmp_path, zip_of(FILES)[:length]))


def test_a_changed_byte_in_a_zip_is_found(tmp_path: Path) -> None:
    content = bytearray(zip_of({"posts.csv": CONTENT}, zipfile.ZIP_STORED))
    content[1000] ^= 1
    with pytest.raises(ExportError, match="Bad CRC-32"):
        contents(written(tmp_path, bytes(content)))


def peak_bytes(file: Path) -> int:
    """The memory of going through the members of `file`."""
    tracemalloc.start()
    assert sum(1 for _ in members(file)) > 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize("kind", ["none", "gzip"])
def test_members_that_were_passed_do_not_stay_in_memory(tmp_path: Path, kind: str) -> None:
    few, many = (tar_of({f"{number}.jpg": b"x" for number in range(count)}) for count in (1000, 5000))
    if kind != "none":
        few, many = PACKERS[kind](few), PACKERS[kind](many)
    files = written(tmp_path, few, "few.tar"), written(tmp_path, many, "many.tar")
    peak_bytes(files[0])  # imports
    assert peak_bytes(files[1]) < peak_bytes(files[0]) + (1 << 20)


@given(
    sizes=st.lists(st.sampled_from([0, 1, 511, 512, 513, 9000, 10240, 20000]), min_size=1, max_size=6),
    num_read=st.lists(st.integers(0, 12000), min_size=6, max_size=6),
    kind=st.sampled_from(["none", "gzip", "zstd"]),
)
def test_members_may_be_read_in_part(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], num_read: list[int], kind: str
) -> None:
    files = {f"{number}.bin": bytes([number + 1]) * size for number, size in enumerate(sizes)}
    content = tar_of(files)
    packed = content if kind == "none" else PACKERS[kind](content)
    file = written(tmp_path_factory.mktemp("parts"), packed)
    for member, size in zip(members(file), num_read, strict=False):
        with member.open() as stream:
            assert stream.read(size) == files[member.name][:size]

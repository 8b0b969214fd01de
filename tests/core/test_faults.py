"""Which errors are faults of the machine, whichever library raises them, and what is said of them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from booru_embed_core import faults
from booru_embed_core.errors import DiskError, disk_errors, library_errors
from booru_embed_core.faults import MachineError, machine_error

FOLDER = Path("/wh")
MEMORY = [
    MemoryError(),
    MemoryError("Unable to allocate 3.2 GiB for an array with shape (9, 9)"),
    pa.lib.ArrowMemoryError("malloc of size 64 failed"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    RuntimeError("unable to mmap 64 bytes from file </x>: Cannot allocate memory (12)"),
    RuntimeError("std::bad_alloc"),
    duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate data of size 16.0 MiB"),
    ImportError("libtorch.so: failed to map segment from shared object"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: f"{type(error).__name__}-{str(error)[:12]}")
def test_memory_that_ran_out_is_told_whichever_library_asked_for_it(error: Exception) -> None:
    assert isinstance(error, library_errors())
    found = machine_error(error, FOLDER, less_memory="lower [training] batch_posts")
    assert isinstance(found, MachineError)
    line = str(found)
    assert line.startswith("memory ran out")
    assert line.endswith(", or lower [training] batch_posts")
    assert "\n" not in line
    assert "Errno" not in line


@pytest.mark.parametrize("words", ["CUDA out of memory. Tried to allocate 2 GiB", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_memory_of_the_gpu_is_told_apart(words: str) -> None:
    line = str(machine_error(RuntimeError(words + "\nmore"), FOLDER))
    assert line == f"the memory of the GPU ran out ({words}); end what else uses it"


def test_a_limit_of_memory_is_to_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_limit_bytes", lambda: 512_000_000)
    file = OSError(errno.ENOMEM, "Cannot allocate memory", "posts.csv")
    assert str(machine_error(file, FOLDER)) == (
        "memory ran out (posts.csv); raise the limit of this process, 512 MB (ulimit -v)"
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENODEV, "", "/d/x"), "/d/x: No such device; check the disk and its connection (dmesg)"),
        (OSError(errno.ETIMEDOUT, ""), "/wh: Connection timed out; check the disk, or the network folder, and its "),
        (OSError(errno.ENOTCONN, "", b"/d/x"), "/d/x: Transport endpoint is not connected; mount the network folder"),
        (OSError(errno.ENOLCK, "", "/wh/.lock"), "/wh/.lock: No locks available; choose a folder on a local disk"),
        (OSError(errno.ENAMETOOLONG, "", "/wh/x"), "/wh/x: File name too long; choose a shorter path"),
        (OSError(errno.ELOOP, "", "/wh/x"), "/wh/x: Too many levels of symbolic links; mend the links that"),
        (OSError(errno.EBUSY, "", "/wh/x"), "/wh/x: Device or resource busy; end what is using it, or elsewhere"),
        (IsADirectoryError(errno.EISDIR, "", "/wh/x"), "/wh/x: Is a directory; a folder is where a file belongs; move"),
        (NotADirectoryError(errno.ENOTDIR, "", "/wh/x"), "/wh/x: Not a directory; a file is where a folder belongs; m"),
        (FileNotFoundError(errno.ENOENT, "", "/wh/x"), "/wh/x: No such file or directory; put it back, or correct"),
        (BlockingIOError(errno.EAGAIN, ""), "no further thread or process can be started ("),
        (duckdb.IOException('IO Error: Cannot open file "x": Too many open files'), "/wh: Too many open files; raise"),
        (
            RuntimeError("[enforce fail at inline_container.cc:5] . unexpected pos 4 vs 0"),
            "{cwd}: Input/output error",
        ),
        (ImportError("x.so: cannot open shared object file: Too many open files"), "/wh: Too many open files; raise"),
    ],
    ids=lambda value: str(value)[:24] if isinstance(value, Exception) else "",
)
def test_other_faults_of_a_disk_or_a_limit_are_told_with_their_remedy(error: Exception, line: str) -> None:
    assert isinstance(error, library_errors())
    folder = Path.cwd() if "{cwd}" in line else FOLDER
    assert str(machine_error(error, folder, "elsewhere")).startswith(line.format(cwd=folder))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory, says a post"),
        RuntimeError("shapes do not match"),
        ImportError("cannot import name 'x'"),
        OSError("a line of ours; mend it"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),  # of what?
        duckdb.ConversionException("Conversion Error: 'No space left on device' is no number"),
    ],
    ids=lambda error: str(error)[:24],
)
def test_errors_of_content_and_of_the_program_are_none(error: Exception) -> None:
    # DuckDB's error quotes a record, which may hold any words: it is not among those that are looked at.
    assert not isinstance(error, library_errors()) or machine_error(error, FOLDER) is None


def test_an_error_that_is_told_already_stays_as_it_is() -> None:
    for told in (DiskError(errno.EIO, FOLDER), MachineError(errno.ENOMEM, "memory ran out; end other programs")):
        assert machine_error(told, Path("/other")) is told
        with pytest.raises(type(told), match=str(told)[:12]), disk_errors(Path("/other")):
            raise told
    assert os.strerror(errno.EIO) in str(DiskError(errno.EIO, FOLDER))

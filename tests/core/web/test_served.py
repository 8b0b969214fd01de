"""What is served changes when its version does, and never for the worse."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from booru_embed_core.web.served import LeftOut, Loading, Served, without_folders

SECONDS = 30


class Files:
    """What a test says lies in the warehouse: a checkpoint by its name, or the error of reading it."""

    def __init__(self) -> None:
        self.version: Hashable = "v1"
        self.broken: dict[Hashable, BaseException] = {}
        self.left_out: tuple[LeftOut, ...] = ()
        self.num_loads = 0

    def load(self) -> Served:
        self.num_loads += 1
        if self.version in self.broken:
            raise self.broken[self.version]
        model: Any = Model()
        return Served(model, model, checkpoint=str(self.version), left_out=self.left_out)


class Model:
    """Stands for an embedder."""


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@contextmanager
def running(files: Files, said: list[str], on_load: Callable[[], None] = lambda: None) -> Iterator[Loading]:
    loading = Loading(files.load, lambda: files.version, on_load, said.append, poll_seconds=0.001)
    loading.start()
    try:
        yield loading
    finally:
        loading.stop()


def test_a_moved_version_is_loaded_once_and_the_old_one_freed() -> None:
    files, said, loads = Files(), list[str](), list[int]()
    with running(files, said, lambda: loads.append(files.num_loads)) as loading:
        wait_until(lambda: loads == [1])
        old = weakref.ref(loading.served.embedder)
        files.version = "v2"
        wait_until(lambda: loads == [1, 2])
        assert loading.served.checkpoint == "v2"
        assert old() is None
        time.sleep(0.02)
        assert files.num_loads == 2
    assert said == ["checkpoint v2 answers now"]


@pytest.mark.parametrize(
    ("error", "message"),
    [(ValueError("model.safetensors:\ntoo short"), "model.safetensors: too short"), (KeyError("x"), "KeyError: 'x'")],
)
def test_a_version_that_fails_leaves_the_old_one_until_another_comes(error: BaseException, message: str) -> None:
    files, said = Files(), list[str]()
    files.broken["v2"] = error
    with running(files, said) as loading:
        wait_until(lambda: loading._served is not None)
        files.version = "v2"
        wait_until(lambda: loading.error is not None)
        assert (loading.served.checkpoint, loading.error) == ("v1", message)
        time.sleep(0.02)
        assert files.num_loads == 2  # it is not tried over and over
        files.version = "v1"
        wait_until(lambda: loading.error is None)
    assert said == [f"error: {message}; checkpoint v1 still answers", "checkpoint v1 answers now"]


def test_a_first_load_that_fails_is_said_and_mended_by_the_next() -> None:
    files, said = Files(), list[str]()
    files.broken["v1"] = OSError("no such file")
    with running(files, said) as loading:
        wait_until(lambda: loading.error is not None)
        with pytest.raises(HTTPException, match="no such file"):
            assert loading.served
        files.version, files.left_out = "v2", (LeftOut("posts", "made by another model"),)
        wait_until(lambda: loading.error is None)
        assert loading.served.checkpoint == "v2"
    assert said == ["error: no such file", "left out: posts: made by another model"]


class Odd(BaseException):
    """As the panics of libraries in Rust are: no `Exception`."""


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AttributeError("'list' object has no attribute 'items'"), "AttributeError: 'list' object has no"),
        (RecursionError("too deep"), "RecursionError: too deep"),
        (MemoryError(), "MemoryError"),
        (ValueError(), "ValueError"),
        (SystemExit(3), "SystemExit: 3"),
        (Odd("panicked\nat x.rs"), "Odd: panicked at x.rs"),
    ],
)
def test_whatever_fails_is_said_and_the_watch_goes_on(error: BaseException, message: str) -> None:
    files, said = Files(), list[str]()
    files.broken["v1"] = error
    with running(files, said) as loading:
        wait_until(lambda: loading.error is not None)
        with pytest.raises(HTTPException, match=message) as caught:
            assert loading.served
        assert caught.value.status_code == 503
        files.version = "v2"
        wait_until(lambda: loading._served is not None)


def test_neither_a_closed_stderr_nor_an_odd_version_ends_the_watch() -> None:
    files = Files()

    def broken() -> None:
        raise BrokenPipeError

    def version() -> Hashable:
        if files.version == "odd":
            raise RuntimeError("cannot be told")
        return files.version

    loading = Loading(files.load, version, broken, lambda _line: broken(), poll_seconds=0.001)
    loading.start()
    try:
        for number, version_now in enumerate(("v1", "odd", "v2")):
            files.version = version_now
            wait_until(lambda number=number: files.num_loads == number + 1)
        wait_until(lambda: loading.served.checkpoint == "v2")
    finally:
        loading.stop()


def test_a_stopped_watch_loads_no_more() -> None:
    files = Files()
    with running(files, []) as loading:
        wait_until(lambda: loading._served is not None)
    wait_until(lambda: all(thread.name != "load" for thread in threading.enumerate()))
    files.version = "v2"
    time.sleep(0.01)
    assert files.num_loads == 1


@pytest.mark.parametrize(
    ("message", "short"),
    [
        ("/srv/wh/tag_embeddings/current/tag_embeddings.parquet: of another", "tag_embeddings.parquet: of another"),
        ("'/srv/my data/x': no such file", "'x': no such file"),
        ("posts: give a/b or http://127.0.0.1:80/x, not 1/2", "posts: give a/b or http://127.0.0.1:80/x, not 1/2"),
    ],
)
def test_folders_of_the_machine_are_not_told(message: str, short: str) -> None:
    assert without_folders(message) == short


def test_known_folders_are_not_told_whatever_their_names() -> None:
    known = ["/srv/a,b/wh", "data/wh", "/srv/a,b"]
    assert without_folders("/srv/a,b/wh/x/config.json: no such file", known) == "x/config.json: no such file"
    assert without_folders("data/wh/x.json: no such file, of data/wh", known) == "x.json: no such file, of wh"
    assert without_folders("mydata/wh/x, data/whole/y", known) == "mydata/wh/x, data/whole/y"


def test_answers_hide_known_folders_and_keep_what_was_asked() -> None:
    loading = Loading(lambda: pytest.fail("not called"), folders=lambda: ["/srv/wh", "/", ""])
    assert loading.hidden_in_answer("/a/b/: unknown; /srv/wh/x is gone") == "/a/b/: unknown; x is gone"
    assert loading.hidden("/a/b/c is gone") == "c is gone"

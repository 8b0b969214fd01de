"""What the API answers from, loaded in the background and again when its files move."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from starlette.exceptions import HTTPException

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.errors import one_line
from booru_embed_core.web.completions import Completer
from booru_embed_core.web.tag_map import TagMap

if TYPE_CHECKING:
    from booru_embed_core.search.post_search import PostSearch

POLL_SECONDS: Final = 1.0
_FOLDERS: Final = re.compile(r"(?<![\w/:.])/(?:[^/:;,'\"]+/)+")


class LeftOut(NamedTuple):
    """A product that lies beside the checkpoint but does not belong to it.

    Attributes:
        what: ``map`` or ``posts``.
        reason: one line.
    """

    what: str
    reason: str


@dataclass(frozen=True, eq=False)
class Served:
    """What the API answers from; `posts` and `tag_map` are optional.

    Attributes:
        embedder: the model.
        completer: of `embedder`.
        posts: for searches, made by `embedder`.
        tag_map: of the tags of `embedder`.
        checkpoint: the name of the checkpoint's folder, in a warehouse its version.
        left_out: products that were found but not loaded.
    """

    embedder: BooruEmbedder
    completer: Completer
    posts: PostSearch | None = None
    tag_map: TagMap | None = None
    checkpoint: str = ""
    left_out: tuple[LeftOut, ...] = ()


class Loading:
    """Calls `load` in the background, and again whenever `version` changes; in the meantime the old result is served.

    A request takes `served` once, so it sees one model, whatever moves while it runs.

    Args:
        load: makes what is served.
        version: changes when `load` would return something else, and takes microseconds.
        on_load: called after each load.
        say: prints a line for whoever runs the server.
        poll_seconds: time between two calls of `version`.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        version: Callable[[], Hashable] = lambda: None,
        on_load: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _line: None,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._load = load
        self._version = version
        self._on_load = on_load
        self._say = say
        self._poll_seconds = poll_seconds
        self._served: Served | None = None
        self._is_stopped = threading.Event()
        self.error: str | None = None
        """Why the last load failed, in one line; None if it did not."""

    def start(self) -> None:
        """Loads, and starts to watch `version`, in a thread of its own."""
        threading.Thread(target=self._run, daemon=True, name="load").start()

    def stop(self) -> None:
        """Ends the watch; a load in progress is left to itself."""
        self._is_stopped.set()

    @property
    def served(self) -> Served:
        """What `load` returned last.

        Raises:
            HTTPException: 503, while the first load runs and after it failed.
        """
        if self._served is None:
            raise HTTPException(503, self.error or "the model is loading; try again in a few seconds")
        return self._served

    def _run(self) -> None:
        tried: list[Hashable] = []
        while not self._is_stopped.is_set():
            version = self._version()
            if tried != [version]:
                tried = [version]
                self._load_once()
            self._is_stopped.wait(self._poll_seconds)

    def _load_once(self) -> None:
        # A future, since no error of any kind may end the watch.
        loaded = _call(self._load)
        error = loaded.exception()
        old = self._served
        if error is not None:
            self.error = _described(error)
            self._say(f"error: {self.error}" + (f"; checkpoint {old.checkpoint} still answers" if old else ""))
            return
        self._served, self.error = loaded.result(), None
        del loaded
        if old is not None:
            self._say(f"checkpoint {self._served.checkpoint} answers now")
        for what, reason in self._served.left_out:
            self._say(f"left out: {what}: {reason}")
        del old
        self._on_load()


def without_folders(message: str) -> str:
    """`message` with only the names of files for absolute paths, which are nobody's business outside of the machine."""
    return _FOLDERS.sub("", message)


def _described(error: BaseException) -> str:
    is_plain = isinstance(error, ValueError | OSError | ImportError)
    return one_line(error) if is_plain else f"{type(error).__name__}: {one_line(error)}"


def _call(function: Callable[[], Served]) -> Future[Served]:
    """The settled future of `function`."""
    future: Future[Served] = Future()
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001  the future raises it again
        future.set_exception(error)
    return future

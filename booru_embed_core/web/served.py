"""What the API answers from, loaded in the background and again when its files move."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Collection, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from starlette.exceptions import HTTPException

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.errors import one_line
from booru_embed_core.web import models
from booru_embed_core.web.completions import Completer
from booru_embed_core.web.content import Content
from booru_embed_core.web.tag_map import TagMap, pieces

if TYPE_CHECKING:
    from booru_embed_core.search.post_search import PostSearch

POLL_SECONDS: Final = 1.0
T = TypeVar("T")
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
        waiting: ``posts`` and ``map`` while they are still being loaded.
    """

    embedder: BooruEmbedder
    completer: Completer
    posts: PostSearch | None = None
    tag_map: TagMap | None = None
    checkpoint: str = ""
    left_out: tuple[LeftOut, ...] = ()
    waiting: frozenset[str] = frozenset()

    def check_not_waiting(self, what: str) -> None:
        """Raises an HTTPException with status 503 while `what` is being loaded."""
        if what in self.waiting:
            verb = "are" if what == "posts" else "is"
            raise HTTPException(503, f"the {what} {verb} loading; try again in a few seconds")

    @cached_property
    def map_answer(self) -> Content | None:
        """The whole map as JSON, made once: for all tags of Danbooru that takes seconds."""
        if self.tag_map is None:
            return None
        indices, vocab = self.tag_map.tag_indices, self.embedder.vocab
        answer = models.TagMap(
            tags=[vocab.tags[index] for index in indices.tolist()],
            categories=vocab.categories[indices].tolist(),
            counts=vocab.counts[indices].tolist(),
            x=self.tag_map.points[:, 0].tolist(),
            y=self.tag_map.points[:, 1].tolist(),
        )
        return Content.of(answer.model_dump_json().encode())

    @cached_property
    def map_pieces(self) -> tuple[Content, ...] | None:
        """The map in pieces for the page, made once."""
        return (
            None
            if self.tag_map is None
            else tuple(Content.of(one) for one in pieces(self.tag_map, self.embedder.vocab))
        )


class Loading:
    """Calls `load` in the background, and again whenever `version` changes; in the meantime the old result is served.

    A request takes `served` once, so it sees one model, whatever moves while it runs.

    Args:
        load: makes what is served.
        version: changes when `load` would return something else, and takes microseconds.
        on_load: called after each load.
        say: prints a line for whoever runs the server.
        poll_seconds: time between two calls of `version`.
        folders: of this machine, which answers do not name.
        first: makes what answers until the first `load` is done; None where nothing does.
    """

    def __init__(
        self,
        load: Callable[[], Served],
        version: Callable[[], Hashable] = lambda: None,
        on_load: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _line: None,
        poll_seconds: float = POLL_SECONDS,
        folders: Callable[[], Collection[str]] = tuple,
        first: Callable[[], Served | None] = lambda: None,
    ) -> None:
        self._load = load
        self._first = first
        self._version = version
        self._on_load = on_load
        self._say = say
        self._poll_seconds = poll_seconds
        self._folders = folders
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
            raise HTTPException(503, self.reload_error or "the model is loading; try again in a few seconds")
        return self._served

    @property
    def reload_error(self) -> str | None:
        """Why the last load failed, for everybody: without folders of this machine."""
        return None if self.error is None else self.hidden(self.error)

    def hidden(self, message: str) -> str:
        """A message of ours for everybody: without folders of this machine."""
        return without_folders(message, self._folders())

    def hidden_in_answer(self, message: str) -> str:
        """Like `hidden`, but what a request names itself, such as a tag with slashes, stays as it is."""
        return _without_known(message, self._folders())

    def _run(self) -> None:
        tried: list[Hashable] = []
        while not self._is_stopped.is_set():
            version = _settled(self._version)
            # A version that cannot be told is loaded like any other, so that its error is said.
            now = repr(version.exception()) if version.exception() else version.result()
            if tried != [now]:
                tried = [now]
                self._load_once()
            self._is_stopped.wait(self._poll_seconds)

    def _load_once(self) -> None:
        # Futures, since no error of any kind may end the watch: neither one of the load, nor a closed stderr.
        if self._served is None and not (first := _settled(self._first)).exception():
            self._served = first.result()
            del first
        loaded = _settled(self._load)
        error, old = loaded.exception(), self._served
        is_first = old is None or bool(old.waiting)
        if error is not None:
            self.error = _described(error)
            still = f"; checkpoint {old.checkpoint} still answers" if old else ""
            _settled(lambda: self._say(f"error: {self.error}{still}"))
            return
        self._served, self.error = loaded.result(), None
        del loaded
        lines = [] if is_first else [f"checkpoint {self._served.checkpoint} answers now"]
        lines += [f"left out: {what}: {reason}" for what, reason in self._served.left_out]
        del old
        _settled(lambda: [self._say(line) for line in lines])
        _settled(self._on_load)


def without_folders(message: str, known: Collection[str] = ()) -> str:
    """`message` with only the names of files for absolute paths, and for those below a folder of `known`."""
    return _FOLDERS.sub("", _without_known(message, known))


def _without_known(message: str, known: Collection[str]) -> str:
    for folder in sorted(known, key=len, reverse=True):
        name = os.path.basename(folder)
        if name:  # not the root, nor nothing
            own = rf"(?<![\w.-]){re.escape(folder)}"
            message = re.sub(rf"{own}(?![\w./-])", name.replace("\\", r"\\"), re.sub(f"{own}/", "", message))
    return message


def _described(error: BaseException) -> str:
    text = one_line(error)
    if isinstance(error, ValueError | OSError | ImportError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _settled(function: Callable[[], T]) -> Future[T]:
    """The settled future of `function`."""
    future: Future[T] = Future()
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001  the future raises it again
        future.set_exception(error)
    return future

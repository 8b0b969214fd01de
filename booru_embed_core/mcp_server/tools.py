"""The tools: what each takes, does and answers. Nothing here knows the protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from booru_embed_core.embedder.captions import UNKNOWN_REMEDY
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.fill import fill_all, read_fill
from booru_embed_core.errors import one_line
from booru_embed_core.web import answers, models
from booru_embed_core.web.completions import Completer

if TYPE_CHECKING:
    from booru_embed_core.search.post_search import PostSearch

_PREFIX_REMEDY: Final = "call `complete` with its beginning as `prefix` to find its spelling"
_NO_POSTS: Final = (
    "no posts are searched here; make an index with `booru-embed index`, and name its folder to `booru-embed mcp` "
    "with --posts"
)
_Asked = TypeVar("_Asked", bound=BaseModel)


class ToolError(ValueError):
    """A tool cannot answer what it was asked; the message is one line with a remedy, for the assistant to read."""


class Assistant:
    """What the tools answer from. Threads may share an instance.

    Args:
        embedder: the model.
        find_posts: the posts for `search`, or None and the reason why there are none; called with the first search.
    """

    def __init__(self, embedder: BooruEmbedder, find_posts: Callable[[], tuple[PostSearch | None, str]]) -> None:
        self.embedder = embedder
        self._find_posts = find_posts
        self._completer_lock, self._posts_lock = threading.Lock(), threading.Lock()
        self._completer: Completer | None = None
        self._posts: tuple[PostSearch | None, str] | None = None

    @property
    def completer(self) -> Completer:
        """Completes; made when it is first asked for, since its index of a large vocabulary takes half a second."""
        with self._completer_lock:
            self._completer = self._completer or Completer(self.embedder)
            return self._completer

    @property
    def posts(self) -> PostSearch:
        """The posts.

        Raises:
            ToolError: there are none.
        """
        with self._posts_lock:
            self._posts = self._posts or self._find_posts()
        posts, reason = self._posts
        if posts is None:
            raise ToolError(f"posts are left out: {reason}" if reason else _NO_POSTS)
        return posts


@dataclass(frozen=True)
class ToolOf(Generic[_Asked]):
    """A tool.

    Attributes:
        name: by which it is called.
        title: for people.
        description: tells an assistant when to call it.
        request: the model of its arguments.
        answer: the model of its result.
        run: makes the result.
    """

    name: str
    title: str
    description: str
    request: type[_Asked]
    answer: type[BaseModel]
    run: Callable[[Assistant, _Asked], BaseModel]

    def call(self, assistant: Assistant, arguments: dict[str, Any]) -> BaseModel:
        """The result for `arguments`.

        Raises:
            ToolError: an argument is missing, unknown or out of range, or it cannot be answered.
        """
        try:
            asked = self.request.model_validate(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            problem = first["msg"].removeprefix("Value error, ")
            told = f"{field or 'arguments'}: {problem}; see the tool's input schema"
            raise ToolError(one_line(told)) from None
        try:
            return self.run(assistant, asked)
        except ToolError:
            raise
        except ValueError as error:
            raise ToolError(one_line(error).replace(UNKNOWN_REMEDY, _PREFIX_REMEDY)) from None


Tool = ToolOf[Any]


def _complete(assistant: Assistant, asked: models.CompleteRequest) -> models.CompleteAnswer:
    return answers.complete_answer(assistant.completer.complete(answers.prefix_query(asked)))


def _fill(assistant: Assistant, asked: models.FillRequest) -> models.FillAnswer:
    (found,) = fill_all(assistant.embedder, [read_fill(assistant.embedder, answers.fill_query(asked))])
    return answers.fill_answer(found, asked)


def _normalize(assistant: Assistant, asked: models.NormalizeRequest) -> models.NormalizeAnswer:
    return answers.normalize_answer(assistant.embedder.normalize(asked.tags))


def _similar(assistant: Assistant, asked: models.SimilarRequest) -> models.SimilarAnswer:
    return answers.similar_answer(assistant.embedder, asked)


def _search(assistant: Assistant, asked: models.SearchRequest) -> models.SearchAnswer:
    return answers.search_answer(assistant.posts, assistant.embedder, asked)


TOOLS: Final[tuple[Tool, ...]] = (
    ToolOf(
        "complete",
        "Complete a caption",
        "The most probable further tags of a caption, each with its share among all that may follow. With `prefix`, "
        "only tags that begin as typed, or have a word that does, typos corrected: use it to find a tag's spelling.",
        models.CompleteRequest,
        models.CompleteAnswer,
        _complete,
    ),
    ToolOf(
        "fill",
        "Fill in a whole prompt",
        "A caption with further tags drawn one after another, which contradict neither it nor each other. The answer "
        "holds the whole prompt, with weights and escapes as the chosen program reads them.",
        models.FillRequest,
        models.FillAnswer,
        _fill,
    ),
    ToolOf(
        "normalize",
        "Read a caption",
        "How a caption is read: its known tags with categories and weights, the tags outside the vocabulary, and a "
        "note on each part that is read differently from its spelling. Use it to check a prompt.",
        models.NormalizeRequest,
        models.NormalizeAnswer,
        _normalize,
    ),
    ToolOf(
        "similar",
        "Similar tags",
        "The tags that are nearest in meaning to one tag, with cosines: 0 for unrelated ones.",
        models.SimilarRequest,
        models.SimilarAnswer,
        _similar,
    ),
    ToolOf(
        "search",
        "Search posts",
        "The posts that have most tags of a query, the nearest first. Only where the server was given posts.",
        models.SearchRequest,
        models.SearchAnswer,
        _search,
    ),
)

"""Tags that begin as typed, for the text fields of the nodes: a route of ComfyUI's server.

Only the vocabulary of a checkpoint is read, no weights.
"""

from __future__ import annotations

import asyncio
import heapq
import re
from bisect import bisect_left
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.prefix import read_prefix
from booru_embed_core.tags.prompts import as_prompt
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.training.checkpoint_config import read_checkpoint

from .checkpoints import resolved

if TYPE_CHECKING:
    from aiohttp import web

ROUTE: Final = "/booru_embed/tags"
_LAST_CHARACTER: Final = "\U0010ffff"
_PIECE: Final = re.compile(r"[^,;|\n]*\Z")
_WORD: Final = re.compile(r"\S*\Z")
_SEPARATOR: Final = re.compile(r"[,;|\n]")
_MAX_TEXT: Final = 200
_MAX_TAGS: Final = 20


class Suggestion(NamedTuple):
    """A tag that begins as typed.

    `insert` is its spelling in a prompt, `alias` the other name that begins so, if it is not the tag, and `typed` the
    number of characters before the caret that `insert` replaces.
    """

    tag: str
    category: str
    count: int
    insert: str
    typed: int
    alias: str | None = None


class TagList:
    """The tags and aliases of a vocabulary, sorted."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._vocab = vocab = tokenizer.vocab
        self._spellings = tokenizer.spellings
        own = [(tag.casefold(), index, "") for index, tag in enumerate(vocab.tags) if not vocab.is_unknown[index]]
        other = [(alias, token_id - vocab.num_special, alias) for alias, token_id in tokenizer.aliases.items()]
        self._names = sorted(own + other)
        self._counts = vocab.counts.tolist()

    def suggestions(self, text: str, k: int = 10) -> list[Suggestion]:
        """The `k` most used tags that begin as `text` ends: its last piece, without commas also its last word."""
        text = text[-_MAX_TEXT:]
        for pattern in (_PIECE,) if _SEPARATOR.search(text) else (_PIECE, _WORD):
            match = pattern.search(text)
            typed = match.group().lstrip() if match else ""
            prefix = read_prefix(typed, lambda letters: bool(self._rows(letters)))
            if prefix.text and (rows := self._rows(prefix.text)):
                of_category = None if prefix.category is None else CATEGORIES.index(prefix.category)
                return [self._suggestion(*one, len(typed)) for one in self._most_used(rows, of_category, k)]
        return []

    def _rows(self, prefix: str) -> range:
        start = bisect_left(self._names, (prefix,))
        return range(start, bisect_left(self._names, (prefix + _LAST_CHARACTER,), lo=start))

    def _most_used(self, rows: range, category_id: int | None, k: int) -> list[tuple[int, str]]:
        found: dict[int, str] = {}
        for row in rows:
            _, index, alias = self._names[row]
            if category_id is None or self._vocab.categories[index] == category_id:
                found[index] = min(found.get(index, alias), alias)  # its own name, which is empty, before others
        return heapq.nlargest(k, found.items(), key=lambda one: (self._counts[one[0]], -one[0]))

    def _suggestion(self, index: int, alias: str, typed: int) -> Suggestion:
        category = CATEGORIES[self._vocab.categories[index]].value
        written = as_prompt([self._spellings[index]], "comfyui").rstrip(",") or self._spellings[index]
        return Suggestion(self._vocab.tags[index], category, self._counts[index], written, typed, alias or None)


@lru_cache(maxsize=2)
def tag_list(folder: Path) -> TagList:
    """The tags of the checkpoint in `folder`.

    Raises:
        CheckpointError, VocabError: a file is missing or damaged.
    """
    return TagList(Tokenizer(read_checkpoint(folder)[1]))


def add_route() -> None:
    """Adds the route to ComfyUI's server; does nothing outside ComfyUI."""
    try:
        from aiohttp import web
        from server import PromptServer
    except ModuleNotFoundError:
        return

    @PromptServer.instance.routes.get(ROUTE)
    async def tags(request: web.Request) -> web.Response:
        """``?text=`` the text before the caret, ``&checkpoint=`` that of the node; at most ``&k=`` tags."""
        query = request.query

        def answer() -> list[dict[str, object]]:
            k = min(int(query.get("k", 10)), _MAX_TAGS)
            found = tag_list(resolved(query.get("checkpoint", ""))).suggestions(query.get("text", ""), k)
            return [one._asdict() for one in found]

        try:
            return web.json_response(await asyncio.get_running_loop().run_in_executor(None, answer))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)

"""Where the server's model, posts and map come from: the current versions, each resolved once and then read as a whole.

What was loaded needs no folder any more: it answers the same after ``current`` moved and after its version was removed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import ref

from booru_embed_core.embedder.backend import MANY_CAPTIONS
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.locate import find_checkpoint
from booru_embed_core.errors import one_line
from booru_embed_core.filesystem import followed
from booru_embed_core.memory import trim_memory
from booru_embed_core.version_file import read_version
from booru_embed_core.web.completions import Completer, PrefixQuery
from booru_embed_core.web.served import LeftOut, Served
from booru_embed_core.web.tag_map import TagMap, tag_map

if TYPE_CHECKING:
    from booru_embed_core.search.post_search import PostSearch

_PLAIN_MAP: Final = "two principal components are shown"


@dataclass
class Sources:
    """Where the server's model, posts and map come from.

    Attributes:
        checkpoint: as `find_checkpoint` takes it.
        posts: a folder for search; by default that of the checkpoint's warehouse, if it has one that fits.
        tag_embeddings: the table with the map; by default that of the checkpoint's warehouse, if it has one that fits.
    """

    checkpoint: Path
    posts: Path | None = None
    tag_embeddings: Path | None = None

    def __post_init__(self) -> None:
        # By its folder, so that posts or a map that move do not load it again; the server alone keeps it alive.
        self._last: tuple[Path, ref[Completer]] | None = None

    def folder(self) -> Path:
        """The folder of the checkpoint, without links.

        Raises:
            CheckpointError: as in `find_checkpoint`.
        """
        return find_checkpoint(self.checkpoint).resolve()

    def version(self) -> tuple[str, ...]:
        """The folders and files that `load` reads, without links; empty if there is nothing to watch or to read."""
        with suppress(ValueError, OSError):
            if os.path.exists(self.checkpoint):  # else a name on the Hub, or a folder that is gone
                folder = self.folder()
                return tuple(map(str, (folder, *filter(None, self._beside(folder)))))
        return ()

    def folders(self) -> tuple[str, ...]:
        """The folders of this machine that messages may name, as they were given and without links."""
        named = [path for path in (self.checkpoint, self.posts, self.tag_embeddings) if path is not None]
        if not os.path.exists(self.checkpoint):
            named.remove(self.checkpoint)  # a name on the Hub
        found = [*self.version(), *map(str, named)]
        whole = [absolute for path in found for absolute in (os.path.abspath(path), os.path.realpath(path))]
        return tuple({*found, *whole, *map(os.path.dirname, whole), os.getcwd(), os.path.expanduser("~")})

    def first(self) -> Served | None:
        """The model alone, which answers while posts and map are loaded; None where one of them was named.

        Raises:
            ValueError, OSError: the checkpoint cannot be read.
        """
        if self.posts is not None or self.tag_embeddings is not None:
            return None  # an error in what was named must not come after the first answer
        folder = self.folder()
        posts, _ = self._beside(folder)
        completer = self._completer(folder)
        waiting = {"map", *(["posts"] if posts is not None else [])}
        return Served(completer.embedder, completer, checkpoint=self._name(folder), waiting=frozenset(waiting))

    def load(self) -> Served:
        """What the server answers from.

        Raises:
            ValueError, OSError: a folder cannot be read, or one that was named belongs to another checkpoint.
            ModuleNotFoundError: a package for the posts or the map that were named is not installed.
        """
        folder = self.folder()
        posts, table = self._beside(folder)
        completer = self._completer(folder)
        embedder = completer.embedder
        completer.warm_up()
        trim_memory()  # the map takes most memory while it is loaded
        left_out: list[LeftOut] = []
        posts, table = self._fitting(folder, posts, table, left_out)
        return Served(
            embedder,
            completer,
            _posts(embedder, posts, left_out, is_named=self.posts is not None),
            _map(embedder, table, left_out, is_named=self.tag_embeddings is not None),
            self._name(folder),
            tuple(left_out),
        )

    def posts_of(self, embedder: BooruEmbedder, folder: Path) -> tuple[PostSearch | None, tuple[LeftOut, ...]]:
        """The posts that `embedder`, of the checkpoint in `folder`, searches; None if there are none that fit, and why.

        Raises:
            ValueError, OSError: the posts that were named cannot be read, or belong to another checkpoint.
            ModuleNotFoundError: a package for the posts that were named is not installed.
        """
        left_out: list[LeftOut] = []
        posts, _ = self._fitting(folder, self._beside(folder)[0], None, left_out)
        return _posts(embedder, posts, left_out, is_named=self.posts is not None), tuple(left_out)

    def _beside(self, folder: Path) -> tuple[Path | None, Path | None]:
        """The posts and the table of the map, without links: what is checked of them is what is opened."""
        warehouse = folder.parent.parent
        found = (warehouse / "post_embeddings/current", warehouse / "tag_embeddings/current/tag_embeddings.parquet")
        posts, table = (path if os.path.exists(path) else None for path in map(followed, found))
        posts, table = self.posts or posts, self.tag_embeddings or table
        return posts and posts.resolve(), table and table.resolve()

    def _fitting(
        self, folder: Path, posts: Path | None, table: Path | None, left_out: list[LeftOut]
    ) -> tuple[Path | None, Path | None]:
        """`posts` and `table`, but nothing unnamed that the warehouse says is of another checkpoint."""
        if posts is not None and self.posts is None and (reason := _of_another(posts, folder)):
            left_out.append(LeftOut("posts", reason))
            posts = None
        if table is not None and self.tag_embeddings is None and (reason := _of_another(table.parent, folder)):
            left_out.append(LeftOut("map", f"{reason}; {_PLAIN_MAP}"))
            table = None
        return posts, table

    def _name(self, folder: Path) -> str:
        return folder.name if os.path.exists(self.checkpoint) else str(self.checkpoint)

    def _completer(self, folder: Path) -> Completer:
        completer = self._last[1]() if self._last is not None and self._last[0] == folder else None
        if completer is None:
            completer = Completer(BooruEmbedder.load(folder, num_captions=MANY_CAPTIONS))
            completer.complete(PrefixQuery(""))  # warms up: the first pass is the slowest
            self._last = folder, ref(completer)
        return completer


def _of_another(product: Path, checkpoint: Path) -> str:
    """Why the version `product` of an asset is not of `checkpoint`; empty if it is, or has no manifest.

    The vectors alone do not always tell: those of a checkpoint that was trained a little longer are nearly the same.
    """
    try:
        manifest = read_version(product, ValueError, f"materialize {product.parent.name} again")
    except ValueError as error:
        return str(error)
    version = manifest.inputs.get("checkpoint", checkpoint.name) if manifest else checkpoint.name
    if version == checkpoint.name:
        return ""
    return f"{product}: made by checkpoint {version}, not {checkpoint.name}; materialize {product.parent.name} again"


def _posts(
    embedder: BooruEmbedder, folder: Path | None, left_out: list[LeftOut], *, is_named: bool
) -> PostSearch | None:
    """The posts in `folder`; None if it is None, or was not named and does not fit, which `left_out` then says."""
    if folder is None:
        return None
    try:
        from booru_embed_core.search.post_search import PostSearch

        posts = PostSearch.open(folder)
        posts.query_vector(embedder, "")  # raises if another model embedded them
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if is_named:
            raise
        left_out.append(LeftOut("posts", _reason(error, "search")))
        return None
    return posts


def _map(embedder: BooruEmbedder, table: Path | None, left_out: list[LeftOut], *, is_named: bool) -> TagMap:
    """The map of `table`; of the principal components if it is None, or was not named and does not fit."""
    try:
        return tag_map(embedder, table)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if is_named or table is None:
            raise
        left_out.append(LeftOut("map", f"{_reason(error, 'data')}; {_PLAIN_MAP}"))
    return tag_map(embedder)


def _reason(error: Exception, extra: str) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed; pip install 'booru-embed[{extra}]'"
    return one_line(error)

"""``booru-embed serve``: the page and the HTTP API; its options, and what it loads."""

from __future__ import annotations

import gc
import json
import os
import socket
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit
from weakref import ref

import typer

from booru_embed_core.cli.shared import CHECKPOINT, CheckpointOption, say
from booru_embed_core.errors import one_line

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.search.post_search import PostSearch
    from booru_embed_core.web.served import LeftOut, Served
    from booru_embed_core.web.tag_map import TagMap

_STOP_SECONDS: Final = 10
_PLAIN_MAP: Final = "two principal components are shown"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


def serve(
    checkpoint: CheckpointOption = CHECKPOINT,
    posts: Annotated[
        Path | None,
        typer.Option("--posts", "-p", help="Folder of `booru-embed index`; found in the warehouse.", metavar="DIR"),
    ] = None,
    tag_embeddings: Annotated[
        Path | None,
        typer.Option("--map", help="tag_embeddings.parquet, for the map; found in the warehouse.", metavar="FILE"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 listens on all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8010,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            help="Origin whose pages may call the API, such as http://127.0.0.1:7860; * allows all. Repeatable.",
            metavar="ORIGIN",
        ),
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one line per request.")] = False,
) -> None:
    """Serve the page and the JSON API until interrupted."""
    # torch reads this when it is imported. A second thread saves at most one of the four milliseconds of a completion,
    # keeps another core busy while it waits for the next one, and has to wait while the event loop computes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvicorn

    from booru_embed_core.embedder.results import UnknownTagsWarning
    from booru_embed_core.training.checkpoint_config import read_config
    from booru_embed_core.web.app import create_app
    from booru_embed_core.web.served import Loading

    origins = [_checked_origin(origin) for origin in allow_origin or ()]
    sources = Sources(checkpoint, posts, tag_embeddings)
    read_config(sources.folder())  # raises for a damaged checkpoint before the server starts
    warnings.simplefilter("ignore", UnknownTagsWarning)  # answers name unknown tags
    listening = _listen(host, port)
    print(f"booru-embed on http://{host}:{port} (the API: http://{host}:{port}/api/docs); Ctrl-C stops it", flush=True)
    loading = Loading(sources.load, sources.version, _freeze, say)
    config = uvicorn.Config(
        create_app(loading, origins),
        log_level="info" if access_log else "warning",
        access_log=access_log,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        uvicorn.Server(config).run(sockets=[listening])


def _freeze() -> None:
    """Frees the model that was served before, and spares the garbage collector what stays."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # a full collection would visit all tag names: the slowest answers would take 30 ms longer


def _checked_origin(origin: str) -> str:
    """`origin`, if browsers can send it.

    Raises:
        BadParameter: it is not ``scheme://host[:port]`` as browsers spell it, ``null`` or ``*``.
    """
    if origin in ("*", "null"):
        return origin
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if not parts.scheme or not host:
        raise typer.BadParameter(
            f"{origin!r} is not an origin; give scheme://host[:port], such as http://127.0.0.1:7860, or *",
            param_hint="--allow-origin",
        )
    host = f"[{host}]" if ":" in host else host
    spelled = f"{parts.scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(parts.scheme)) else f":{port}")
    if origin != spelled:
        raise typer.BadParameter(f"{origin!r}: browsers send {spelled}; give that", param_hint="--allow-origin")
    return origin


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `port` of `host`.

    Raises:
        ValueError: the port is taken, or `host` is not an address of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        remedy = "choose another with --host or --port"
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}; {remedy}") from None


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
        self._last: tuple[Path, ref[BooruEmbedder]] | None = None

    def folder(self) -> Path:
        """The folder of the checkpoint, without links.

        Raises:
            CheckpointError: as in `find_checkpoint`.
        """
        from booru_embed_core.embedder.locate import find_checkpoint

        return find_checkpoint(self.checkpoint).resolve()

    def version(self) -> tuple[str, ...]:
        """The folders and files that `load` reads, without links; empty if there is nothing to watch or to read."""
        with suppress(ValueError, OSError):
            if os.path.exists(self.checkpoint):  # else a name on the Hub, or a folder that is gone
                folder = self.folder()
                return tuple(os.path.realpath(path) for path in (folder, *self._beside(folder)) if path is not None)
        return ()

    def load(self) -> Served:
        """What the server answers from.

        Raises:
            ValueError, OSError: a folder cannot be read, or one that was named belongs to another checkpoint.
            ModuleNotFoundError: a package for the posts or the map that were named is not installed.
        """
        from booru_embed_core.web.completions import Completer, PrefixQuery
        from booru_embed_core.web.served import Served

        folder = self.folder()
        embedder = self._embedder(folder)
        completer = Completer(embedder)
        completer.complete(PrefixQuery(""))  # warms up: the first pass is the slowest
        left_out: list[LeftOut] = []
        posts, table = self._fitting(folder, left_out)
        name = folder.name if os.path.exists(self.checkpoint) else str(self.checkpoint)
        return Served(
            embedder,
            completer,
            _posts(embedder, posts, left_out, is_named=self.posts is not None),
            _map(embedder, table, left_out, is_named=self.tag_embeddings is not None),
            name,
            tuple(left_out),
        )

    def _beside(self, folder: Path) -> tuple[Path | None, Path | None]:
        """The posts and the table of the map."""
        found = (folder.parent.parent / "post_embeddings/current", _table(folder.parent.parent))
        posts, table = (path if os.path.exists(path) else None for path in found)
        return self.posts or posts, self.tag_embeddings or table

    def _fitting(self, folder: Path, left_out: list[LeftOut]) -> tuple[Path | None, Path | None]:
        """As `_beside`, but nothing unnamed that the warehouse says is of another checkpoint."""
        from booru_embed_core.web.served import LeftOut

        posts, table = self._beside(folder)
        if posts is not None and self.posts is None and (reason := _of_another(posts.resolve(), folder)):
            left_out.append(LeftOut("posts", reason))
            posts = None
        if (
            table is not None
            and self.tag_embeddings is None
            and (reason := _of_another(table.resolve().parent, folder))
        ):
            left_out.append(LeftOut("map", f"{reason}; {_PLAIN_MAP}"))
            table = None
        return posts, table

    def _embedder(self, folder: Path) -> BooruEmbedder:
        from booru_embed_core.embedder.embedder import BooruEmbedder

        embedder = self._last[1]() if self._last is not None and self._last[0] == folder else None
        if embedder is None:
            embedder = BooruEmbedder.load(folder)
            self._last = folder, ref(embedder)
        return embedder


def _table(warehouse: Path) -> Path:
    return warehouse / "tag_embeddings/current/tag_embeddings.parquet"


def _of_another(product: Path, checkpoint: Path) -> str:
    """Why the version `product` of an asset is not of `checkpoint`; empty if it is, or has no manifest.

    The vectors alone do not always tell: those of a checkpoint that was trained a little longer are nearly the same.
    """
    try:
        inputs = json.loads((product / "version.json").read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError):
        return ""
    version = inputs.get("checkpoint", checkpoint.name)
    if version == checkpoint.name:
        return ""
    return f"{product}: made by checkpoint {version}, not {checkpoint.name}; materialize {product.parent.name} again"


def _posts(
    embedder: BooruEmbedder, folder: Path | None, left_out: list[LeftOut], *, is_named: bool
) -> PostSearch | None:
    """The posts in `folder`; None if it is None, or was not named and does not fit, which `left_out` then says."""
    from booru_embed_core.web.served import LeftOut

    if folder is None:
        return None
    try:
        from booru_embed_core.search.post_search import PostSearch

        # Without links: parts are read later, when `current` may have moved.
        posts = PostSearch.open(folder.resolve())
        posts.query_vector(embedder, "")  # raises if another model embedded them
    except (ValueError, OSError, ModuleNotFoundError) as error:
        if is_named:
            raise
        left_out.append(LeftOut("posts", _reason(error, "search")))
        return None
    return posts


def _map(embedder: BooruEmbedder, table: Path | None, left_out: list[LeftOut], *, is_named: bool) -> TagMap:
    """The map of `table`; of the principal components if it is None, or was not named and does not fit."""
    from booru_embed_core.web.served import LeftOut
    from booru_embed_core.web.tag_map import tag_map

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

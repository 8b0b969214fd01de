"""``booru-embed serve``: the page and the HTTP API; its options, and what it loads."""

from __future__ import annotations

import gc
import os
import socket
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from booru_embed_core.cli.shared import CHECKPOINT, CheckpointOption

if TYPE_CHECKING:
    from booru_embed_core.web.app import Served

_STOP_SECONDS: Final = 10


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
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one line per request.")] = False,
) -> None:
    """Serve the page and the JSON API until interrupted."""
    # torch reads this when it is imported. A second thread saves at most one of the four milliseconds of a completion,
    # keeps another core busy while it waits for the next one, and has to wait while the event loop computes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvicorn

    from booru_embed_core.embedder.locate import find_checkpoint
    from booru_embed_core.embedder.results import UnknownTagsWarning
    from booru_embed_core.training.checkpoint_config import read_config
    from booru_embed_core.web.app import create_app

    folder = find_checkpoint(checkpoint)
    read_config(folder)  # raises for a damaged checkpoint before the server starts
    warnings.simplefilter("ignore", UnknownTagsWarning)  # answers name unknown tags
    listening = _listen(host, port)
    print(f"booru-embed on http://{host}:{port} (the API: http://{host}:{port}/api/docs); Ctrl-C stops it", flush=True)

    def load_and_freeze() -> Served:
        served = load(folder, posts, tag_embeddings)
        gc.collect()
        gc.freeze()  # a full collection would visit all tag names: the slowest answers would take 30 ms longer
        return served

    config = uvicorn.Config(
        create_app(load_and_freeze),
        log_level="info" if access_log else "warning",
        access_log=access_log,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again after its shutdown
        uvicorn.Server(config).run(sockets=[listening])


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


def load(checkpoint: Path, posts: Path | None, tag_embeddings: Path | None) -> Served:
    """What the server answers from; `posts` and `tag_embeddings` default to those of the checkpoint's warehouse.

    Raises:
        ValueError, OSError: a folder cannot be read, or belongs to another checkpoint.
    """
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.web.app import Served
    from booru_embed_core.web.completions import Completer, PrefixQuery
    from booru_embed_core.web.tag_map import tag_map

    embedder = BooruEmbedder.load(checkpoint)
    completer = Completer(embedder)
    completer.complete(PrefixQuery(""))  # warms up: the first pass is the slowest
    warehouse = checkpoint.resolve().parent.parent
    table = tag_embeddings or _existing(warehouse / "tag_embeddings/current/tag_embeddings.parquet")
    folder = posts or _existing(warehouse / "post_embeddings/current")
    searched = None
    if folder is not None:
        from booru_embed_core.search.post_search import PostSearch

        searched = PostSearch.open(folder)
    return Served(embedder, completer, searched, tag_map(embedder, table))


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None

"""``booru-embed serve``: the page and the HTTP API.

What belongs here: options, and what is loaded for them.
"""

from __future__ import annotations

import gc
import os
import socket
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from booru_embed_core.cli.shared import WAREHOUSE

if TYPE_CHECKING:
    from booru_embed_core.web.app import Served

_STOP_SECONDS: Final = 10


def serve(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="Folder of a checkpoint.", metavar="DIR")
    ] = WAREHOUSE / "checkpoint/current",
    posts: Annotated[
        Path | None,
        typer.Option("--posts", "-p", help="Folder of `booru-embed index`; found in the warehouse.", metavar="DIR"),
    ] = None,
    tag_embeddings: Annotated[
        Path | None,
        typer.Option("--map", help="tag_embeddings.parquet, for the map; found in the warehouse.", metavar="FILE"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; others reach 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = 8010,
    access_log: Annotated[bool, typer.Option("--access-log", help="A line for each request.")] = False,
) -> None:
    """Serve the page and the JSON API until interrupted."""
    # Read by torch when it is loaded. A second thread would win a millisecond at most of a completion's four, burn
    # another core while it waits for the next, and wait itself where the event loop computes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvicorn

    from booru_embed_core.embedder.embedder import UnknownTagsWarning
    from booru_embed_core.embedder.locate import find_checkpoint
    from booru_embed_core.training.checkpoint_config import read_config
    from booru_embed_core.web.app import create_app

    folder = find_checkpoint(checkpoint)
    read_config(folder)  # what is wrong with it is said before anything is served
    warnings.simplefilter("ignore", UnknownTagsWarning)  # answers name unknown tags
    listening = _listen(host, port)
    print(f"booru-embed on http://{host}:{port} (the API: http://{host}:{port}/api/docs); Ctrl-C ends it", flush=True)

    def load_to_stay() -> Served:
        served = load(folder, posts, tag_embeddings)
        gc.collect()
        gc.freeze()  # else each full collection walks all names of tags: the slowest answers take 30 ms longer
        return served

    config = uvicorn.Config(
        create_app(load_to_stay),
        log_level="info" if access_log else "warning",
        access_log=access_log,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    with suppress(KeyboardInterrupt):  # raised again when all is closed
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections at `port` of `host`.

    Raises:
        ValueError: it is taken, or no address of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        remedy = "choose others with --host and --port"
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}; {remedy}") from None


def load(checkpoint: Path, posts: Path | None, tag_embeddings: Path | None) -> Served:
    """What is served: `posts` and `tag_embeddings` that are not given are taken from the checkpoint's warehouse.

    Raises:
        ValueError, OSError: a folder that is given cannot be read, or belongs to another checkpoint.
    """
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.web.app import Served
    from booru_embed_core.web.completions import Completer, PrefixQuery
    from booru_embed_core.web.tag_map import tag_places

    embedder = BooruEmbedder.load(checkpoint)
    completer = Completer(embedder)
    completer.complete(PrefixQuery(""))  # the first pass takes longest
    warehouse = checkpoint.resolve().parent.parent
    table = tag_embeddings or _there(warehouse / "tag_embeddings/current/tag_embeddings.parquet")
    folder = posts or _there(warehouse / "post_embeddings/current")
    searched = None
    if folder is not None:
        from booru_embed_core.search.post_search import PostSearch

        searched = PostSearch.open(folder)
    return Served(embedder, completer, searched, tag_places(embedder, table))


def _there(path: Path) -> Path | None:
    return path if path.exists() else None

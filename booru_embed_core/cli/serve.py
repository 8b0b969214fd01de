"""``booru-embed serve``: the page and the HTTP API; its options, and how it starts and ends."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import threading
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from booru_embed_core.cli.shared import CHECKPOINT, CheckpointOption, say
from booru_embed_core.cli.streams import print_notice
from booru_embed_core.memory import bound_kept_shapes, give_back_memory

if TYPE_CHECKING:
    from starlette.types import ASGIApp

_KEPT_PRODUCTS: Final = 256
"""Of short captions, whose shapes come again: preparing one takes longer than a completion."""
_YOUNG_OBJECTS: Final = 20_000
"""New objects after which the garbage collector looks at them: with 700, as by default, it takes 6% of the start."""
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
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="Name under which browsers reach the server, beside --host and localhost; * allows all. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Print one line per request.")] = False,
) -> None:
    """Serve the page and the JSON API until interrupted."""
    # torch reads this when it is imported. A second thread saves at most one of the four milliseconds of a completion,
    # keeps another core busy while it waits for the next one, and has to wait while the event loop computes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    bound_kept_shapes(_KEPT_PRODUCTS)
    gc.set_threshold(_YOUNG_OBJECTS)
    from booru_embed_core.embedder.results import UnknownTagsWarning
    from booru_embed_core.training.checkpoint_config import read_config
    from booru_embed_core.web.app import create_app
    from booru_embed_core.web.served import Loading
    from booru_embed_core.web.sources import Sources

    origins = [checked_origin(origin) for origin in allow_origin or ()]
    hosts = [checked_host(name) for name in allow_host or ()]
    sources = Sources(checkpoint, posts, tag_embeddings)
    read_config(sources.folder())  # raises for a damaged checkpoint before the server starts
    warnings.simplefilter("ignore", UnknownTagsWarning)  # answers name unknown tags
    listening = listen(host, port)
    url = url_of(host, port)
    print_notice(f"booru-embed on {url} (the API: {url}/api/docs); Ctrl-C stops it")
    loading = Loading(sources.load, sources.version, _freeze, say, folders=sources.folders, first=sources.first)
    app = create_app(loading, origins, [host, *hosts])
    give_back_memory()
    before = set(threading.enumerate())
    serve_until_stopped(app, listening, access_log=access_log)
    if set(threading.enumerate()) - before:
        # A load in progress, or an answer that nobody waits for any more, would hold up the end.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def serve_until_stopped(app: ASGIApp, listening: socket.socket, *, access_log: bool = False) -> None:
    """Serves `app` on `listening` until a signal. uvicorn raises it once more after its shutdown, which is ignored."""
    from booru_embed_core.web.server import DrainingServer, server_config

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda _signal, _frame: None)
    with suppress(KeyboardInterrupt):
        DrainingServer(server_config(app, access_log=access_log)).run(sockets=[listening])


def url_of(host: str, port: int) -> str:
    """The address of a server, as a browser takes it."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _freeze() -> None:
    """Frees the model that was served before, and spares the garbage collector what stays."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()  # a full collection would visit all tag names: the slowest answers would take 30 ms longer


def checked_origin(origin: str) -> str:
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


def checked_host(name: str) -> str:
    """`name`, if a request can name it as its host.

    Raises:
        BadParameter: it is empty, or has a scheme, a port or a path.
    """
    from booru_embed_core.web.middleware import host_of, is_address

    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    is_name = bool(bare) and ":" not in bare and host_of(bare) is not None and not set(bare) & set(",*")
    if name == "*" or is_name or is_address(bare):
        return bare
    raise typer.BadParameter(
        f"{name!r} is not a host; give a name or an address without scheme and port, such as example.org, or *",
        param_hint="--allow-host",
    )


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at `port` of `host`.

    Raises:
        BadParameter: `host` is empty, which would mean all addresses.
        ValueError: the port is taken, or `host` is not an address of this machine.
    """
    if not host.strip():
        raise typer.BadParameter(
            f"{host!r} is no address; give 127.0.0.1 for this machine alone, or 0.0.0.0 for all others too",
            param_hint="--host",
        )
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        has_number = error.errno and error.errno > 0 and sys.platform != "win32"  # which has numbers of its own
        reason = os.strerror(error.errno or 0) if has_number else error.strerror
        remedy = "choose another with --host or --port"
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}; {remedy}") from None

"""``booru-embed mcp``: tools for assistants, on standard input and output or over HTTP; how it starts and ends."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from booru_embed_core.cli.serve import checked_host, checked_origin, listen, serve_until_stopped, url_of
from booru_embed_core.cli.shared import CHECKPOINT, CheckpointOption, UsageError, say
from booru_embed_core.cli.streams import print_message, print_notice

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server

    from booru_embed_core.mcp_server.tools import Assistant


class _Backend(StrEnum):
    """As in ``embedder.backend``."""

    AUTO = "auto"
    NUMPY = "numpy"
    TORCH = "torch"
    ONNX = "onnx"


def mcp(
    checkpoint: CheckpointOption = CHECKPOINT,
    posts: Annotated[
        Path | None,
        typer.Option("--posts", "-p", help="Folder of `booru-embed index`; found in the warehouse.", metavar="DIR"),
    ] = None,
    http: Annotated[bool, typer.Option("--http", help="Serve streamable HTTP at /mcp, not stdin and stdout.")] = False,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 listens on all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port to listen on.")] = 8011,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin", help="Origin whose pages may call the tools; * allows all. Repeatable.", metavar="ORIGIN"
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            help="Name under which clients reach the server, beside --host and localhost; * allows all. Repeatable.",
            metavar="NAME",
        ),
    ] = None,
    backend: Annotated[
        _Backend, typer.Option("--backend", help="What computes; auto is numpy, which starts soonest, where it can.")
    ] = _Backend.AUTO,
) -> None:
    """Serve tools for assistants by the Model Context Protocol: complete, fill, normalize, similar, search."""
    origins = [checked_origin(origin) for origin in allow_origin or ()]
    hosts = [checked_host(name) for name in allow_host or ()]
    if not http and (origins or hosts):
        raise UsageError("--allow-origin and --allow-host are for --http.")
    from booru_embed_core.embedder.results import UnknownTagsWarning
    from booru_embed_core.mcp_server.server import create_server, run_stdio

    warnings.simplefilter("ignore", UnknownTagsWarning)  # answers name unknown tags
    server = create_server(_assistant(checkpoint, posts, backend))
    if http:
        _run_http(server, host, port, origins, hosts)
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_at_once)
    say("booru-embed: tools on standard input and output, for a client of MCP; Ctrl-C stops them")
    run_stdio(server)


def _assistant(checkpoint: Path, posts: Path | None, backend: _Backend) -> Assistant:
    from booru_embed_core.embedder.embedder import BooruEmbedder
    from booru_embed_core.mcp_server.tools import Assistant
    from booru_embed_core.web.served import without_folders
    from booru_embed_core.web.sources import Sources

    sources = Sources(checkpoint, posts)
    folder = sources.folder()
    embedder = BooruEmbedder.load(folder, backend=backend.value, num_captions=1)

    def find_posts() -> tuple[Any, str]:
        found, left_out = sources.posts_of(embedder, folder)
        return found, "; ".join(without_folders(one.reason, sources.folders()) for one in left_out)

    assistant = Assistant(embedder, find_posts)
    if posts is not None:
        assistant.posts  # noqa: B018  an error in what was named must not come after the first answer
    return assistant


def _run_http(server: Server[Any], host: str, port: int, origins: list[str], hosts: list[str]) -> None:
    from booru_embed_core.mcp_server.http import PATH, create_app

    listening = listen(host, port)
    print_notice(f"booru-embed: tools on {url_of(host, port)}{PATH}, for a client of MCP; Ctrl-C stops them")
    serve_until_stopped(create_app(server, origins, [host, *hosts]), listening)


def _end_at_once(number: int, _frame: FrameType | None) -> None:
    """Ends the process: a thread waits for the next line of standard input, which nothing interrupts."""
    print_message(f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}")
    sys.stderr.flush()
    os._exit(128 + number)

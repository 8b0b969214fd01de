"""`booru-embed mcp` as a process of its own, asked by the SDK's client over both of its transports."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import jsonschema_rs
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp_types import CallToolResult

from tests.core.cli_helpers import RUN_MAIN, Run, program
from tests.core.model_helpers import Trained

SECONDS = 60
NAMES = ["complete", "fill", "normalize", "similar", "search"]


async def check_tools(client: Client, has_posts: bool) -> None:
    """Calls every tool, well and badly."""
    listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(listed) == NAMES
    assert all(tool.annotations and tool.annotations.read_only_hint for tool in listed.values())

    async def answer(name: str, **arguments: Any) -> Any:
        found = await client.call_tool(name, arguments)
        assert not found.is_error, text_of(found)
        assert json.loads(text_of(found)) == found.structured_content
        schema = listed[name].output_schema
        assert schema is not None
        jsonschema_rs.validate(schema, found.structured_content)
        return found.structured_content

    async def error(name: str, **arguments: Any) -> str:
        found = await client.call_tool(name, arguments)
        assert found.is_error
        assert "\n" not in text_of(found)
        return text_of(found)

    completed = await answer("complete", tags="1girl, blorb", k=3, categories=["general"])
    assert [one["category"] for one in completed["completions"]] == ["general"] * 3
    assert completed["unknown"] == ["blorb"]
    assert (await answer("fill", tags="(cat ears:1.2)", n=1))["prompt"].startswith("(cat ears:1.2), ")
    assert (await answer("normalize", tags="1girl, Cat Ears"))["caption"] == "1girl cat_ears"
    assert len((await answer("similar", tag="cat_ears", k=2))["neighbours"]) == 2
    assert (await error("complete", k=1000)).startswith("k: Input should be less than or equal to 200")
    assert "`complete` with its beginning as `prefix`" in await error("similar", tag="blorb")
    if has_posts:
        assert len((await answer("search", tags="1girl", k=2))["posts"]) == 2
    else:
        assert "--posts" in await error("search", tags="1girl")
    with pytest.raises(MCPError, match="no tool 'embed'; the tools are complete, fill"):
        await client.call_tool("embed", {})


def text_of(found: CallToolResult) -> str:
    (content,) = found.content
    assert content.type == "text"
    return content.text


@pytest.mark.slow
def test_stdio_carries_the_protocol_alone_and_ends_with_its_input(
    trained: Trained, search_folder: Path, tmp_path: Path
) -> None:
    arguments = [*RUN_MAIN[1:], "mcp", "-c", str(trained.checkpoint), "--posts", str(search_folder)]
    told = tmp_path / "stderr"

    async def ask() -> None:
        from mcp.client.stdio import stdio_client

        with told.open("w") as log:
            parameters = StdioServerParameters(command=sys.executable, args=arguments)
            async with Client(stdio_client(parameters, log)) as client:
                assert client.server_info is not None
                assert client.server_info.name == "booru-embed"
                await check_tools(client, has_posts=True)

    anyio.run(ask)  # a client that reads anything but the protocol logs it as an error
    assert told.read_text().splitlines() == [
        "booru-embed: tools on standard input and output, for a client of MCP; Ctrl-C stops them"
    ]


@contextmanager
def serving(*options: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`booru-embed mcp --http` on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with program("mcp", "--http", "--port", port, *options) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline().startswith(f"booru-embed: tools on http://127.0.0.1:{port}/mcp, ")
            yield f"http://127.0.0.1:{port}/mcp", server
        finally:
            server.kill()


@pytest.mark.slow
def test_http_answers_its_own_hosts_and_named_origins_and_drains(trained: Trained) -> None:
    async def ask(url: str, mode: Any) -> None:
        async with Client(url, mode=mode) as client:
            await check_tools(client, has_posts=False)

    page = "http://127.0.0.1:7860"
    with serving("-c", trained.checkpoint, "--allow-origin", page) as (url, server):
        anyio.run(ask, url, "auto")
        anyio.run(ask, url, "legacy")  # the protocol with a handshake, which most clients speak
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        accepts = {"Accept": "application/json, text/event-stream"}

        def status(method: str = "POST", **headers: str) -> int:
            return httpx2.request(method, url, json=body, headers=accepts | headers, timeout=SECONDS).status_code

        assert status() == 200
        assert status(Host="rebound.example") == 421
        assert status(Origin="http://rebound.example") == 403
        assert status(Origin="null") == 403
        assert status(Origin=url.removesuffix("/mcp")) == 200
        assert status("GET") == 405
        assert httpx2.post(url, content=b" " * 1_000_001, timeout=SECONDS).status_code == 413
        asks = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "mcp-name"}
        preflight = httpx2.options(url, headers=asks, timeout=SECONDS)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, page)
        assert "access-control-allow-credentials" not in preflight.headers
        server.send_signal(signal.SIGINT)
        output, errors = server.communicate(timeout=SECONDS)
    assert (server.returncode, output, errors) == (0, "", "")


@pytest.mark.slow
def test_ctrl_c_ends_it_while_it_waits_for_its_input(trained: Trained) -> None:
    command = [*RUN_MAIN, "mcp", "-c", str(trained.checkpoint)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stderr is not None
            assert server.stdin is not None
            assert server.stderr.readline().startswith("booru-embed: tools on standard input")
            server.stdin.write("no JSON\n")  # it goes past what is none
            server.stdin.flush()
            server.send_signal(signal.SIGINT)
            assert server.wait(timeout=SECONDS) == 130
            assert server.stderr.read().endswith("stopped by Ctrl-C\n")
        finally:
            server.kill()


def test_options_of_http_need_it_and_a_damaged_checkpoint_is_told_before_anything(run: Run, tmp_path: Path) -> None:
    assert "--allow-origin and --allow-host are for --http" in run("mcp", "--allow-host", "a").failed(2)
    assert run("mcp", "--checkpoint", tmp_path).failed(1).startswith(f"{tmp_path}/config.json: no such file")


def test_posts_that_were_named_must_fit(run: Run, trained: Trained, tmp_path: Path) -> None:
    assert run("mcp", "--checkpoint", trained.checkpoint, "--posts", tmp_path).failed(1).startswith(f"{tmp_path}")

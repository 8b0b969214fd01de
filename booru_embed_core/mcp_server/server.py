"""The tools by the protocol: listed with their schemas, called in threads, answered as text and as structure."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Final

import anyio
from anyio import CapacityLimiter, to_thread
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    ToolAnnotations,
)
from mcp_types import Tool as ListedTool

import booru_embed_core
from booru_embed_core.errors import library_errors
from booru_embed_core.mcp_server.schemas import schema_of
from booru_embed_core.mcp_server.tools import TOOLS, Assistant, Tool, ToolError

MAX_CALLS: Final = 4
"""Tools that run at once: each holds the scores of all tags, and they share the interpreter's lock."""
INSTRUCTIONS: Final = (
    "Tags of Danbooru. A caption is a list of tags as in prompts: `1girl, (cat ears:1.2), tracer \\(overwatch\\)`, "
    "commas between tags, or spaces between tags with underscores. Tags outside the vocabulary are named in `unknown` "
    "and count nothing; `notes` tells what else was read differently. Categories are general, artist, copyright, "
    "character and meta; ratings are g, s, q, e."
)
_log: Final = logging.getLogger(__name__)
_FAULT: Final = "a fault of the server; its log has the reason"


def create_server(assistant: Assistant) -> Server[Any]:
    """The server of the tools that `assistant` answers."""
    tools = {tool.name: tool for tool in TOOLS}
    listed = [_listed(tool) for tool in TOOLS]
    limiter: list[CapacityLimiter] = []

    async def list_tools(_context: Any, _params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=listed)

    async def call_tool(_context: Any, params: CallToolRequestParams) -> CallToolResult:
        tool = tools.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"no tool {params.name!r}; the tools are {', '.join(tools)}")
        if not limiter:
            limiter.append(CapacityLimiter(MAX_CALLS))  # of the event loop, which runs now
        call = partial(_called, tool, assistant, params.arguments or {})
        return await to_thread.run_sync(call, abandon_on_cancel=True, limiter=limiter[0])

    return Server(
        "booru-embed",
        version=booru_embed_core.__version__,
        title="booru-embed",
        description="Completes, fills, reads and compares tag captions.",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def run_stdio(server: Server[Any]) -> None:
    """Serves standard input and output until either ends. What else is printed meanwhile goes to stderr.

    Raises:
        OSError: a stream cannot be read or written.
    """

    async def serve() -> None:
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    try:
        anyio.run(serve)
    except ExceptionGroup as group:  # of the tasks that read and write
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if not isinstance(error, BrokenPipeError):  # the client has gone
            raise error from None


def _called(tool: Tool, assistant: Assistant, arguments: dict[str, Any]) -> CallToolResult:
    try:
        answer = tool.call(assistant, arguments)
    except ToolError as error:
        return CallToolResult(content=[TextContent(text=str(error))], is_error=True)
    except library_errors():
        _log.exception("tool %s", tool.name)
        raise MCPError(INTERNAL_ERROR, _FAULT) from None
    text = answer.model_dump_json()
    return CallToolResult(content=[TextContent(text=text)], structured_content=answer.model_dump(mode="json"))


def _listed(tool: Tool) -> ListedTool:
    hints = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    return ListedTool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=schema_of(tool.request, "validation"),
        output_schema=schema_of(tool.answer, "serialization"),
        annotations=hints,
    )

"""The plain SDK of either major version, and FastMCP where it is installed: their clients, which are the baselines.

The only module here that knows what is installed; it does not use `resilient_mcp`. The SDK's server is here, too.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any, TypeAlias

import mcp
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ToolAnnotations

VERSION = version("mcp")
MAJOR = int(VERSION.split(".", 1)[0])

if MAJOR == 1:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as HighLevelServer
else:
    from mcp.server.mcpserver import Context  # type: ignore[no-redef]
    from mcp.server.mcpserver import MCPServer as HighLevelServer  # type: ignore[no-redef]

Endpoint: TypeAlias = StdioServerParameters | str
"""A server to start, or the URL of one that runs."""
Connect: TypeAlias = Callable[[Endpoint], AbstractAsyncContextManager[Any]]
"""Connects a client, ready for calls."""


@asynccontextmanager
async def _session(endpoint: Endpoint) -> AsyncIterator[ClientSession]:
    """`ClientSession` over the SDK's transport; on 2.x that negotiates by `initialize`."""
    transport: Any = streamable_http_client(endpoint) if isinstance(endpoint, str) else stdio_client(endpoint)
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        yield session


BASELINES: dict[str, Connect] = {"ClientSession": _session}
"""What `ResilientClient` is compared with. The first one is what it replaces on the installed major."""
if MAJOR != 1:
    BASELINES = {"mcp.Client": mcp.Client, **BASELINES}  # type: ignore[attr-defined]

try:
    import fastmcp
except ImportError:
    FASTMCP = None
else:
    FASTMCP = fastmcp.__version__

    class _FastMCPClient(fastmcp.Client):
        """It calls the progress callback otherwise."""

        async def call_tool(self, name: str, arguments: Any = None, *, progress_callback: Any = None) -> Any:
            return await super().call_tool(name, arguments, progress_handler=progress_callback)

    def _fastmcp(endpoint: Endpoint) -> AbstractAsyncContextManager[Any]:
        if isinstance(endpoint, str):
            return _FastMCPClient(endpoint)
        cwd = None if endpoint.cwd is None else str(endpoint.cwd)
        transport = fastmcp.client.transports.StdioTransport(endpoint.command, endpoint.args, endpoint.env, cwd)
        return _FastMCPClient(transport)

    BASELINES["fastmcp.Client"] = _fastmcp


def sdk_server() -> Any:
    """A server with an `echo` that may be repeated, a `report` that sends progress first, and its own `pid`."""
    server = HighLevelServer("benchmarks", log_level="CRITICAL")
    repeatable = ToolAnnotations.model_validate({"readOnlyHint": True})

    @server.tool(annotations=repeatable)
    def echo(text: str) -> str:
        return text

    @server.tool(annotations=repeatable)
    async def report(text: str, ctx: Context) -> str:
        await ctx.report_progress(1, 2)
        return text

    @server.tool(annotations=repeatable)
    def pid() -> str:
        return str(os.getpid())

    return server


def http_app(server: Any, *, json_answers: bool) -> Any:
    """The ASGI application of `server`, at `/mcp`."""
    if MAJOR == 1:
        server.settings.json_response = json_answers
        return server.streamable_http_app()
    return server.streamable_http_app(json_response=json_answers)

"""The baselines: the clients of the plain SDK in either major version, and of FastMCP if it is installed.

This is the only module here that depends on what is installed; it does not use `resilient_mcp`. It also has the SDK
server.
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
"""A server to start, or the URL of a running one."""
Connect: TypeAlias = Callable[[Endpoint], AbstractAsyncContextManager[Any]]
"""Connects a client that is ready for calls."""


@asynccontextmanager
async def _session(endpoint: Endpoint) -> AsyncIterator[ClientSession]:
    """`ClientSession` over the SDK's transport; it negotiates by `initialize`, on 2.x as well."""
    transport: Any = streamable_http_client(endpoint) if isinstance(endpoint, str) else stdio_client(endpoint)
    async with transport as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        yield session


BASELINES: dict[str, Connect] = {"ClientSession": _session}
"""The clients that `ResilientClient` is compared with. The first is the one it replaces on the installed major."""
if MAJOR != 1:
    BASELINES = {"mcp.Client": mcp.Client, **BASELINES}  # type: ignore[attr-defined]

try:
    import fastmcp
except ImportError:
    FASTMCP = None
else:
    FASTMCP = fastmcp.__version__

    class _FastMCPClient(fastmcp.Client):
        """Adapts the name of the progress callback."""

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
    """A server with three repeatable tools: `echo`, `report` (which sends progress first) and `pid`."""
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
    """The ASGI application of `server`, served at `/mcp`."""
    if MAJOR == 1:
        server.settings.json_response = json_answers
        return server.streamable_http_app()
    return server.streamable_http_app(json_response=json_answers)

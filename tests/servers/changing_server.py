"""A server whose resources and tools change: `python -m tests.servers.changing_server stdio` or `http PORT`.

Any `test://` URI can be subscribed to (up to 2025-11-25) or listened for (2026-07-28), except `test://refused`;
`test://flaky` only at the second attempt. At start it adds the tools on the lines of the `--tools` file.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import Any

from . import lean  # noqa: F401 - must precede the SDK

# isort: split
from mcp import types

from .lifeline import die_with_the_test

try:
    from mcp import MCPError
    from mcp.server.mcpserver import Context, MCPServer
    from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler

    MAJOR = 2
except ImportError:
    from mcp import McpError
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

    MAJOR = 1
from mcp.types import ToolAnnotations

parser = argparse.ArgumentParser()
parser.add_argument("transport", choices=["stdio", "http"])
parser.add_argument("port", type=int, nargs="?", default=0)
parser.add_argument("--tools", type=Path)

READ_ONLY = ToolAnnotations.model_validate({"readOnlyHint": True})


def error(code: int, message: str) -> Exception:
    if MAJOR == 1:
        return McpError(types.ErrorData(code=code, message=message))
    return MCPError(code, message)


class State:
    """The state of one process, lost when it ends."""

    def __init__(self) -> None:
        self.subscribed: dict[str, Any] = {}
        self.listened: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.level = ""
        self.listeners: Any = None

    def subscribe(self, uri: str, session: Any) -> None:
        self._admit(uri)
        self.subscribed[uri] = session

    def listen(self, uri: str) -> None:
        self._admit(uri)
        self.listened[uri] += 1

    def _admit(self, uri: str) -> None:
        self.requests[uri] += 1
        if uri == "test://refused" or (uri == "test://flaky" and self.requests[uri] == 1):
            raise error(-32602 if uri == "test://refused" else -32603, f"{uri} cannot be subscribed to")


def build(tools: Path | None, state: State | None = None) -> MCPServer:
    state = state or State()
    if MAJOR == 1:
        server = MCPServer("changing", log_level="CRITICAL")
        handle_as_1(server._mcp_server, state)
    else:
        bus = InMemorySubscriptionBus()
        server = MCPServer("changing", log_level="CRITICAL", subscriptions=bus)
        handle_as_2(server._lowlevel_server, state, ListenHandler(bus))

    @server.tool(annotations=READ_ONLY)
    async def touch(uri: str, ctx: Context) -> str:
        """Announce that a resource changed."""
        if (session := state.subscribed.get(uri)) is not None:
            await session.send_resource_updated(uri)
        if MAJOR != 1:
            await ctx.notify_resource_updated(uri)
        return "touched"

    @server.tool(annotations=READ_ONLY, structured_output=False)
    def subscribed() -> str:
        """The resources subscribed to in this process."""
        return " ".join(sorted({*state.subscribed, *(+state.listened)}))

    @server.tool(annotations=READ_ONLY, structured_output=False)
    def requests(uri: str) -> str:
        """How many times a resource was subscribed to in this process."""
        return str(state.requests[uri])

    @server.tool(annotations=READ_ONLY, structured_output=False)
    def level() -> str:
        """The log level that was set."""
        return state.level

    @server.tool(annotations=READ_ONLY)
    async def grow(name: str, ctx: Context) -> str:
        """Add a tool."""
        server.add_tool(lambda: name, name=name, description=name)
        await ctx.session.send_tool_list_changed()
        if MAJOR != 1:
            await ctx.notify_tools_changed()
        return "grown"

    @server.tool(annotations=READ_ONLY)
    def cut() -> str:
        """Close the subscription streams, as a server may."""
        state.listeners.close()
        return "cut"

    @server.tool(annotations=READ_ONLY, structured_output=False)
    def pid() -> str:
        return str(os.getpid())

    for line in tools.read_text().splitlines() if tools is not None else []:
        name, *hints = line.split()
        hint = dict.fromkeys(hints, True)
        server.add_tool(
            lambda text="": f"{os.getpid()} {text}", name=name, annotations=ToolAnnotations.model_validate(hint)
        )

    @server.resource("test://greeting")
    def greeting() -> str:
        return f"hello from {os.getpid()}"

    return server


def handle_as_1(lowlevel: Any, state: State) -> None:
    @lowlevel.subscribe_resource()
    async def subscribe(uri: Any) -> None:
        state.subscribe(str(uri), lowlevel.request_context.session)

    @lowlevel.unsubscribe_resource()
    async def unsubscribe(uri: Any) -> None:
        state.subscribed.pop(str(uri), None)

    @lowlevel.set_logging_level()
    async def set_level(level: str) -> None:
        state.level = level

    declare(lowlevel)


def handle_as_2(lowlevel: Any, state: State, listeners: Any) -> None:
    async def subscribe(ctx: Any, params: Any) -> Any:
        state.subscribe(params.uri, ctx.session)
        return types.EmptyResult()

    async def unsubscribe(ctx: Any, params: Any) -> Any:
        state.subscribed.pop(params.uri, None)
        return types.EmptyResult()

    async def set_level(ctx: Any, params: Any) -> Any:
        state.level = params.level
        return types.EmptyResult()

    async def listen(ctx: Any, params: Any) -> Any:
        heard: list[str] = []
        try:
            for uri in params.notifications.resource_subscriptions or []:
                state.listen(uri)
                heard.append(uri)
            return await listeners(ctx, params)
        finally:  # a client's next stream may open before the end of its last one is noticed
            state.listened.subtract(heard)

    state.listeners = listeners
    lowlevel.add_request_handler("resources/subscribe", types.SubscribeRequestParams, subscribe)
    lowlevel.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, unsubscribe)
    lowlevel.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_level)
    lowlevel.add_request_handler("subscriptions/listen", types.SubscriptionsListenRequestParams, listen)
    declare(lowlevel)


def declare(lowlevel: Any) -> None:
    """Declare the server's capabilities: the SDK declares these only with options, or not at all."""
    undeclared = lowlevel.get_capabilities

    def get_capabilities(*args: Any, **options: Any) -> Any:
        capabilities = undeclared(*args, **options).model_dump(by_alias=True, exclude_none=True)
        capabilities["resources"] = {"subscribe": True, "listChanged": True}
        capabilities["tools"] = {"listChanged": True}
        return types.ServerCapabilities.model_validate(capabilities)

    lowlevel.get_capabilities = get_capabilities


def main() -> None:
    arguments = parser.parse_args()
    server = build(arguments.tools)
    if arguments.transport == "stdio":
        server.run("stdio")
        return
    import uvicorn

    die_with_the_test()
    app = server.streamable_http_app()
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="critical", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()

"""Serve the snippets' servers: `python -m tests.snippets.serve` over HTTP on $PORT, with a name as argument over stdio.

Over HTTP all of them run in one process, at `/SERVER/WAY`, and the garden over SSE at `/sse`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from resilient_mcp._sdk.installed import MAJOR

if __name__ == "__main__":
    from tests.servers import lean  # noqa: F401 - before the SDK

# isort: split
from mcp.server.streamable_http import EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from tests.servers.lifeline import die_with_the_test

from . import garden

if MAJOR == 1:
    from .v1 import servers
else:
    from .v2 import servers

BUILDERS: dict[str, Callable[[], Any]] = {"garden": garden.build, **servers.BUILDERS}
WAYS: dict[str, dict[str, Any]] = {
    "http": {},
    "json": {"json_response": True},
    "stateless": {"stateless": True},
    "resumable": {},
}


class Events(EventStore):
    """An event store that keeps every event of every stream."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    async def store_event(self, stream_id: str, message: Any) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: Any) -> str | None:
        last = int(last_event_id)
        stream = self._events[last - 1][0]
        for n, (stream_id, message) in enumerate(self._events[last:], start=last + 1):
            if stream_id == stream and message is not None:
                await send_callback(EventMessage(message, str(n)))
        return stream


def low_level(server: Any) -> Any:
    """The low-level server inside a high-level one."""
    return getattr(server, "_mcp_server" if MAJOR == 1 else "_lowlevel_server", server)


class Endpoint:
    """An ASGI application for a Starlette route, which would take a plain function for a request handler."""

    def __init__(self, manager: StreamableHTTPSessionManager) -> None:
        self._manager = manager

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]
    ) -> None:
        await self._manager.handle_request(scope, receive, send)


def http_app() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import Route

    managers = {}
    for name, build in BUILDERS.items():
        server = low_level(build())
        for way, options in WAYS.items():
            resumable = {"event_store": Events(), "retry_interval": 0} if way == "resumable" else {}
            managers[f"/{name}/{way}"] = StreamableHTTPSessionManager(server, **options, **resumable)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for manager in managers.values():
                await stack.enter_async_context(manager.run())
            yield

    routes = [Route(path, Endpoint(manager)) for path, manager in managers.items()]
    return Starlette(routes=[*routes, *garden.build().sse_app().routes], lifespan=lifespan)


async def over_stdio(name: str) -> None:
    from mcp.server.stdio import stdio_server

    server = low_level(BUILDERS[name]())
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())


def main() -> None:
    if len(sys.argv) > 1:
        if "--banner" in sys.argv:
            print("Welcome to the garden!", flush=True)
        anyio.run(over_stdio, sys.argv[1])
        return
    import uvicorn

    die_with_the_test()
    port = int(os.environ["PORT"])
    uvicorn.run(http_app(), host="127.0.0.1", port=port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()

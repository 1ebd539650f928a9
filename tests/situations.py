"""Slow but healthy servers: what the plain SDK and `ResilientClient` make of them, with defaults, in virtual time.

    python -m tests.situations

prints the README's table. A test compares the README with what `ResilientClient` does.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp
import trio
import trio.testing
from mcp import types
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.memory import create_client_server_memory_streams

from resilient_mcp import ResilientClient
from resilient_mcp._sdk.installed import MAJOR, http

from .servers import lean  # noqa: F401 - must precede the SDK's servers
from .support import LEGACY, text_of

# isort: split
try:
    from mcp.server.mcpserver import Context, MCPServer
except ImportError:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

MINUTE = 60.0
URL = "http://127.0.0.1:8000"
READ_ONLY = types.ToolAnnotations.model_validate({"readOnlyHint": True})


class World:
    """An SDK server in memory, with a transport that clients accept like any other.

    Args:
        starts_in: Seconds until the server starts to read.

    Attributes:
        runs: How many times each tool ran.
        started: How many times the server was started.
    """

    def __init__(self, starts_in: float = 0) -> None:
        self.starts_in = starts_in
        self.runs: Counter[str] = Counter()
        self.started = 0
        self.server = server = MCPServer("patient", log_level="ERROR")
        self._lowlevel: Any = getattr(server, "_lowlevel_server", None) or getattr(server, "_mcp_server", None)

        @server.tool(annotations=READ_ONLY, structured_output=False)
        async def work(seconds: float) -> str:
            self.runs["work"] += 1
            await anyio.sleep(seconds)
            return "done"

        @server.tool(structured_output=False)
        async def stall() -> str:
            await anyio.sleep(math.inf)
            return "never"

        @server.tool(structured_output=False)
        async def ask(ctx: Context) -> str:
            self.runs["ask"] += 1
            schema = {"type": "object", "properties": {}}
            return str((await ctx.session.elicit_form("Sure?", schema)).action)

        @server.tool(structured_output=False)
        async def roots(ctx: Context) -> str:
            self.runs["roots"] += 1
            return str(len((await ctx.session.list_roots()).roots))

        @server.tool(structured_output=False)
        async def think(ctx: Context) -> str:
            self.runs["think"] += 1
            text = types.TextContent(type="text", text="?")
            message = types.SamplingMessage(role="user", content=text)
            return str((await ctx.session.create_message([message], max_tokens=9)).model)

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[Any]:
        self.started += 1
        async with create_client_server_memory_streams() as (client, server), anyio.create_task_group() as tg:

            async def serve() -> None:
                await anyio.sleep(self.starts_in)
                await self._lowlevel.run(*server, self._lowlevel.create_initialization_options())

            tg.start_soon(serve)
            yield client
            tg.cancel_scope.cancel()


class Login(http.Auth):  # type: ignore[misc]
    """An auth flow in which a person takes a minute, as on the browser page of an OAuth flow."""

    def __init__(self) -> None:
        self.opened = 0
        self.token = ""
        self._turn = anyio.Lock()

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        async with self._turn:
            request.headers["authorization"] = self.token
            response = yield request
            if response.status_code == 401:
                self.opened += 1
                await anyio.sleep(MINUTE)
                self.token = request.headers["authorization"] = "Bearer t"
                yield request


class Refused:
    """Whether a server currently refuses all credentials."""

    now = False


@asynccontextmanager
async def guarded(world: World, login: Any, refused: Refused | None = None) -> AsyncIterator[Any]:
    """An HTTP client with the auth flow `login`; its server requires "Bearer t" if there is one."""
    if MAJOR == 1:
        world.server.settings.stateless_http = world.server.settings.json_response = True
        app = world.server.streamable_http_app()
    else:
        app = world.server.streamable_http_app(stateless_http=True, json_response=True)

    async def guard(scope: Any, receive: Any, send: Any) -> None:
        welcome = login is None or (b"authorization", b"Bearer t") in scope["headers"]
        if welcome and not (refused is not None and refused.now):
            await app(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 401, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    transport = http.ASGITransport(guard)
    async with world.server.session_manager.run(), http.AsyncClient(transport=transport, auth=login) as client:
        yield client


# --- the table ---


def ours(target: Any, **options: Any) -> Any:
    if isinstance(target, http.AsyncClient):
        return ResilientClient(f"{URL}/mcp", http_client=target, **options)
    return ResilientClient(target, **options)


@asynccontextmanager
async def plain(target: Any, *, mode: str | None = None, **options: Any) -> AsyncIterator[Any]:
    """`ClientSession` with mcp 1.x, `mcp.Client` with 2.x."""
    if isinstance(target, http.AsyncClient):
        streams = streamable_http_client(f"{URL}/mcp", http_client=target)
    else:
        streams = target()
    if MAJOR == 1:
        async with streams as (read, write, *_), mcp.ClientSession(read, write, **options) as session:
            await session.initialize()
            yield session
    else:
        async with mcp.Client(streams, **({} if mode is None else {"mode": mode}), **options) as client:
            yield client


async def slow_start(connect: Any) -> str:
    world = World(starts_in=MINUTE)
    async with connect(world.transport) as client:
        answer = text_of(await client.call_tool("work", {"seconds": 0}))
    return "answered" if (answer, world.started) == ("done", 1) else f"started {world.started} times"


async def slow_tool(connect: Any) -> str:
    world = World()
    async with connect(world.transport) as client:
        answer = text_of(await client.call_tool("work", {"seconds": 90}))
    return "answered" if (answer, world.runs["work"]) == ("done", 1) else f"run {world.runs['work']} times"


def slow_person(seconds: float) -> Any:
    async def ask(connect: Any) -> str:
        async def human(*_: Any) -> Any:
            await anyio.sleep(seconds)
            return types.ElicitResult(action="accept", content={})

        async with connect(World().transport, elicitation_callback=human, **LEGACY) as client:
            answer = text_of(await client.call_tool("ask"))
        return "answered" if answer == "accept" else answer

    return ask


async def curious_callback(connect: Any) -> str:
    holder: list[Any] = []

    async def human(*_: Any) -> Any:
        await holder[0].call_tool("work", {"seconds": 1})
        return types.ElicitResult(action="accept", content={})

    async with connect(World().transport, elicitation_callback=human, **LEGACY) as client:
        holder.append(client)
        answer = text_of(await client.call_tool("ask"))
    return "answered" if answer == "accept" else answer


async def slow_login(connect: Any) -> str:
    world, login = World(), Login()
    async with guarded(world, login) as http, connect(http) as client:
        answer = text_of(await client.call_tool("work", {"seconds": 0}))
    logins = "once" if login.opened == 1 else f"{login.opened} times"
    return f"answered, asked to log in {logins}" if answer == "done" else answer


async def refused_while_idle(connect: Any) -> str:
    world, refused = World(), Refused()
    async with guarded(world, None, refused=refused) as http, connect(http) as client:
        await client.call_tool("work", {"seconds": 0})
        refused.now = True
        await anyio.sleep(2 * MINUTE)
        refused.now = False
        return "answered" if text_of(await client.call_tool("work", {"seconds": 0})) == "done" else "an error result"


SITUATIONS: dict[str, Callable[[Any], Awaitable[str]]] = {
    "a server needs a minute to start": slow_start,
    "a tool takes 90 s": slow_tool,
    "a person answers the server's question after 90 s": slow_person(90),
    "the same after ten minutes": slow_person(600),
    "a callback calls the client": curious_callback,
    "a login takes a minute": slow_login,
    "the credentials are refused for two minutes without a call": refused_while_idle,
}
HEAD = "| situation | plain SDK | this library |\n| --- | --- | --- |\n"


def outcome(situation: Callable[[Any], Awaitable[str]], connect: Any) -> str:
    """The result of a situation, within an hour of virtual time."""

    async def body() -> str:
        with anyio.move_on_after(3600):
            try:
                return await situation(connect)
            except Exception as error:
                found: Any = error
                while inner := getattr(found, "exceptions", ()):  # an exception group
                    found = inner[0]
                return f"`{type(found).__name__}`"
        return "HUNG"

    return str(in_virtual_time(body))


def in_virtual_time(body: Callable[[], Awaitable[Any]]) -> Any:
    """Run `body` on a clock that jumps to the next deadline whenever all tasks wait."""
    return trio.run(body, clock=trio.testing.MockClock(autojump_threshold=0.01))


if __name__ == "__main__":
    logging.disable()
    print(HEAD, end="")
    for name, situation in SITUATIONS.items():
        print(f"| {name} | {outcome(situation, plain)} | {outcome(situation, ours)} |", flush=True)

"""Code written for the SDK's clients runs with only the construction replaced, and prints the same."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import sys
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import mcp
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared import memory

from resilient_mcp import ResilientClient
from resilient_mcp._sdk.installed import MAJOR, SseServerParameters

from .snippets import SNIPPETS, Snippet, serve
from .support import LIBRARIES, ROOT, HttpServer

if MAJOR == 1:
    from .snippets import v1  # noqa: F401 - fills SNIPPETS

    # The SDK warns that its tasks are experimental.
    DEPRECATED = ["ignore::DeprecationWarning"]
else:
    from .snippets import v2  # noqa: F401 - fills SNIPPETS

    # The SDK warns about features that the newest protocol version drops.
    DEPRECATED = ["ignore::mcp.shared.exceptions.MCPDeprecationWarning"]
pytestmark = [
    pytest.mark.anyio,
    *map(pytest.mark.filterwarnings, DEPRECATED),
]

SSE: Any = SseServerParameters


@asynccontextmanager
async def session_over_streams(server: Any, *, http_client: Any = None, **options: Any) -> AsyncIterator[ClientSession]:
    """A session opened as in the SDK's documentation, for whatever `ResilientClient` takes as a server."""
    if isinstance(server, StdioServerParameters):
        streams = stdio_client(server)
    elif isinstance(server, SSE):
        streams = sse_client(server.url)
    elif isinstance(server, str):
        streams = streamable_http_client(server, http_client=http_client)
    else:
        streams = in_memory(server)
    async with streams as (read, write, *_), ClientSession(read, write, **options) as session:
        yield session


@asynccontextmanager
async def in_memory(server: Any) -> AsyncIterator[Any]:
    low_level = serve.low_level(server)
    async with memory.create_client_server_memory_streams() as (ours, its), anyio.create_task_group() as tg:
        tg.start_soon(low_level.run, *its, low_level.create_initialization_options())
        yield ours
        tg.cancel_scope.cancel()


def client_of_2(server: Any, *, http_client: Any = None, **options: Any) -> Any:
    """A client constructed as in the SDK's documentation, for whatever `ResilientClient` takes as a server."""
    if isinstance(server, SSE):
        server = sse_client(server.url)
    elif http_client is not None:
        server = streamable_http_client(server, http_client=http_client)
    return mcp.Client(server, **options)


def constructions(snippet: Snippet, way: str) -> tuple[Any, Any]:
    """`connect` with the SDK, and with this library."""
    if snippet.streams is not None:
        return session_over_streams, partial(ResilientClient, mode=snippet.streams)
    if MAJOR != 1:
        return client_of_2, ResilientClient
    return (
        memory.create_connected_server_and_client_session if way == "testing" else session_over_streams,
        ResilientClient,
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[HttpServer]:
    """All servers of the snippets, over HTTP in one process."""
    process = HttpServer(command=[sys.executable, "-m", "tests.snippets.serve"])
    process.start()
    try:
        anyio.run(process.listening)
        yield process
    finally:
        process.kill()


def address(snippet: Snippet, way: str, servers: HttpServer) -> Any:
    """The server argument of `connect`."""
    base = f"http://127.0.0.1:{servers.port}"
    if way in serve.WAYS:
        return f"{base}/{snippet.server}/{way}"
    if way == "sse":
        return SSE(url=f"{base}/sse")
    if way in ("stdio", "banner"):
        arguments = ["-m", "tests.snippets.serve", snippet.server, *(["--banner"] if way == "banner" else [])]
        return StdioServerParameters(command=sys.executable, args=arguments, cwd=ROOT)
    return serve.BUILDERS[snippet.server]()


async def transcript(snippet: Snippet, connect: Any, server: Any) -> str:
    """What the snippet prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), anyio.fail_after(15):
        await snippet.code(connect, server)
    return printed.getvalue()


def cases() -> Iterator[Any]:
    for snippet in SNIPPETS:
        for way in snippet.on:
            # Over HTTP, the SDK's own 1.x client loses requests on trio.
            for library in LIBRARIES if way == "memory" else LIBRARIES[:1]:
                yield pytest.param(library, snippet, way, id=f"{snippet.name}-{way}-{library}")


@pytest.mark.parametrize(("anyio_backend", "snippet", "way"), list(cases()))
async def test_a_snippet_prints_the_same(snippet: Snippet, way: str, servers: HttpServer):
    """A snippet prints the same with the SDK's own client and with `ResilientClient` in its place."""
    sdk, ours = constructions(snippet, way)

    expected = await transcript(snippet, sdk, address(snippet, way, servers))
    seen = await transcript(snippet, ours, address(snippet, way, servers))

    assert expected
    assert seen == expected


def test_there_are_enough_snippets():
    """Each major has at least thirty snippets, with distinct names."""
    assert len({snippet.name for snippet in SNIPPETS}) == len(SNIPPETS) >= 30


@pytest.mark.timeout(60)  # starts and kills SDK servers, on a machine that may be busy
@pytest.mark.parametrize("anyio_backend", LIBRARIES[:1])
async def test_a_short_use_logs_no_errors(servers: HttpServer, caplog: pytest.LogCaptureFixture):
    """A program that connects, makes one request and leaves makes the SDK log no error."""
    for _ in range(20):
        async with ResilientClient(f"http://127.0.0.1:{servers.port}/garden/http") as client:
            await client.list_prompts()

    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.skipif(MAJOR == 1, reason="1.x does not listen")
@pytest.mark.parametrize("anyio_backend", LIBRARIES[1:])
async def test_a_short_use_leaves_no_unawaited_coroutine():
    """A program that connects, makes one request and leaves awaits all its coroutines."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(30):
            async with ResilientClient(serve.BUILDERS["garden"]()) as client:
                await client.list_tools()
        gc.collect()

    assert [str(warning.message) for warning in caught] == []

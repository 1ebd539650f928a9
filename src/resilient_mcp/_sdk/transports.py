"""The SDK's own transports, and the HTTP client they use."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeAlias, cast
from urllib.request import getproxies

import anyio
import anyio.abc
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.server import Server
from mcp.shared._httpx_utils import create_mcp_http_client, next_request_within_origin
from mcp.shared.memory import create_client_server_memory_streams

from .installed import MAJOR, HighLevelServer, http

Streams: TypeAlias = tuple[Any, Any]


def to_seconds(value: Any) -> float:
    """A duration in seconds; 1.x spells some of them as `timedelta`."""
    return float(value.total_seconds() if hasattr(value, "total_seconds") else value)


def timeout_argument(value: float) -> Any:
    """`value` seconds in the form in which the installed SDK takes a read timeout."""
    return timedelta(seconds=value) if MAJOR == 1 else value


def is_in_process_server(server: object) -> bool:
    """Whether `server` is an SDK server object that runs in this process."""
    return isinstance(server, Server | HighLevelServer)


def create_http_client(headers: Mapping[str, Any] | None, *, connect: float, read: float | None) -> Any:
    """An HTTP client of the installed SDK's library, with no limit on concurrent calls.

    TCP keep-alive detects dead connections: a stream on which only the server sends would otherwise hang forever. It is
    left out if the environment names a proxy, which the library finds only without a custom transport.
    """
    timeout = http.Timeout(connect, read=read, pool=None)
    trusted = _trust(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))
    options = {"limits": http.Limits(max_connections=None, max_keepalive_connections=20), "verify": trusted}
    if not {"http", "https", "all"} & getproxies().keys():
        options = {"transport": http.AsyncHTTPTransport(**options, socket_options=KEEPALIVE)}
    return http.AsyncClient(headers=dict(headers or {}), timeout=timeout, **options)


def _keepalive() -> list[tuple[int, int, int]]:
    wanted = {
        "TCP_KEEPIDLE": 30,  # seconds of silence before the first probe
        "TCP_KEEPALIVE": 30,  # the same on macOS
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
    }
    known = {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *((socket.IPPROTO_TCP, *option) for option in known.items())]


KEEPALIVE = _keepalive()
"""Socket options with which the operating system detects a silent disconnect within a minute.

The probes also keep routers from dropping an idle connection.
"""


@lru_cache(maxsize=8)
def _trust(*_where: str | None) -> Any:
    """The HTTP library's default TLS context, cached by the environment variables that it reads.

    Shared by all clients: a context of its own would cost each of them 800 KiB and 25 ms.
    """
    return http.create_ssl_context()


@asynccontextmanager
async def streamable_http_transport(parameters: Any, client: Any) -> AsyncIterator[Streams]:
    """The SDK's Streamable HTTP transport over `client`; `parameters` are `StreamableHttpParameters`."""
    options: dict[str, Any] = {"terminate_on_close": parameters.terminate_on_close}
    if MAJOR != 1:
        options["max_sse_event_size"] = None  # `client` enforces the limit (`Policy.max_message_bytes`)
    async with streamable_http_client(parameters.url, http_client=client, **options) as streams:
        yield streams[0], streams[1]


def sse_transport(parameters: Any, wrap: Callable[[Any], Any]) -> AbstractAsyncContextManager[Streams]:
    """The SDK's HTTP+SSE transport (2024-11-05), with its HTTP client passed through `wrap`."""

    def factory(headers: Any = None, timeout: Any = None, auth: Any = None) -> Any:
        return wrap(create_mcp_http_client(headers=headers, timeout=timeout, auth=auth))

    return cast(
        "AbstractAsyncContextManager[Streams]",
        sse_client(
            parameters.url,
            headers=parameters.headers,
            timeout=to_seconds(parameters.timeout),
            sse_read_timeout=to_seconds(parameters.sse_read_timeout),
            httpx_client_factory=factory,
        ),
    )


DIRECT_IN_PROCESS = MAJOR != 1
"""Whether `Session.open` takes an in-process server itself and calls it without a wire."""


@asynccontextmanager
async def in_process_transport(server: Any) -> AsyncIterator[Streams]:
    """Memory streams to an SDK server of 1.x that runs in this process."""
    lowlevel = getattr(server, "_mcp_server", server)
    async with (
        create_client_server_memory_streams() as (client_streams, server_streams),
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(lowlevel.run, *server_streams, lowlevel.create_initialization_options())
        try:
            yield client_streams
        finally:
            tg.cancel_scope.cancel()


POSTS_ONE_BY_ONE = MAJOR == 1
"""Whether a request must have reached the HTTP client before the next one may be written.

1.x starts each POST in a task that reads the writer's loop variable only when it first runs. On trio, which starts
tasks in random order, the writer may have moved on by then: one request is never sent, and the next one is sent twice.
"""


redirected_request = next_request_within_origin
"""Returns the request that follows a redirect, or None if the SDK would not follow it (same origin and method only)."""

"""The SDK's own transports, and the HTTP client they use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias, cast

import anyio
import anyio.abc
from mcp.client.sse import sse_client
from mcp.server import Server
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.memory import create_client_server_memory_streams

from .installed import MAJOR, HighLevelServer

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


@asynccontextmanager
async def in_process_transport(server: Any) -> AsyncIterator[Streams]:
    """Memory streams to an SDK server that runs in this process, at any protocol version it speaks."""
    lowlevel = getattr(server, "_mcp_server" if MAJOR == 1 else "_lowlevel_server", server)
    async with (
        create_client_server_memory_streams() as (client_streams, server_streams),
        anyio.create_task_group() as tg,
    ):
        tg.start_soon(lowlevel.run, *server_streams, lowlevel.create_initialization_options())
        try:
            yield client_streams
        finally:
            tg.cancel_scope.cancel()

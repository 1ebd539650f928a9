"""A transport for FastMCP's client, and for what is built on it, such as pydantic-ai's `MCPToolset`.

Its session talks to an in-process server in front of a `ResilientClient`, which keeps the real server available, so
FastMCP sees one uninterrupted session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ..client import ResilientClient

try:
    from fastmcp.client.transports.base import ClientTransport, TransportOptions
except ImportError as exc:
    raise ImportError("resilient_mcp.integrations.fastmcp needs FastMCP 4: install fastmcp>=4,<5") from exc


class ResilientTransport(ClientTransport):
    """Connects FastMCP's client to a server that may crash, restart or be away: `Client(ResilientTransport(server))`.

    Each connection of FastMCP's client has its own `ResilientClient`. A tool call that is given up returns a result
    with `isError` and advice, never a connection error.

    Args:
        server: The server, as for `ResilientClient`.
        **options: Options of `ResilientClient`. Server requests (sampling, elicitation, roots) are passed to the
            handlers of FastMCP's client, unless the options contain callbacks for them.

    Raises:
        ValueError: As `ResilientClient` does.
        TypeError: As `ResilientClient` does.
    """

    legacy_only = True
    """The session speaks versions up to 2025-11-25, so FastMCP need not try `server/discover` first."""

    def __init__(self, server: Any, **options: Any) -> None:
        self._new_client = partial(ResilientClient, server, **options)
        self._name = self._new_client().name  # so that wrong arguments fail here, not when connecting

    @asynccontextmanager
    async def connect_session(
        self, *, transport_options: TransportOptions | None = None, **session_kwargs: Any
    ) -> AsyncIterator[Any]:
        """A session backed by a new `ResilientClient`."""
        session_class = (transport_options or TransportOptions()).session_class
        transport = self._new_client().as_transport()
        async with transport as (read, write), session_class(read, write, **session_kwargs) as session:
            yield session

    def __repr__(self) -> str:
        return f"<ResilientTransport(server={self._name!r})>"

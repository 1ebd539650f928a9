"""A transport for FastMCP's client, and for what is built on that, such as pydantic-ai's `MCPToolset`.

Its session talks to a server in this process that stands in front of a `ResilientClient`; that one keeps the real
server alive, so FastMCP sees one session from beginning to end.
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

    Each connection of FastMCP's client has a `ResilientClient` of its own behind it. A tool call that is given up comes
    back as a result with `isError` and advice, never as an error of the connection.

    Args:
        server: As for `ResilientClient`, and so are the options. What the server asks (sampling, elicitation, roots)
            goes to the handlers of FastMCP's client, unless there are callbacks for it among the options.

    Raises:
        ValueError: As `ResilientClient`, and so is `TypeError`.
    """

    legacy_only = True
    """The session is one up to 2025-11-25: there is no need to ask for `server/discover` first."""

    def __init__(self, server: Any, **options: Any) -> None:
        self._new_client = partial(ResilientClient, server, **options)
        self._name = self._new_client().name  # wrong arguments are told here and not on connecting

    @asynccontextmanager
    async def connect_session(
        self, *, transport_options: TransportOptions | None = None, **session_kwargs: Any
    ) -> AsyncIterator[Any]:
        """A session with a `ResilientClient` of its own behind it."""
        session_class = (transport_options or TransportOptions()).session_class
        transport = self._new_client().as_transport()
        async with transport as (read, write), session_class(read, write, **session_kwargs) as session:
            yield session

    def __repr__(self) -> str:
        return f"<ResilientTransport(server={self._name!r})>"

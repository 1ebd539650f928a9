"""TCP connections that send a request's headers and its body together.

The HTTP library writes them one after the other: two packets, two passes of the event loop here, and two in the server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio.lowlevel

from ..._sdk.installed import httpcore
from ...event_loop import in_trio

# Bytes that are worth copying to be sent in one piece.
_JOINED = 64 * 1024


class JoiningBackend(httpcore.AsyncNetworkBackend):  # type: ignore[misc]
    """Makes connections as the HTTP library does."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Any:
        """Connect to `host`; see httpcore."""
        backend = httpcore.TrioBackend() if in_trio() else httpcore.AnyIOBackend()
        return _Stream(await backend.connect_tcp(host, port, timeout, local_address, socket_options))


class _Stream(httpcore.AsyncNetworkStream):  # type: ignore[misc]
    """Holds back what is written first, until more is written or an answer is awaited.

    Args:
        inner: The HTTP library's own stream.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._held = b""
        self._holds = True  # whether the next write is the first one of a request

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send `buffer`, or keep it for the next write; the HTTP library ends a request with an empty one."""
        if self._holds:
            # A request that is cancelled here has not left: its body is only asked for afterwards.
            await anyio.lowlevel.checkpoint_if_cancelled()
            self._holds = False
            self._held = buffer
            return
        held, self._held = self._held, b""
        if len(held) + len(buffer) > _JOINED:
            await self._inner.write(held, timeout)
            held = b""
        await self._inner.write(held + buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive at most `max_bytes`."""
        if self._held:
            await self.write(b"", timeout)
        self._holds = True
        return await self._inner.read(max_bytes, timeout)  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> Any:
        """The same connection, encrypted."""
        return _Stream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """What the HTTP library's own stream says."""
        return self._inner.get_extra_info(info)

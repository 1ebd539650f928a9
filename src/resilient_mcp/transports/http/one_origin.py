"""Connections to one origin, below the HTTP client that this library makes itself.

The HTTP library's pool looks at every connection for every request, which takes a third of the time when 64 calls are
in flight. Calls go to one server, so here the connection that became idle last is used first, without a search.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup

from ..._sdk.installed import http, httpcore

IDLE = 2.5
"""Seconds after which an idle connection is not used again, and closed soon. Servers drop theirs too (uvicorn after
5 s), and a request that crosses the drop fails as one that may have run."""

# Idle connections that are kept.
_KEPT = 128


class OneOrigin(httpcore.AsyncConnectionInterface):  # type: ignore[misc]
    """Sends requests to one origin over its own connections, and those to others over `others`.

    Args:
        url: A URL of the origin.
        others: The HTTP library's pool, for other origins, such as that of an authorization server.
        background: Closes idle connections.
        options: Options of the HTTP library's connections.
    """

    def __init__(self, url: str, others: Any, background: TaskGroup, **options: Any) -> None:
        parsed = http.URL(url)  # which knows names and paths that are not ASCII
        target = httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=b"/")
        self._origin = target.origin
        self._others = others
        self._background = background
        self._tidying: anyio.CancelScope | None = None
        self._options = options
        self._idle: deque[Any] = deque()
        self._busy: set[Any] = set()

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, and return the response as soon as its headers have come."""
        if request.url.origin != self._origin:
            return await self._others.handle_async_request(request)
        connection = await self._take()
        self._busy.add(connection)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await self._drop(connection)
            raise
        response.stream = _Body(response.stream, connection, self)
        return response

    async def _take(self) -> Any:
        """An idle connection that can still be used, or a new one."""
        if len(self._idle) > 1 and self._idle[0].has_expired():  # the oldest may never be reached
            await self._idle.popleft().aclose()
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(origin=self._origin, keepalive_expiry=IDLE, **self._options)

    async def _drop(self, connection: Any) -> None:
        self._busy.discard(connection)
        with anyio.CancelScope(shield=True):
            await connection.aclose()

    async def release(self, connection: Any) -> None:
        """Keep the connection of a response that has been closed, if it can be used again."""
        if connection.is_idle() and len(self._idle) < _KEPT and connection in self._busy:
            self._busy.discard(connection)
            self._idle.append(connection)
            if self._tidying is None:
                self._tidying = anyio.CancelScope()
                self._background.start_soon(self._close_expired, self._tidying)
        else:
            await self._drop(connection)

    async def _close_expired(self, scope: anyio.CancelScope) -> None:
        """Close connections once they have expired, until none is idle: a client without calls needs no socket."""
        with scope:
            while self._idle:
                await anyio.sleep(IDLE)
                while self._idle and self._idle[0].has_expired():
                    with suppress(
                        Exception
                    ):  # it would end all that runs beside this, and the connection is gone anyway
                        await self._idle.popleft().aclose()
        if self._tidying is scope:
            self._tidying = None

    async def __aenter__(self) -> OneOrigin:
        await self._others.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        if self._tidying is not None:
            self._tidying.cancel()
        connections = [*self._idle, *self._busy]
        self._idle.clear()
        self._busy.clear()
        for connection in connections:
            await connection.aclose()
        await self._others.aclose()


class _Body:
    """The body of a response; closing it gives the connection back."""

    def __init__(self, inner: Any, connection: Any, origin: OneOrigin) -> None:
        self._inner = inner
        self._connection = connection
        self._origin = origin

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._inner.__aiter__()  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the body."""
        try:
            await self._inner.aclose()
        finally:
            await self._origin.release(self._connection)

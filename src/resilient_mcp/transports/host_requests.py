"""Streams that pass the server's requests to another client, which answers them in place of the session's callbacks.

Server requests and their answers are passed on unchanged, so that methods unknown to the session work too, and a slow
one does not block the stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from typing import Any, Protocol

import anyio
from mcp.shared.message import SessionMessage
from typing_extensions import Self

from .._sdk.messages import cancelled_id, declare_capabilities, message_as_json, message_from_json, method_and_id
from .._sdk.transports import Streams


class Link(Protocol):
    """Answers the server's requests in place of a session's callbacks.

    Attributes:
        capabilities: Client capabilities, declared unchanged to the server at `initialize`.
    """

    capabilities: dict[str, Any]

    def take(self, request: dict[str, Any], reply: Callable[[dict[str, Any]], Awaitable[None]]) -> Callable[[], object]:
        """Start answering a server request in the background.

        Args:
            request: The request, as JSON.
            reply: Sends the answer, as JSON.

        Returns:
            A function that abandons the request.
        """
        ...


@asynccontextmanager
async def linked(
    streams: Any, link: Link, server_waits: Callable[[], AbstractContextManager[None]]
) -> AsyncIterator[Streams]:
    """Attach `link` to a transport's streams.

    Args:
        streams: A context manager of the (read, write) streams.
        link: Answers the server's requests.
        server_waits: Returns a context that is open while the server waits for such an answer.
    """
    async with streams as (read, write):
        yield LinkedReader(read, link, write, server_waits), LinkedWriter(write, link)


class LinkedReader:
    """A read stream that passes the server's requests to a link, except `ping`, which the session answers."""

    def __init__(
        self, inner: Any, link: Link, write: Any, server_waits: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._inner = inner
        self._link = link
        self._write = write
        self._server_waits = server_waits
        self._open: dict[Any, Callable[[], object]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            while True:
                item = await self._inner.__anext__()
                if isinstance(item, Exception) or not self._took(item):
                    return item
        except BaseException:
            self._give_up()
            raise

    def _took(self, item: SessionMessage) -> bool:
        method, request_id = method_and_id(item)
        if method == "notifications/cancelled":
            give_up = self._open.pop(cancelled_id(item), None)
            if give_up is not None:
                give_up()
            return give_up is not None
        if method is None or request_id is None or method == "ping":
            return False

        waiting = ExitStack()
        waiting.enter_context(self._server_waits())

        async def reply(answer: dict[str, Any]) -> None:
            self._open.pop(request_id, None)
            waiting.close()
            try:
                await self._write.send(message_from_json(answer))
            except (ValueError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                return  # the answer is not valid, or the server is gone

        give_up = self._link.take(message_as_json(item), reply)

        def end() -> None:
            waiting.close()
            give_up()

        self._open[request_id] = end
        return True

    def _give_up(self) -> None:
        while self._open:
            self._open.popitem()[1]()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> Any:
        self._give_up()
        return await self._inner.__aexit__(*exc_info)


class LinkedWriter:
    """A write stream whose `initialize` declares a link's capabilities."""

    def __init__(self, inner: Any, link: Link) -> None:
        self._inner = inner
        self._link = link

    async def send(self, item: SessionMessage) -> None:
        if method_and_id(item)[0] == "initialize":
            declare_capabilities(item, self._link.capabilities)
        await self._inner.send(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> Any:
        return await self._inner.__aexit__(*exc_info)

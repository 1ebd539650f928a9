"""The read stream of a session: how messages wait for it, and in which rhythm it gets them."""

from __future__ import annotations

from collections import deque

import anyio
import anyio.lowlevel
from mcp.shared.message import SessionMessage

from .._sdk.messages import is_notification
from ..event_loop import Flag, Signal

# Messages from the server that may wait for the session.
_WAITING = 1000


class Turn:
    """Lets the session begin to handle a notification before it gets the next message.

    mcp 2.x handles each notification in a task of its own. If the response came in the same moment, its caller could go
    on before the callback for the last progress has run.
    """

    def __init__(self) -> None:
        self._pending = False

    def of(self, item: SessionMessage) -> SessionMessage:
        """Note that the session gets `item`, and return it."""
        self._pending = is_notification(item)
        return item

    async def over(self) -> None:
        """Let other tasks run, if a notification was passed on just before."""
        if self._pending:
            self._pending = False
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()  # trio runs the tasks that are due in random order, this one among them


class Inbox:
    """The session's read stream, which a transport fills."""

    def __init__(self) -> None:
        self._messages: deque[SessionMessage] = deque()
        self._arrived: Flag | None = None  # set by the next message or the end, if the session waits for it
        self._taken = Signal()  # there is room again
        self._closed = False
        self._turn = Turn()

    def put(self, item: SessionMessage) -> None:
        """Add a message."""
        self._messages.append(item)
        if self._arrived is not None:
            self._arrived.set()

    async def room(self) -> None:
        """Wait until fewer than a thousand messages wait for the session."""
        while len(self._messages) >= _WAITING and not self._closed:
            await self._taken.wait()

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> SessionMessage:
        await self._turn.over()
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._arrived = Flag()
            await self._arrived.wait()
            self._arrived = None
        message = self._messages.popleft()
        if len(self._messages) >= _WAITING - 1:  # otherwise nobody can be waiting
            self._taken.notify()
        return self._turn.of(message)

    async def receive(self) -> SessionMessage:
        """The next message.

        Raises:
            anyio.EndOfStream: The transport is closed.
        """
        try:
            return await self.__anext__()
        except StopAsyncIteration:
            raise anyio.EndOfStream from None

    async def aclose(self) -> None:
        """Deliver nothing more."""
        self._closed = True
        self._taken.notify()
        if self._arrived is not None:
            self._arrived.set()

    async def __aenter__(self) -> Inbox:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

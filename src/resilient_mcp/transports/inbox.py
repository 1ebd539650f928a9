"""The read stream of a session: how messages wait for it, and in which rhythm it gets them."""

from __future__ import annotations

from collections import deque
from typing import TypeVar

import anyio
import anyio.lowlevel
from mcp.shared.message import SessionMessage

from .._sdk.messages import cancelled_id, is_notification, method_and_id
from ..event_loop import Flag, Pace, Signal
from ..in_flight import InFlight

T = TypeVar("T", bound="SessionMessage | Exception")

# Messages from the server that may wait for the session.
_WAITING = 1000


def is_admitted(item: SessionMessage, in_flight: InFlight) -> bool:
    """Whether the session gets `item`, a message that is no response; a request does not while a thousand are open."""
    method, request_id = method_and_id(item)
    if request_id is not None:
        return in_flight.asked(request_id)
    if method == "notifications/cancelled":
        in_flight.replied(cancelled_id(item))  # the SDK does not answer it
    return True


class Turn:
    """Lets the session begin to handle a notification before it gets the next message.

    mcp 2.x handles each notification in a task of its own. If the response came in the same moment, its caller could go
    on before the callback for the last progress has run. Other tasks also get their turn after some messages of any
    kind: a session does not wait while there are more.
    """

    def __init__(self) -> None:
        self._pending = False
        self._pace = Pace()

    def of(self, item: T) -> T:
        """Note that the session gets `item`, a message or the error of something that is not one, and return it."""
        self._pending = self._pace.is_over() or isinstance(item, Exception) or is_notification(item)
        return item

    async def over(self) -> None:
        """Let other tasks run, if a notification was passed on just before, or many messages."""
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

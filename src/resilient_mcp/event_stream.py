"""What `client.events()` gives: a bounded buffer between a client, which never waits, and a reader, who may."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from .events import Event


class EventStream:
    """An async iterator over a client's events, from where it was made; ends when the client is closed.

    A reader that falls behind loses the oldest events, and nobody else anything.

    Attributes:
        dropped: How many events were lost so far because the buffer was full.
    """

    def __init__(self, buffer: int) -> None:
        if buffer < 1:
            raise ValueError(f"buffer is {buffer}: write how many events to keep for a slow reader, at least 1")
        self.dropped = 0
        self._buffer: deque[Event] = deque(maxlen=buffer)
        self._news: anyio.Event | None = None
        self._closed = False

    def put(self, event: Event) -> None:
        """Keep one event for the reader."""
        self.dropped += len(self._buffer) == self._buffer.maxlen
        self._buffer.append(event)
        self._wake()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        await anyio.lowlevel.checkpoint()
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if self._news is None:
                self._news = anyio.Event()
            await self._news.wait()
        return self._buffer.popleft()

"""The reading end of a pipe from a server process (POSIX)."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from contextlib import suppress
from typing import Protocol

import anyio

from ..event_loop import in_trio

_CHUNK = 256 * 1024

# Bytes that wait for the reader before no more are read: then the server waits.
_HELD = 1024 * 1024


class Pipe(Protocol):
    """A pipe that one task reads."""

    async def receive(self) -> bytes:
        """The next bytes; empty when the pipe ends, or after `wake`."""
        ...

    def wake(self) -> None:
        """Let `receive` return what is there, and from now on not wait for more; the descriptor may then be closed."""
        ...


class AnyPipe:
    """A pipe on any event loop.

    Args:
        fd: The descriptor; it must not block.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._woken = False

    async def receive(self) -> bytes:
        while not self._woken:
            try:
                await anyio.wait_readable(self._fd)
            except anyio.ClosedResourceError:  # by `wake`
                break
            with suppress(BlockingIOError):
                return os.read(self._fd, _CHUNK)
        with suppress(BlockingIOError):
            return os.read(self._fd, _CHUNK)
        return b""

    def wake(self) -> None:
        # `notify_closing` wakes only a `receive` that is waiting now; the flag keeps later ones from waiting.
        self._woken = True
        anyio.notify_closing(self._fd)


class AsyncioPipe:
    """A pipe on asyncio. It stays registered with the event loop and is read as soon as something comes.

    Registering it for each message, as `anyio.wait_readable` does, takes a tenth of a call.

    Args:
        fd: The descriptor; it must not block.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._chunks: deque[bytes] = deque()
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None
        self._reading = False
        self._woken = False
        self._ended = False

    async def receive(self) -> bytes:
        while not self._chunks:
            if self._ended or self._woken:
                return self._rest()
            self._read_on()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        chunk = self._chunks.popleft()
        self._held -= len(chunk)
        return chunk

    def _rest(self) -> bytes:
        if not self._ended:
            with suppress(BlockingIOError):
                return os.read(self._fd, _CHUNK)
        return b""

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        if chunk:
            self._chunks.append(chunk)
            self._held += len(chunk)
        else:
            self._ended = True
        if self._ended or self._held >= _HELD:
            self._pause()
        self._notify()

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def wake(self) -> None:
        self._woken = True
        self._pause()
        self._notify()


def pipe_of(fd: int) -> Pipe:
    """A pipe for the running event loop."""
    return AnyPipe(fd) if in_trio() else AsyncioPipe(fd)

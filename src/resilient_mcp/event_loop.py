"""The event loop: signals, background tasks, and the clock for the waits that this library itself imposes.

These are back-off, restart delays, push-backs, rate limits, and the time for which a circuit stays open. Tests can skip
them (`resilient_mcp.testing.instant_waits`). Time limits are not among them: they run on the event loop's own clock, so
skipping a wait does not shorten them.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Any

import anyio
import anyio.lowlevel

# Pieces of work, such as one message, after which other tasks get their turn, and the bytes that count as one more.
# They take about 5 ms.
_PIECES, _BYTES = 32, 4096
# Seconds that a skipped wait still takes, so that it can be observed and the server is not flooded.
_TICK = 0.01


def loop_time() -> float:
    """The event loop's clock in seconds: `anyio.current_time()` at half the cost, for code that runs on every call."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return anyio.current_time()


class Flag:
    """An `anyio.Event` that takes 60 bytes until somebody waits for it, and not 1.3 KiB: a client has thirty."""

    __slots__ = ("_event", "_set")

    def __init__(self) -> None:
        self._set = False
        self._event: anyio.Event | None = None

    def set(self) -> None:
        """Wake all waiting tasks, and let none wait from now on."""
        self._set = True
        if self._event is not None:
            self._event.set()

    def is_set(self) -> bool:
        """Whether it was set."""
        return self._set

    async def wait(self) -> None:
        """Wait until it is set."""
        if self._set:
            await anyio.lowlevel.checkpoint()
            return
        if self._event is None:
            self._event = anyio.Event()
        await self._event.wait()


class Signal:
    """A flag that can be set repeatedly.

    Code that replaces a flag each time it is set strands the tasks that still wait for the old one. Take `upcoming`
    before checking a condition and wait for it afterwards: then no notification in between is missed.
    """

    __slots__ = ("upcoming",)

    def __init__(self) -> None:
        self.upcoming = Flag()
        """Set by the next `notify`."""

    def notify(self) -> None:
        """Wake all waiting tasks."""
        flag, self.upcoming = self.upcoming, Flag()
        flag.set()

    async def wait(self) -> None:
        """Wait for the next `notify`."""
        await self.upcoming.wait()


class Pace:
    """Lets other tasks run now and then during work that a peer chooses the amount of.

    Without it, a server that sends a hundred thousand lines at once would delay the calls of every other server.
    """

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _PIECES

    def is_over(self, size: int = 0) -> bool:
        """Whether others are due, now that a piece of work of `size` bytes is done; then the count starts again."""
        self._left -= 1 + size // _BYTES
        if self._left > 0:
            return False
        self._left = _PIECES
        return True

    async def step(self, size: int = 0) -> None:
        """Let others run if they are due, after a piece of work of `size` bytes."""
        if self.is_over(size):
            await anyio.lowlevel.checkpoint()


class Clock:
    """The event loop's clock plus the time that was skipped.

    Attributes:
        instant: How many users currently want waits to be skipped.
    """

    __slots__ = ("_skipped", "instant")

    def __init__(self) -> None:
        self.instant = 0
        self._skipped = 0.0

    def now(self) -> float:
        """The time in seconds. It never goes back."""
        return loop_time() + self._skipped

    def advance(self, seconds: float) -> None:
        """Skip `seconds`."""
        self._skipped += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait `seconds`."""
        due = self.now() + seconds
        await anyio.sleep(self._really(seconds))
        self._reach(due)

    async def wait(self, event: anyio.Event | Flag | Signal, seconds: float) -> None:
        """Wait for `event`, at most `seconds`."""
        due = self.now() + seconds
        with anyio.move_on_after(self._really(seconds)):
            await event.wait()
            return
        self._reach(due)

    def _really(self, seconds: float) -> float:
        return min(seconds, _TICK) if self.instant and not math.isinf(seconds) else seconds

    def _reach(self, due: float) -> None:
        if self.instant:
            self._skipped += max(0.0, due - self.now())


# The one clock of all clients.
clock = Clock()


def in_trio() -> bool:
    """Whether the running task is one of trio's, which may itself run inside asyncio."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def spawn(function: Callable[[], Any], context: Context | None = None) -> object:
    """Run `function` in a task outside the caller's cancel scopes, so that any task can close it.

    Args:
        function: Returns the coroutine.
        context: Its context variables on asyncio, by default a copy of the caller's: a task that outlives its caller
            must not keep what that put there. On trio they are those of the run.
    """
    if in_trio():
        return sys.modules["trio"].lowlevel.spawn_system_task(function)
    context = copy_context() if context is None else context
    return context.run(asyncio.get_running_loop().create_task, function(), name="resilient-mcp supervisor")

"""The clock of the waits that this library imposes by itself.

They are back-off, restart delays, push-backs, rate limits, and the time for which a circuit is open. Tests may let them
pass at once (`resilient_mcp.testing.instant_waits`). Timeouts are no such waits: they run by the event loop's own
clock, and what is skipped here takes nothing from them.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel

_TICK = 0.01
"""Seconds that a skipped wait still takes, so that whoever looks on sees it, and a server is not stormed."""


def loop_time() -> float:
    """The event loop's clock, in seconds: `anyio.current_time()` in half the time, for what every call asks for."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return anyio.current_time()


class Signal:
    """Something that happens again and again: `wait` returns when it happens next.

    An `Event` that is replaced each time it is set loses whoever still waits on the old one. Here nobody holds it.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next = anyio.Event()

    def tell(self) -> None:
        """It happened."""
        now, self._next = self._next, anyio.Event()
        now.set()

    async def wait(self) -> None:
        """Wait until it happens next."""
        await self._next.wait()


class Clock:
    """The event loop's clock, and what was skipped.

    Attributes:
        instant: How many want waits to be skipped.
    """

    __slots__ = ("_skipped", "instant")

    def __init__(self) -> None:
        self.instant = 0
        self._skipped = 0.0

    def now(self) -> float:
        """The time in seconds; it never goes back."""
        return loop_time() + self._skipped

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self._skipped += seconds

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        due = self.now() + seconds
        await anyio.sleep(self._really(seconds))
        self._reach(due)

    async def wait(self, event: anyio.Event | Signal, seconds: float) -> None:
        """Wait for `event`, and no longer than `seconds`."""
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


clock = Clock()
"""The one clock of all clients."""


def spawn(function: Callable[[], Any]) -> object:
    """Run `function` in a task that belongs to nobody's scope, so that it can be closed from any task."""
    trio = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_task():
        return trio.lowlevel.spawn_system_task(function)
    return asyncio.get_running_loop().create_task(function(), name="resilient-mcp supervisor")

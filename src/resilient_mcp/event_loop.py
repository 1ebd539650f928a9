"""The event loop: signals, background tasks, where a client belongs, and the clock for this library's own waits.

Its own waits are back-off, restart delays, push-backs, rate limits, and the time for which a circuit stays open. Tests
can skip them (`resilient_mcp.testing.instant_waits`). Time limits are not among them: they run on the event loop's own
clock, so skipping a wait does not shorten them.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel

# Pieces of work, such as one message, after which other tasks get their turn, and the bytes that count as one more.
# They take about 5 ms.
_PIECES, _BYTES = 32, 4096
# Seconds that a skipped wait still takes, so that it can be observed and the server is not flooded.
_TICK = 0.01
# Seconds that another thread waits for its request to the event loop, which may be blocked.
_PATIENCE = 5.0


def loop_time() -> float:
    """The event loop's clock in seconds, like `anyio.current_time()`; without one, that of asyncio's event loops."""
    if "trio" in sys.modules and in_trio():
        return anyio.current_time()
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


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
        skipped: The seconds skipped so far.
    """

    __slots__ = ("instant", "skipped")

    def __init__(self) -> None:
        self.instant = 0
        self.skipped = 0.0

    def now(self) -> float:
        """The time in seconds. It never goes back."""
        return loop_time() + self.skipped

    def advance(self, seconds: float) -> None:
        """Skip `seconds`."""
        self.skipped += seconds

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
            self.skipped += max(0.0, due - self.now())


# The one clock of all clients.
clock = Clock()


def in_trio() -> bool:
    """Whether the running task is one of trio's, which may itself run inside asyncio."""
    # What `sniffio.current_async_library` looks at first: trio sets it while it runs, also as a guest.
    running = getattr(sys.modules.get("sniffio"), "thread_local", None)
    return running is not None and running.name == "trio"


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


class _Status(anyio.abc.TaskStatus[Any]):
    """Passes the value that a task starts with to the task that waits for it."""

    def __init__(self) -> None:
        self.value: Any = None
        self.is_started = Flag()

    def started(self, value: Any = None) -> None:
        self.value = value
        self.is_started.set()


async def start_in(tg: anyio.abc.TaskGroup, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> Any:
    """Start a task in `tg`, and return what it passes to `task_status.started()`.

    Unlike with `TaskGroup.start`, it belongs to `tg` from the beginning. That method of anyio 4.16 hangs if asyncio
    cancels all tasks, as at the end of `asyncio.run`, before the new one has run at all.
    """
    status = _Status()
    tg.start_soon(partial(function, *args, task_status=status))
    await status.is_started.wait()
    return status.value


class Home:
    """The event loop and the process that a client was started in, to which everything that waits belongs.

    Attributes:
        pid: The number of the process.
        time: The event loop's clock, which can be read from any thread.
    """

    __slots__ = ("_loop", "pid", "time")

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = _running_loop()
        self.time: Callable[[], float] = (
            sys.modules["trio"].lowlevel.current_clock().current_time if in_trio() else self._loop.time
        )

    def now(self) -> float:
        """The time on `clock`, from any thread."""
        return self.time() + clock.skipped

    def check(self, server: str) -> None:
        """Refuse a call that would hang or disturb other calls; cheap enough for every call.

        Args:
            server: The name of the client's server.

        Raises:
            RuntimeError: This is another event loop, or a forked process, which shares its parent's pipes and sockets.
        """
        if os.getpid() != self.pid:
            raise RuntimeError(
                f"the client of {server!r} was started in process {self.pid}, of which this is a fork: create a new "
                "ResilientClient in each process, or start processes by `spawn` instead of `fork`"
            )
        if _running_loop() is not self._loop:
            raise RuntimeError(
                f"the client of {server!r} was started in another event loop: call it there, by "
                "asyncio.run_coroutine_threadsafe() or anyio.from_thread.run() from another thread, or create a "
                "ResilientClient in each event loop"
            )

    def is_here(self) -> bool:
        """Whether this code runs in the event loop and the process."""
        return _running_loop() is self._loop and os.getpid() == self.pid

    def run(self, function: Callable[[], object], *, wait: bool = True) -> None:
        """Run `function` in the event loop, from any thread; here, if the event loop has ended.

        Args:
            function: It must not raise.
            wait: Whether to return only afterwards, unless the event loop is blocked.
        """
        if self.is_here():
            function()
            return
        done = threading.Event()

        def run() -> None:
            function()
            done.set()

        soon = getattr(self._loop, "call_soon_threadsafe", None) or self._loop.run_sync_soon
        try:
            soon(run)
        except RuntimeError:  # it has ended: `RunFinishedError` on trio
            function()
            return
        if wait:
            done.wait(_PATIENCE)


def _running_loop() -> Any:
    """The running asyncio event loop, or the token of trio's; None if there is none."""
    if in_trio():
        return sys.modules["trio"].lowlevel.current_trio_token()
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None

"""The course of a run: start everything, inject faults, check everything at the quiet points, stop everything."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import anyio.abc

from resilient_mcp.observability.stats import Histogram

from ..servers.soak_server import SABOTAGES
from .book import Book
from .gauges import MOST_MEMORY, Gauges, memory
from .judge import Ledger
from .load import Load
from .place import Place
from .plan import Fault, Spec, schedule
from .turnstile import Turnstile

FIRST = 60.0
"""Seconds after which the first reading is taken; in a shorter run, after half of it."""
# Seconds allowed for subscriptions and watchers to settle at a quiet point; less in a short run.
_SETTLES = 20.0
_MEMORY_IS_JUDGED = 2 * FIRST


@dataclass(frozen=True)
class Options:
    """The options from the command line."""

    seed: int
    length: float
    callers: int
    pause: float
    specs: list[Spec]
    sabotages: list[str]


class Errors(logging.Handler):
    """A log handler: every record at ERROR or above breaks a promise."""

    def __init__(self, book: Book) -> None:
        super().__init__(logging.ERROR)
        self._book = book
        self.setFormatter(logging.Formatter("%(name)s logged: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self._book.break_promise(self.format(record)[-3000:])


class Run:
    """One run.

    Attributes:
        places: The servers.
        first: The gauges at the first quiet point.
        last: The gauges at the end.
    """

    def __init__(self, options: Options, book: Book) -> None:
        self.options = options
        self.book = book
        sabotages = [sabotage for sabotage in options.sabotages if sabotage in SABOTAGES]
        self.places = [Place(spec, options.seed, book, sabotages) for spec in options.specs]
        self.loads = [Load(place, options.seed, book, options.pause) for place in self.places]
        self.first: Gauges | None = None
        self.last: Gauges | None = None
        self._faults = Turnstile()
        self._stopped = self._rested = 0.0

    async def run(self) -> None:
        """From the start of the first server to the end of the last."""
        async with self._nothing_left():
            async with AsyncExitStack() as stack:
                for place in self.places:
                    stack.enter_context(place.started())
                for place in self.places:
                    await stack.enter_async_context(place.opened())
                async with anyio.create_task_group() as tg:
                    self._rested = self.book.now()
                    each, more = divmod(self.options.callers, len(self.loads))
                    for n, load in enumerate(self.loads):
                        load.start(tg, each + (n < more))
                        tg.start_soon(self._suffering, load.place)
                        tg.start_soon(load.place.keep_running)
                    if "leak" in self.options.sabotages:
                        tg.start_soon(_leak, tg)
                    tg.start_soon(self._measure_lag)
                    await self._course()
                    tg.cancel_scope.cancel()

    async def _course(self) -> None:
        length = self.options.length
        await self._go_on_until(min(FIRST, length / 2))
        self.first = await self._quiet(None)
        self._go_on()
        self._print("the first reading", self.first)
        minute = FIRST
        while minute + FIRST < length:
            minute += FIRST
            await self._go_on_until(minute)
            print(f"{minute / 60:.0f} min: {self.book.calls} calls, {memory():.1f} MiB under load", flush=True)
        await self._go_on_until(length)
        self.last = await self._quiet(self.first)
        self._print("the last reading", self.last)
        for growth in self.last.growth(self.first):
            self.book.break_promise(f"growth since the first reading: {growth}")
        if length >= _MEMORY_IS_JUDGED and self.last.memory > MOST_MEMORY * self.first.memory:
            self.book.break_promise(f"memory: {self.first.memory:.1f} MiB at first, now {self.last.memory:.1f}")

    def _print(self, what: str, gauges: Gauges) -> None:
        print(f"{self._time() / 60:.1f} min: {self.book.calls} calls; {what}: {gauges}", flush=True)

    def _time(self) -> float:
        """Seconds of the run during which faults happened; quiet points do not count."""
        return self.book.now() - self._rested

    async def _go_on_until(self, when: float) -> None:
        while (left := when - self._time()) > 0:
            await anyio.sleep(left)

    async def _measure_lag(self) -> None:
        """Measure how late this process runs its timers: on a busy machine everything takes longer."""
        while True:
            due = time.monotonic() + 0.1
            await anyio.sleep(0.1)
            self.book.lag.add(Histogram.bucket(time.monotonic() - due))

    # --- faults ---

    async def _suffering(self, place: Place) -> None:
        for fault in schedule(self.options.seed, place.spec, self.options.length):
            await anyio.sleep(fault.pause)
            async with self._faults:
                await place.suffer(fault)

    # --- quiet points ---

    async def _quiet(self, first: Gauges | None) -> Gauges:
        """Lift the faults, finish the calls, compare the subscriptions, read the gauges."""
        self._stopped = self.book.now()
        await self._faults.close()
        async with anyio.create_task_group() as tg:
            for load in self.loads:
                tg.start_soon(load.turnstile.close)
        async with anyio.create_task_group() as tg:
            for load in self.loads:
                tg.start_soon(self._settle, load)
        return await self._read(first)

    def _go_on(self) -> None:
        for load in self.loads:
            load.turnstile.open()
        self._faults.open()
        self._rested += self.book.now() - self._stopped

    async def _settle(self, load: Load) -> None:
        """Wait until the server holds the wanted subscriptions and every change has been read; else break promises."""
        place = load.place
        if not place.spec.has_resources:
            await place.client.list_tools()
            return
        wanted = {uri for uri, count in place.wanted.items() if count > 0}
        versions = Ledger.read(place.journal).words["changed"]
        held: set[str] = set()
        stale: list[str] = ["nothing was compared"]
        with anyio.move_on_after(min(_SETTLES, 5 + self.options.length / 8)):
            while held != wanted or stale:
                held = await place.held()
                stale = [
                    f"{name} has read version {version} of {uri}, which was changed {versions[uri]} times"
                    for name, seen in load.seen.items()
                    for uri, version in seen.items()
                    if version != versions[uri]
                ]
                await anyio.sleep(0.1)
        if held != wanted:
            self.book.break_promise(f"{place.spec.name} holds {sorted(held)}, and {sorted(wanted)} is wanted")
        for line in stale:
            self.book.break_promise(f"{place.spec.name}: {line}")

    async def _read(self, first: Gauges | None) -> Gauges:
        """Read the gauges once idle resources are gone: at first after a fixed time, later once nothing has grown."""
        began = anyio.current_time()
        while True:
            for place in self.places:
                await place.client.list_tools()  # an HTTP client closes idle connections only when it is used
            await anyio.sleep(0.2)
            gauges = Gauges.read()
            waited = anyio.current_time() - began
            settled = waited > self._keeps if first is None else not gauges.growth(first)
            if settled or waited > 2 * self._keeps:
                return gauges

    @property
    def _keeps(self) -> float:
        """Seconds after which nothing idle is kept: an HTTP client keeps connections for 5 s."""
        return 1.5 if all(place.spec.is_process for place in self.places) else 6.0

    @asynccontextmanager
    async def _nothing_left(self) -> AsyncIterator[None]:
        """Check that everything the run opened is closed."""
        before = Gauges.read()
        yield
        after = Gauges.read()
        with anyio.move_on_after(3):  # a closed socket leaves the event loop a moment later
            while after.growth(before):
                await anyio.sleep(0.05)
                after = Gauges.read()
        for growth in after.growth(before):
            self.book.break_promise(f"left when all clients were closed: {growth}")


def plan_of(options: Options) -> list[str]:
    """The scheduled faults of each place, for printing."""
    lines = []
    for spec in options.specs:
        faults: list[Fault] = schedule(options.seed, spec, options.length)
        lines.append(f"{spec.name}: " + ", ".join(map(str, faults)))
    return lines


async def _leak(tg: anyio.abc.TaskGroup) -> None:
    """A sabotage: leak a socket and a task, ten times a second."""
    kept = []
    while True:
        await anyio.sleep(0.1)
        kept.append(socket.socket())
        tg.start_soon(anyio.sleep_forever)

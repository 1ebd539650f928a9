"""The users of the clients: callers, watchers that read what changes, a user that subscribes, and a changer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio

from resilient_mcp._sdk.installed import MCPError

from ..promises import Kind, Outcome
from ..servers.counting_server import ONCE, REPEATABLE
from .book import Book, current
from .place import Place
from .turnstile import Turnstile

# Seconds beyond its own deadline after which a call counts as having no outcome.
_GRACE = 15.0
_CANCELLED = 0.01
_WITH_BALLAST = 0.01
_WITH_PROGRESS = 0.05
# Characters; more than a pipe accepts in one write.
_BALLAST = 200_000
STEADY = ("soak://a", "soak://b")
FICKLE = "soak://c"
USERS = "soak://d"


class Load:
    """All users of one place.

    Args:
        place: The place.
        seed: Determines their choices.
        book: Where they record what happens.
        pause: The mean number of seconds between two calls of a caller.

    Attributes:
        turnstile: Where they wait at a quiet point.
        seen: The version of each resource that each watcher has read.
    """

    def __init__(self, place: Place, seed: int, book: Book, pause: float) -> None:
        self.place = place
        self.seed = seed
        self.book = book
        self.pause = pause
        self.turnstile = Turnstile()
        self.seen: dict[str, dict[str, int]] = {}

    def start(self, tg: anyio.abc.TaskGroup, callers: int) -> None:
        for n in range(callers):
            tg.start_soon(self._guarded, self._caller, f"{n}")
        if self.place.spec.has_resources:
            for n in range(2):
                tg.start_soon(self._guarded, self._steady_watcher, f"steady-{n}")
            tg.start_soon(self._guarded, self._fickle_watcher, "fickle")
            tg.start_soon(self._guarded, self._changer, "changer")
            if self.place.is_legacy:
                tg.start_soon(self._guarded, self._user, "user")

    async def _guarded(self, work: Callable[[str, random.Random], Any], name: str) -> None:
        """Run `work`; an exception does not end the run but breaks a promise."""
        place = self.place.spec.name
        try:
            await work(name, random.Random(f"{self.seed}/{place}/{name}"))
        except Exception as exc:
            self.book.break_promise(f"{place}: {name} ended with {exc!r}")

    # --- callers ---

    async def _caller(self, name: str, rng: random.Random) -> None:
        n = 0
        while True:
            await anyio.sleep(rng.uniform(0, 2 * self.pause))
            tool = rng.choice([REPEATABLE, ONCE])
            n += 1
            async with self.turnstile:
                await self._call(tool, f"{tool}-{self.place.spec.name}-{name}-{n}", rng)

    async def _call(self, tool: str, key: str, rng: random.Random) -> None:
        """Make one call and record its outcome."""
        place = self.place
        options: dict[str, Any] = {}
        arguments = {"text": key}
        if rng.random() < _WITH_BALLAST:
            arguments["ballast"] = "x" * _BALLAST
        if rng.random() < _WITH_PROGRESS:
            options["progress_callback"] = _no_progress
        patience = rng.uniform(0, 0.5) if rng.random() < _CANCELLED else None
        running = self.book.begin(key, place.spec.name)
        token = current.set(running)
        outcome: Any = None
        given_up = False
        try:
            with anyio.fail_after(place.spec.policy.timeout.total + _GRACE):
                with anyio.move_on_after(patience) as scope:
                    outcome = await place.client.call_tool(tool, arguments, **options)
                given_up = scope.cancelled_caught
        except TimeoutError as exc:
            outcome = exc if isinstance(exc, MCPError) else None
        except Exception as exc:
            outcome = exc
        finally:
            current.reset(token)
        self.book.end(running, Outcome(Kind.CANCELLED) if given_up else Outcome.of(outcome))

    # --- watchers ---

    async def _steady_watcher(self, name: str, rng: random.Random) -> None:
        async with self._watching(name, STEADY) as changes:
            await self._follow(name, changes)

    async def _follow(self, name: str, changes: Any) -> None:
        async for change in changes:
            await self._read(name, change.uri)

    async def _fickle_watcher(self, name: str, rng: random.Random) -> None:
        """Come and go, but always be there at a quiet point, so that each finds the same number of watchers."""
        async with AsyncExitStack() as away:
            await away.enter_async_context(self.turnstile)
            while True:
                async with self._watching(name, (FICKLE,)) as changes, anyio.create_task_group() as tg:
                    await away.aclose()
                    tg.start_soon(self._follow, name, changes)
                    await anyio.sleep(rng.uniform(0, 10))
                    await away.enter_async_context(self.turnstile)
                    tg.cancel_scope.cancel()
                await anyio.sleep(rng.uniform(0, 3))

    @asynccontextmanager
    async def _watching(self, name: str, uris: tuple[str, ...]) -> AsyncIterator[Any]:
        wanted = self.place.wanted
        wanted.update(uris)
        self.seen[name] = {}
        try:
            async with self.place.client.watch(uris) as changes:
                for uri in uris:
                    await self._read(name, uri)
                yield changes
        finally:
            wanted.subtract(uris)
            self.seen.pop(name, None)

    async def _read(self, name: str, uri: str | None) -> None:
        assert uri is not None
        result = await self.place.client.read_resource(uri)
        self.seen[name][uri] = int(result.contents[0].text)

    async def _user(self, name: str, rng: random.Random) -> None:
        client, wanted = self.place.client, self.place.wanted
        while True:
            async with self.turnstile:
                wanted[USERS] += 1
                await client.subscribe_resource(USERS)
            await anyio.sleep(rng.uniform(0, 10))
            async with self.turnstile:
                await client.unsubscribe_resource(USERS)
                wanted[USERS] -= 1
            await anyio.sleep(rng.uniform(0, 5))

    async def _changer(self, name: str, rng: random.Random) -> None:
        while True:
            await anyio.sleep(rng.uniform(0, 1))
            async with self.turnstile:
                await self.place.ask("change", uri=rng.choice([*STEADY, FICKLE, USERS]))


async def _no_progress(value: float, total: float | None, message: str | None) -> None:
    """Does nothing, but passing a progress callback makes a modern server answer with events."""

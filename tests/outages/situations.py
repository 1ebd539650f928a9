"""The situations: a gateway, the servers behind it, and the course of events."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import anyio.abc

from resilient_mcp._sdk.installed import http

from ..matrix.harness import word
from ..middleboxes import Middlebox, haproxy, nginx
from ..support import HttpServer
from .load import GRACE, Load, Outcome
from .sides import ERAS, Side

CALLERS = 20
PAUSE = 0.075
"""Average seconds between two calls of a caller."""
BEFORE, AFTER = 0.5, 4.0
"""Seconds of calls before an outage and after its end."""
DEPLOY = 1.0
"""Seconds for which each replica is down in a rolling deploy."""
SLOW, LIMIT = 8, 3
"""Seconds that a slow tool takes, and that the gateway allows."""

Gateway: TypeAlias = Callable[[Sequence[int]], AbstractAsyncContextManager[Middlebox]]


@dataclass
class Scene:
    """What a course of events works with."""

    url: str
    servers: list[HttpServer]
    load: Load
    callers: anyio.abc.TaskGroup
    journal: Path

    async def calls(self, callers: int = CALLERS, pause: float = PAUSE) -> None:
        """Start callers and wait until each has had an answer, and a little longer."""
        for caller in range(callers):
            self.callers.start_soon(self.load.loop, caller, pause)
        await self.load.answered(callers)
        await anyio.sleep(BEFORE)

    async def settled(self) -> None:
        """Wait until `AFTER` seconds after the recovery."""
        while anyio.current_time() < (until := (self.load.recovery or 0.0) + AFTER):
            await anyio.sleep(until - anyio.current_time())


Course: TypeAlias = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Situation:
    """One row of the table.

    Attributes:
        name: Its name; words of it select it.
        era: The protocol era.
        gateway: The gateway in front of the servers.
        course: The course of events.
        options: The servers' arguments.
        servers: The number of servers.
    """

    name: str
    era: str
    gateway: Gateway
    course: Course
    options: tuple[str, ...] = ()
    servers: int = 1

    async def outcome(self, side: Side) -> Outcome:
        """Run the situation for one side."""
        with tempfile.TemporaryDirectory(prefix="outages-") as folder:
            journal = Path(folder) / "runs"
            async with self._running() as (servers, gateway):
                load = Load()
                async with anyio.create_task_group() as tg:
                    load.session = await tg.start(_hold, side(gateway.url, self.era, load), load)
                    with anyio.CancelScope() as patience:
                        async with anyio.create_task_group() as callers:
                            await self.course(Scene(gateway.url, servers, load, callers, journal))
                            load.over.set()
                            patience.deadline = anyio.current_time() + GRACE
                    load.left.set()
                    tg.cancel_scope.deadline = anyio.current_time() + GRACE
                found = load.outcome()
            if journal.exists():
                found.runs = len(journal.read_text().splitlines())
        return found

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[tuple[list[HttpServer], Middlebox]]:
        servers = [HttpServer(*self.options) for _ in range(self.servers)]
        try:
            for server in servers:
                server.start()
            for server in servers:
                await server.listening()
            async with self.gateway([server.port for server in servers]) as gateway:
                yield servers, gateway
        finally:
            for server in servers:
                server.kill()


async def _hold(
    opening: AbstractAsyncContextManager[Any], load: Load, *, task_status: anyio.abc.TaskStatus[Any]
) -> None:
    """Keep a session open in its own task, which the SDK cancels when it tears the session down."""
    try:
        async with opening as session:
            task_status.started(session)
            await load.left.wait()
    except Exception as exc:
        load.torn = word(exc)


# --- gateways ---


def behind(kind: Callable[..., AbstractAsyncContextManager[Middlebox]], each: str = "", **lines: str) -> Gateway:
    """A gateway whose configuration contains `lines`, and `each` for every server."""
    return lambda ports: kind(*(f"{port} {each}" for port in ports), **lines)


def instead(location: str) -> dict[str, str]:
    """nginx options that make it answer with `location` while the server is away."""
    page = f"location @maintenance {{ default_type text/html; {location} }}"
    return {"location": "error_page 502 = @maintenance;", "server": page}


HTML = "'<html><body><h1>We will be back soon.</h1></body></html>'"
CHECKED = "check inter 200ms rise 1 fall 1"
ANSWERS: dict[str, Gateway] = {
    "nginx 502": behind(nginx),
    "nginx 503 Retry-After": behind(nginx, **instead(f"add_header Retry-After 15 always; return 503 {HTML};")),
    "nginx page 200": behind(nginx, **instead(f"return 200 {HTML};")),
    "nginx page 503": behind(nginx, **instead(f"return 503 {HTML};")),
    "haproxy 503": behind(haproxy),
    "haproxy 503 checked": behind(haproxy, CHECKED),
    "haproxy 503 Retry-After": behind(
        haproxy, CHECKED, frontend='http-error status 503 content-type text/html string "away" hdr Retry-After 15'
    ),
}
"""Gateways by what they answer while the server is away."""


def limited(status: int, retry_after: int | None) -> Gateway:
    """nginx that admits five requests per second, with a burst of five."""
    header = f"add_header Retry-After {retry_after} always;" if retry_after is not None else ""
    return behind(
        nginx,
        http="limit_req_zone $binary_remote_addr zone=clients:1m rate=5r/s;",
        location=f"limit_req zone=clients burst=5 nodelay; limit_req_status {status}; error_page {status} = @limited;",
        server=f"location @limited {{ default_type text/html; {header} return {status} {HTML}; }}",
    )


CUT_OFF: dict[str, Gateway] = {
    "nginx": behind(nginx, location=f"proxy_read_timeout {LIMIT}s;"),
    "haproxy": behind(haproxy, backend=f"timeout server {LIMIT}s"),
}

MIXES = {
    "4 slow calls and 16 others": (4, CALLERS - 4, PAUSE, 0.0),
    "19 slow calls and 1 other": (CALLERS - 1, 1, 1.0, 0.0),
    "slow calls for a minute and 1 rare other": (4, 1, 12.0, 60.0),
}
"""Slow callers, other callers, the pause of the others, and for how long the slow calls are repeated."""

STICKY = "stick-table type string len 64 size 10k expire 1h\nstick store-response res.hdr(mcp-session-id)\n"
ROLLING: dict[str, Gateway] = {
    "nginx round robin stateless": behind(nginx),
    "nginx round robin max_fails=0 stateless": behind(nginx, "max_fails=0"),
    "haproxy round robin stateless": behind(haproxy, CHECKED, backend="option redispatch"),
    "nginx ip_hash stateful": behind(nginx, upstream="ip_hash;"),
    "haproxy cookie stateful": lambda ports: haproxy(
        *(f"{port} {CHECKED} cookie s{port}" for port in ports),
        backend="option redispatch\ncookie ROUTE insert indirect nocache",
    ),
    "haproxy session table stateful": behind(
        haproxy, CHECKED, backend=f"option redispatch\n{STICKY}stick match req.hdr(mcp-session-id)"
    ),
}
"""Gateways by how they route the calls of a session to a replica."""


# --- courses of events ---


async def away(seconds: float, scene: Scene) -> None:
    """The server restarts and is away for `seconds`."""
    server, load = scene.servers[0], scene.load
    await scene.calls()
    began = anyio.current_time()
    server.kill()
    await anyio.sleep(seconds)
    server.start()
    await server.listening()
    load.outage = began, anyio.current_time()
    await scene.settled()


async def deploy(scene: Scene) -> None:
    """Replace the replicas one after the other.

    nginx with its defaults stops using a failed replica for ten seconds, and may have none left when the last is back.
    """
    await scene.calls()
    began = anyio.current_time()
    for n, server in enumerate(scene.servers):
        await anyio.sleep(0.5 if n else 0)
        server.kill()
        await anyio.sleep(DEPLOY)
        server.start()
        await server.listening()
    async with http.AsyncClient() as client:
        while (await client.put(scene.url)).status_code >= 500:
            await anyio.sleep(0.05)
    scene.load.outage = began, anyio.current_time()
    await scene.settled()


async def bursts(scene: Scene) -> None:
    """All callers call at the same time, three times."""
    for _ in range(3):
        await anyio.sleep(BEFORE)
        with anyio.move_on_after(60):
            async with anyio.create_task_group() as burst:
                for caller in range(CALLERS):
                    burst.start_soon(partial(scene.load.call, caller, "echo", text=str(caller)))


async def cut_off(callers: int, others: int, pause: float, again: float, scene: Scene) -> None:
    """Some callers make calls that take too long, once or for `again` seconds, while others make fast ones."""
    load, path = scene.load, str(scene.journal)
    await scene.calls(others, pause)
    end = anyio.current_time() + again

    async def call(caller: int) -> None:
        await load.call(caller, "append_slowly", path=path, seconds=SLOW)
        while anyio.current_time() < end:
            await anyio.sleep(1)
            await load.call(caller, "append_slowly", path=path, seconds=SLOW)

    async with anyio.create_task_group() as slow:
        for caller in range(others, others + callers):
            slow.start_soon(call, caller)
    await anyio.sleep(AFTER)


def situations(*, short: float = 4.0, long: float = 20.0, replicas: int = 3) -> Iterator[Situation]:
    """All situations, with outages of `short` and `long` seconds and rolling deploys of `replicas` replicas."""
    served = {"stateful": (), "stateless": ("--stateless",)}
    for era in ERAS:
        for serving, options in served.items():
            for answer, gateway in ANSWERS.items():
                for seconds in dict.fromkeys((short, long)):
                    name = f"{answer}, away {seconds:g} s, {serving}, {era}"
                    yield Situation(name, era, gateway, partial(away, seconds), options)
        for status in (429, 503):
            for after in (None, 1):
                name = f"nginx limit_req {status}{'' if after is None else ' Retry-After'}, stateful, {era}"
                yield Situation(name, era, limited(status, after), bursts)
        for product, gateway in CUT_OFF.items():
            for form, options in {"SSE": (), "JSON": ("--json",)}.items():
                for mix, numbers in MIXES.items():
                    name = f"{product} time limit, {mix}, {form}, stateful, {era}"
                    yield Situation(name, era, gateway, partial(cut_off, *numbers), options)
        for way, gateway in ROLLING.items():
            options = served["stateless" if "stateless" in way else "stateful"]
            yield Situation(f"rolling deploy, {way}, {era}", era, gateway, deploy, options, replicas)

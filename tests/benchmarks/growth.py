"""What grows: a server with two thousand tools, and four hundred idle clients in one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from mcp import StdioServerParameters

from resilient_mcp import HealthPolicy, Policy, ResilientClient

from ._plain import BASELINES, Connect
from .measures import OURS, REPLACED, Goal, Row, http_server, resilient, stdio

_TOOLS = 2000
_CLIENTS, _SECONDS, _IDLE = 400, 12.0, 5.0


class Blocked:
    """The longest time in seconds for which the event loop ran nothing else."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            self.longest = max(self.longest, now - last - 0.001)
            last = now


@asynccontextmanager
async def _watched() -> AsyncIterator[Blocked]:
    blocked = Blocked()
    task = asyncio.create_task(blocked.watch())
    await asyncio.sleep(0.01)
    yield blocked
    task.cancel()


async def _listing(connect: Connect, server: StdioServerParameters) -> float:
    """Milliseconds for which the event loop is blocked at most, from the connect to the second of two listings."""
    async with _watched() as blocked, connect(server) as client:
        for _ in range(2):
            assert len((await client.list_tools()).tools) == _TOOLS
        assert (await client.call_tool("echo", {"text": "hello"})).content[0].text == "hello"
        await asyncio.sleep(0.5)  # what is done in the background
        return 1000 * blocked.longest


async def _idle(url: str) -> tuple[float, float]:
    """Per cent of a processor that idle clients take, and milliseconds for which they block the event loop at most."""
    policy = Policy(health=HealthPolicy(idle=_IDLE))
    async with AsyncExitStack() as stack:
        clients = [ResilientClient(url, policy=policy) for _ in range(_CLIENTS)]
        for client in clients:
            await stack.enter_async_context(client)
        await asyncio.sleep(1)
        async with _watched() as blocked:
            began, cpu = time.perf_counter(), time.process_time()
            await asyncio.sleep(_SECONDS)
            share = (time.process_time() - cpu) / (time.perf_counter() - began)
            return 100 * share, 1000 * blocked.longest


async def growth(*, quick: bool) -> list[Row]:
    """A listing of 2,000 tools against the plain SDK; 400 idle clients whose health checks are due each 5 s."""
    rounds = 3 if quick else 10
    server = stdio("raw_server", "--tools", str(_TOOLS))
    figures: dict[str, list[float]] = {REPLACED: [], OURS: []}
    connects: dict[str, Any] = {REPLACED: BASELINES[REPLACED], OURS: resilient}
    for _ in range(rounds):
        for name, connect in connects.items():
            figures[name].append(await _listing(connect, server))
    with http_server("raw_http_server", "json", "2025") as url:
        share, longest = await _idle(url)
    return [
        Row("2,000 tools: event loop blocked", "ms", REPLACED, figures[REPLACED], figures[OURS], Goal(1)),
        Row("400 idle clients, a check each 5 s: CPU", "%", "10 %", [10.0], [share], Goal(1)),
        Row("  event loop blocked", "ms", "50 ms", [50.0], [longest], Goal(1)),
    ]

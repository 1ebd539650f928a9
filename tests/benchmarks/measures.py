"""The comparisons: each is one function that runs both sides and returns its rows."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mcp import StdioServerParameters

from resilient_mcp import CircuitOpen, Concurrency, LoopGuard, Policy, RateLimit, ResilientClient, ToolPolicy

from ._plain import BASELINES, Connect, Endpoint

ROOT = Path(__file__).parents[2]
OURS = "ResilientClient"
REPLACED = next(iter(BASELINES))
_AT_ONCE = 64
_MB = 1_000_000

Measure: TypeAlias = Callable[[Any], Awaitable[float]]
"""Measures one figure of one round, with a connected client."""
Figures: TypeAlias = dict[str, list[float]]
"""By side, the figure of each round."""


@dataclass(frozen=True, slots=True)
class Goal:
    """The ratio to reach: at most `limit`, or at least `limit` if `at_least`."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"

    def is_reached(self, ratio: float) -> bool:
        """Whether `ratio` meets the goal."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison: the figures of both sides, one per round, paired as they were measured.

    Attributes:
        what: What was measured.
        unit: The unit of the figures.
        against: The name of the baseline.
        plain: The baseline's figures.
        ours: The figures of `ResilientClient`.
        goal: The ratio to reach, or None if the row is for information only.
    """

    what: str
    unit: str
    against: str
    plain: list[float]
    ours: list[float]
    goal: Goal | None = None

    @property
    def ratios(self) -> list[float]:
        """`ours` divided by `plain`, round by round, sorted: a slow moment of the machine affects both."""
        pairs = zip(self.plain, self.ours, strict=False)
        return sorted(ours / plain if plain else math.inf for plain, ours in pairs)

    @property
    def ratio(self) -> float:
        """The median of `ratios`."""
        return statistics.median(self.ratios)


# --- the two sides ---


def resilient(endpoint: Endpoint) -> ResilientClient:
    return ResilientClient(endpoint)


# Every strategy enabled, none of them limiting.
_EVERYTHING = Policy(
    rate_limit=RateLimit(rate=1e6, burst=1_000_000),
    concurrency=Concurrency(limit=64),
    loop_guard=LoopGuard(),
    tools={"echo": ToolPolicy(rate_limit=RateLimit(rate=1e6, burst=1_000_000), repeatable=True)},
)


def _with_everything(endpoint: Endpoint) -> ResilientClient:
    return ResilientClient(endpoint, policy=_EVERYTHING)


def stdio(module: str, *arguments: str) -> StdioServerParameters:
    args = ["-m", f"tests.benchmarks.{module}", *arguments]
    return StdioServerParameters(command=sys.executable, args=args, cwd=ROOT)


SDK_SERVER = stdio("sdk_server", "stdio")
RAW_SERVER = stdio("raw_server")


@contextmanager
def http_server(module: str, *arguments: str) -> Iterator[str]:
    """The URL of a Streamable HTTP server that runs within this context."""
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


@asynccontextmanager
async def _sides(
    endpoint: Endpoint, baselines: Mapping[str, Connect], ours: Connect = resilient
) -> AsyncIterator[dict[str, Any]]:
    """All sides, connected at the same time; over stdio each has its own server."""
    async with AsyncExitStack() as stack:
        connects = {**baselines, OURS: ours}
        yield {name: await stack.enter_async_context(connect(endpoint)) for name, connect in connects.items()}


async def turn_by_turn(sides: Mapping[str, Any], measure: Measure, rounds: int) -> Figures:
    """`rounds` figures of each side; the order of the sides is reversed from round to round."""
    figures: Figures = {name: [] for name in sides}
    for number in range(rounds):
        for name in sorted(sides, reverse=bool(number % 2)):
            gc.collect()  # so that no side pays for another's garbage
            figures[name].append(await measure(sides[name]))
    return figures


async def call_by_call(
    sides: Mapping[str, Any], calls: int, rounds: int, *, tool: str = "echo", **options: Any
) -> Figures:
    """Median milliseconds of `calls` calls of each side, `rounds` times, after an uncounted warm-up round.

    The sides take turns after each call, so that a slow second of the machine affects all of them equally. The order
    rotates, so that no side benefits from always following the same one, with its code still in the processor's cache.
    """
    names = list(sides)
    figures: Figures = {name: [] for name in sides}
    for number in range(rounds + 1):
        gc.collect()
        times: Figures = {name: [] for name in sides}
        for turn in range(calls):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                began = time.perf_counter()
                text = await call(sides[name], tool, {"text": "hello"}, **options)
                times[name].append(time.perf_counter() - began)
                assert text == "hello"
        if number:
            for name, taken in times.items():
                figures[name].append(1000 * statistics.median(taken))
    return figures


async def _latency(endpoint: Endpoint, calls: int, rounds: int, ours: Connect = resilient, **options: Any) -> Figures:
    async with _sides(endpoint, BASELINES, ours) as sides:
        return await call_by_call(sides, calls, rounds, **options)


def _rows(what: str, unit: str, figures: Figures, goal: Goal | None) -> list[Row]:
    """One row per baseline; the goal applies only to the one that `ResilientClient` replaces."""
    return [
        Row(what, unit, name, figures[name], figures[OURS], goal if name == REPLACED else None)
        for name in BASELINES
        if name in figures
    ]


# --- one figure of one round ---


async def call(client: Any, tool: str, arguments: dict[str, Any], **options: Any) -> str:
    """Call `tool` and return the text of its answer."""
    result = await client.call_tool(tool, arguments, **options)
    return result.content[0].text


async def _refusal(client: ResilientClient, calls: int) -> float:
    """Median microseconds of a call that an open circuit refuses."""
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        with suppress(CircuitOpen):
            await client.call_tool("echo", {"text": "hello"})
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


async def throughput(client: Any) -> float:
    """Calls per second, for 64 concurrent calls until all are answered."""
    began = time.perf_counter()
    texts = await asyncio.gather(*(call(client, "echo", {"text": str(n)}) for n in range(_AT_ONCE)))
    assert texts == [str(n) for n in range(_AT_ONCE)]
    return _AT_ONCE / (time.perf_counter() - began)


async def _big(client: Any, size: int) -> float:
    """Seconds to receive a result of `size` bytes in one line."""
    began = time.perf_counter()
    text = await call(client, "big", {"size": size})
    elapsed = time.perf_counter() - began
    assert len(text) == size
    return elapsed


async def _recovery(client: ResilientClient) -> float:
    """Seconds from the SIGKILL of the server to the answer of a call made immediately after it."""
    pid = int(await call(client, "pid", {}))
    began = time.perf_counter()
    os.kill(pid, signal.SIGKILL)
    assert await call(client, "echo", {"text": "hello"}) == "hello"
    return time.perf_counter() - began


async def _cold_start(connect: Connect, endpoint: Endpoint) -> float:
    """Seconds to start a server, connect and call once."""
    began = time.perf_counter()
    async with connect(endpoint) as client:
        assert await call(client, "echo", {"text": "hello"}) == "hello"
        return time.perf_counter() - began


# --- the comparisons ---


async def sequential(*, quick: bool) -> list[Row]:
    """Sequential stdio calls: the p50 of a call. The row of the raw server shows almost only the clients' own time."""
    rounds = 3 if quick else 20
    figures = await _latency(SDK_SERVER, 100, rounds)
    raw = await _latency(RAW_SERVER, 200, rounds)
    return [
        *_rows("stdio, sequential, p50", "ms", figures, Goal(1.05)),
        *_rows("  the same, raw server", "ms", raw, None),
    ]


async def strategies(*, quick: bool) -> list[Row]:
    """The cost of all strategies together for a stdio call, and the cost of a call at an open circuit."""
    rounds = 3 if quick else 20
    figures = await _latency(SDK_SERVER, 100, rounds, _with_everything)
    refusals = []
    async with resilient(RAW_SERVER) as client:
        assert client.circuit is not None
        client.circuit.isolate()
        for _ in range(rounds):
            refusals.append(await _refusal(client, calls=1000))
    return [
        *_rows("stdio, with every strategy, p50", "ms", figures, Goal(1.05)),
        Row("a call at an open circuit", "us", "50 us", [50.0] * rounds, refusals, Goal(1)),
    ]


async def _at_once(endpoint: Endpoint, rounds: int) -> Figures:
    async with _sides(endpoint, BASELINES) as sides:
        await turn_by_turn(sides, throughput, 4)  # to warm up
        return await turn_by_turn(sides, throughput, rounds)


async def at_once(*, quick: bool) -> list[Row]:
    """64 concurrent stdio calls: throughput. The SDK server is slower than the clients; the raw server is not."""
    rounds = 10 if quick else 80
    figures = await _at_once(SDK_SERVER, rounds)
    raw = await _at_once(RAW_SERVER, 2 * rounds)
    return [
        *_rows("stdio, 64 concurrent", "calls/s", figures, Goal(1.1, at_least=True)),
        *_rows("  the same, raw server", "calls/s", raw, None),
    ]


async def big(*, quick: bool) -> list[Row]:
    """One-line results of 1 to 50 MB over stdio: seconds, and how `ResilientClient` scales from 5 to 50 MB.

    Per MB, a linear reader has a ratio of 1 and a quadratic one 10. It is above 1 in any case: malloc returns blocks
    over 32 MB to the system immediately, so each copy of such a result pays for its pages again.
    """
    rows = []
    plan = {1: 7, 5: 5, 20: 1 if quick else 3, 50: 1}
    async with _sides(RAW_SERVER, {REPLACED: BASELINES[REPLACED]}) as sides:
        ours = {OURS: sides[OURS]}
        await turn_by_turn(sides, partial(_big, size=1000), 1)
        for megabytes, rounds in plan.items():
            both = not (quick and megabytes > 20)  # the plain side needs 20 s there
            figures = await turn_by_turn(sides if both else ours, partial(_big, size=megabytes * _MB), rounds)
            goal = Goal(0.1) if megabytes == 20 else None
            rows += _rows(f"stdio, {megabytes} MB in one line", "s", figures, goal)
        rounds = 3 if quick else 5
        five = await turn_by_turn(ours, partial(_big, size=5 * _MB), rounds)
        fifty = await turn_by_turn(ours, partial(_big, size=50 * _MB), rounds)
    small = [seconds / 5 for seconds in five[OURS]]
    large = [seconds / 50 for seconds in fifty[OURS]]
    return [*rows, Row("  per MB: 50 MB against 5 MB", "s/MB", "itself", small, large, Goal(2))]


async def http_sdk(*, quick: bool) -> list[Row]:
    """Sequential Streamable HTTP calls: the p50 of calls answered as JSON, and of calls answered as SSE.

    The tool of the SSE row reports progress; otherwise a server of mcp 2.x answers in JSON.
    """
    rounds = 2 if quick else 20

    async def ignore(*_: object) -> None:
        return

    with http_server("sdk_server", "json") as url:
        json_answers = await _latency(url, 60, rounds)
    with http_server("sdk_server", "sse") as url:
        sse_answers = await _latency(url, 40, rounds, tool="report", progress_callback=ignore)
    return [
        *_rows("HTTP, SDK server, JSON answers, p50", "ms", json_answers, Goal(1.05)),
        *_rows("HTTP, SDK server, SSE answers, p50", "ms", sse_answers, Goal(1.05)),
    ]


async def crash(*, quick: bool) -> list[Row]:
    """From the SIGKILL of a stdio server to the next good answer, against a cold start plus a call of the plain SDK.

    The raw server starts in a fraction of the time, so its row shows what the client adds.
    """
    rows = []
    for what, endpoint in (("stdio, crash to next answer", SDK_SERVER), ("  the same, raw server", RAW_SERVER)):
        figures: Figures = {REPLACED: [], OURS: []}
        async with resilient(endpoint) as client:
            for _ in range(3 if quick else 8):
                figures[REPLACED].append(await _cold_start(BASELINES[REPLACED], endpoint))
                figures[OURS].append(await _recovery(client))
        rows += _rows(what, "s", figures, Goal(1.1) if endpoint is SDK_SERVER else None)
    return rows


COMPARISONS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    "sequential": sequential,
    "strategies": strategies,
    "at_once": at_once,
    "big": big,
    "http_sdk": http_sdk,
    "crash": crash,
}
"""The comparisons by name, in the order in which they run."""

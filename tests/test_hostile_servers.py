"""Hostile servers: floods, huge errors and hostile schemas delay nobody else, cost no memory, and lose no answer.

Beside each a ticker measures the event loop, and another server is called. `pytest -s` prints the figures.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from resilient_mcp import ResilientClient, TimeoutPolicy, ToolPolicy
from resilient_mcp._sdk.installed import MCPError

from .support import QUICK, client_of, http_server, in_turn, listed, raw_server, text_of

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

# Seconds of CPU time of this process between two ticks: with other processes beside it, the clock on the wall shows
# more. Genuine figures are below 0.05, except where the garbage collector runs.
GAP = 1.0
# Megabytes by which this process may grow meanwhile.
GROWTH = 150
# Bytes of a flood; and of one that is cheap to read.
FLOOD, LONG_FLOOD = 200_000, 4_000_000


def megabytes() -> float:
    """The memory of this process; 0 where that is not known."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


PATIENT = QUICK.model_copy(update={"timeout": TimeoutPolicy(attempt=40, total=40, ready=10, connect=10, shutdown=2)})


@asynccontextmanager
async def measured(what: str, other: ResilientClient) -> AsyncIterator[None]:
    """Check that the event loop keeps running, that calls of another server are answered, and the memory."""
    cpu = wall = 0.0
    answered = 0

    async def tick() -> None:
        nonlocal cpu, wall
        before = time.process_time(), time.perf_counter()
        while True:
            await anyio.sleep(0.002)
            now = time.process_time(), time.perf_counter()
            cpu, wall = max(cpu, now[0] - before[0]), max(wall, now[1] - before[1])
            before = now

    async def call() -> None:
        nonlocal answered
        while True:
            assert text_of(await other.call_tool("echo", {"text": "here"})) == "here"
            answered += 1
            await anyio.sleep(0.02)

    gc.collect()
    memory = megabytes()
    async with anyio.create_task_group() as tg:
        tg.start_soon(tick)
        tg.start_soon(call)
        await anyio.sleep(0.01)
        yield
        await anyio.sleep(0.01)  # so that the last gap is measured as well
        tg.cancel_scope.cancel()
    grown = megabytes() - memory
    sys.stdout.write(
        f"{what:40} gap {1e3 * cpu:5.0f} ms (wall {1e3 * wall:5.0f}) calls {answered:5} {grown:+6.1f} MB\n"
    )
    assert cpu < GAP, what
    assert answered > 0, what
    assert grown < GROWTH, what


REQUEST = '{"jsonrpc":"2.0","id":"s1","method":"%s","params":{"messages":[],"maxTokens":1}}'
NOTE = '{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"x"}}'
STRAY = '{"jsonrpc":"2.0","id":987654,"result":{}}'
ERROR = '{"jsonrpc":"2.0","id":987654,"error":{"code":1,"message":"://a?a=b&c=d& token: a1"}}'
MESSAGES = {
    "pings": REQUEST % "ping",
    "requests": REQUEST % "sampling/createMessage",
    "notifications": NOTE,
    "answers to nothing": STRAY,
    "errors to nothing": ERROR,
}
LINES = {
    **{what: (f"{message}\n", FLOOD) for what, message in MESSAGES.items()},
    "list changes": ('{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n', FLOOD),
    "garbage": ("2026-01-01 12:00:00 INFO starting up\n", FLOOD),
    "JSON that is no message": ("{}\n", FLOOD),
    "one-character lines": ("x\n", FLOOD),
    "empty lines": ("\n", FLOOD),
    "a line without end": ("x", LONG_FLOOD),
    "stderr": ("y\n", FLOOD),
}
EVENTS = {
    **{what: (f"data: {message}\n\n", FLOOD) for what, message in MESSAGES.items()},
    "garbage": ("data: x\n\n", FLOOD),
    "event ids": ("id: 1\n\n", FLOOD),
    "comments": (":\n\n", FLOOD),
    "comments without empty lines": (":\n", LONG_FLOOD),
    "unknown fields": ("a\n", LONG_FLOOD),
}


@in_turn
async def test_floods_over_stdio():
    """Whatever a process writes, and although it reads nothing meanwhile: its answer comes, others are not delayed."""
    async with client_of(raw_server()) as other, client_of(raw_server(), PATIENT) as client:
        await listed(client)
        for what, (unit, size) in LINES.items():
            arguments = {"unit": unit, "size": size, "to": "stderr" if what == "stderr" else "stdout"}
            async with measured(f"stdio, {what}", other):
                assert text_of(await client.call_tool("flood", arguments)) == "survived", what
        assert text_of(await client.call_tool("echo", {"text": "still here"})) == "still here"


@in_turn
async def test_floods_over_http():
    """The same in the stream of an answer, also in chunks of one byte."""
    command = [sys.executable, "-m", "tests.servers.hostile_http"]
    async with (
        client_of(raw_server()) as other,
        http_server(command=command) as server,
        client_of(server.url, PATIENT) as client,
    ):
        for what, (unit, size) in EVENTS.items():
            async with measured(f"HTTP, {what}", other):
                answer = await client.call_tool("flood", {"unit": unit, "size": size})
                assert text_of(answer) == "survived", what
        async with measured("HTTP, chunks of one byte", other):
            answer = await client.call_tool("flood", {"unit": ":", "size": 10_000, "chunk": 1})
            assert text_of(answer) == "survived"


CHECKING = QUICK.model_copy(update={"tools": {"*": ToolPolicy(validate_arguments=True)}})


@in_turn
async def test_hostile_answers():
    """An error of 5 MB is raised; a result or arguments with a schema that takes too long to check are passed on."""
    command = [sys.executable, "-m", "tests.servers.hostile_http"]
    async with (
        client_of(raw_server()) as other,
        http_server(command=command) as server,
        client_of(server.url, CHECKING) as client,
    ):
        await listed(client)
        async with measured("an error of 5 MB", other):
            with pytest.raises(MCPError):
                await client.call_tool("error")
        for name in ("doubling", "wide", "backtracking"):
            async with measured(f"the output schema {name!r}", other):
                result = await outcome(client, name, {})
                assert "survived" in result or "Invalid structured content" in result
            async with measured(f"the input schema {name!r}", other):
                result = await outcome(client, f"{name}_in", {"x": "a" * 50_000 + "!"})
                assert "survived" in result or "do not conform" in result


async def outcome(client: ResilientClient, tool: str, arguments: dict[str, Any]) -> str:
    try:
        return text_of(await client.call_tool(tool, arguments))
    except Exception as exc:
        return str(exc)

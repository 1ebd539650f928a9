"""Streamable HTTP against a server in another process that takes almost no time: what the clients themselves cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from resilient_mcp import ResilientClient

from ._plain import BASELINES, MAJOR, Connect
from .measures import OURS, REPLACED, Goal, Row, call, call_by_call, http_server, throughput, turn_by_turn

_LEGACY: dict[str, Any] = {} if MAJOR == 1 else {"mode": "legacy"}
_CALLS = 50


def _clients(era: str) -> dict[str, Connect]:
    """The clients that speak `era`."""
    if era == "2026":
        modern = {name: connect for name, connect in BASELINES.items() if name != "ClientSession"}
        return {**modern, OURS: ResilientClient}
    clients: dict[str, Connect] = {**BASELINES, OURS: lambda url: ResilientClient(url, **_LEGACY)}
    if REPLACED == "mcp.Client":
        connect: Any = BASELINES[REPLACED]
        clients[REPLACED] = lambda url: connect(url, **_LEGACY)
    return clients


async def _cpu(client: Any) -> float:
    """Microseconds of this process's CPU per call."""
    began = time.process_time()
    for _ in range(_CALLS):
        await call(client, "echo", {"text": "hello"})
    return 1e6 * (time.process_time() - began) / _CALLS


def _rows(what: str, unit: str, figures: Mapping[str, list[float]], goal: Goal) -> list[Row]:
    return [
        Row(what, unit, name, figures[name], figures[OURS], goal if name == REPLACED else None)
        for name in figures
        if name != OURS
    ]


async def http(*, quick: bool) -> list[Row]:
    """Client CPU and p50 of sequential calls, and calls per second with 64 at once: JSON and SSE, both eras."""
    rounds = 3 if quick else 20
    rows: list[Row] = []
    for era in ("2025",) if MAJOR == 1 else ("2025", "2026"):
        for kind in ("json", "sse"):
            with http_server("raw_http_server", kind, era) as url:
                async with AsyncExitStack() as stack:
                    sides = {
                        name: await stack.enter_async_context(connect(url)) for name, connect in _clients(era).items()
                    }
                    what = f"HTTP {era}, {kind.upper()}"
                    await turn_by_turn(sides, _cpu, 2)
                    rows += _rows(f"{what}: client CPU", "us", await turn_by_turn(sides, _cpu, 2 * rounds), Goal(0.75))
                    p50 = await call_by_call(sides, _CALLS, rounds)
                    rows += _rows("  p50", "ms", p50, Goal(0.75))
                    await turn_by_turn(sides, throughput, 2)
                    at_once = await turn_by_turn(sides, throughput, 2 * rounds)
                    rows += _rows("  64 at once", "calls/s", at_once, Goal(1.2, at_least=True))
    return rows

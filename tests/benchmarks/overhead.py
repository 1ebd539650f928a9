"""What events, logging, statistics and traces cost a call that nobody watches.

The figure of "plain" is the budget: microseconds that a call may cost. Measured is the way of a call through what
watches it and nothing else, for beside a call over a pipe (300 µs and more) it cannot be seen at all.
"""

from __future__ import annotations

import time

from mcp import StdioServerParameters
from mcp.types import CallToolResult, TextContent

from resilient_mcp import ResilientClient
from resilient_mcp.calls.operation import Operation

from .measures import Goal, Row

_BUDGET = 10.0
_CALLS = 20_000


async def _nothing(*_: object) -> None:
    return


def _watched(client: ResilientClient, calls: int) -> float:
    """Microseconds per call."""
    observer = client._degrade._executor._observer
    operation = Operation("tools/call", _nothing, "echo")
    result = CallToolResult.model_validate({"content": [TextContent(type="text", text="hello")]})
    began = time.perf_counter()
    for _ in range(calls):
        with observer.call(operation) as watch:
            watch.answered(result)
    return 1e6 * (time.perf_counter() - began) / calls


async def overhead(*, quick: bool) -> list[Row]:
    """Microseconds that a call costs because it could be watched, with no listener and no SDK of OpenTelemetry."""
    rounds = 3 if quick else 20
    client = ResilientClient(StdioServerParameters(command="never-started"))
    _watched(client, _CALLS)
    ours = [_watched(client, _CALLS) for _ in range(rounds)]
    return [Row("unwatched: events, log, statistics, traces", "us/call", "budget", [_BUDGET] * rounds, ours, Goal(1))]

"""The cost of events, logging, statistics and traces for a call without any observer.

The "plain" figure is the budget: microseconds that this may cost per call. Only the observing code is measured, because
it would not be visible next to a call over a pipe (300 µs and more).
"""

from __future__ import annotations

import time

from mcp import StdioServerParameters
from mcp.types import CallToolResult, TextContent

from resilient_mcp import Policy, ResilientClient, ToolPolicy
from resilient_mcp._sdk.requests import CallTool
from resilient_mcp.calls.operation import Operation

from .measures import Goal, Row

_BUDGET, _SEARCH = 10.0, 5.0
_CALLS = 20_000


def _watched(client: ResilientClient, calls: int) -> float:
    """Microseconds of observing code per call."""
    observer = client._fallbacks._executor._observer
    operation = Operation(CallTool("echo"))
    result = CallToolResult.model_validate({"content": [TextContent(type="text", text="hello")]})
    began = time.perf_counter()
    for _ in range(calls):
        with observer.call(operation) as watch:
            watch.answered(result)
    return 1e6 * (time.perf_counter() - began) / calls


_PATTERNS = 500


def _found(policy: Policy) -> float:
    """Microseconds to find the policy of a tool."""
    began = time.perf_counter()
    for n in range(_CALLS):
        policy.tool(f"tool-{n % 20}")
    return 1e6 * (time.perf_counter() - began) / _CALLS


async def overhead(*, quick: bool) -> list[Row]:
    """Microseconds that observability costs per call, with no listener and no OpenTelemetry SDK; and many patterns."""
    rounds = 3 if quick else 20
    client = ResilientClient(StdioServerParameters(command="never-started"))
    _watched(client, _CALLS)
    ours = [_watched(client, _CALLS) for _ in range(rounds)]
    many = Policy(tools={f"other-{n}-*": ToolPolicy() for n in range(_PATTERNS)})
    found = [_found(many) for _ in range(rounds)]
    return [
        Row("not observed: events, log, statistics, traces", "us/call", "budget", [_BUDGET] * rounds, ours, Goal(1)),
        Row("500 patterns in Policy.tools", "us/call", "budget", [_SEARCH] * rounds, found, Goal(1)),
    ]

"""The cost of `resilient-mcp wrap`: the plain client on a server, and on the same server behind `wrap`."""

from __future__ import annotations

import sys

from mcp import StdioServerParameters

from ._plain import BASELINES
from .measures import OURS, RAW_SERVER, REPLACED, ROOT, SDK_SERVER, Figures, Goal, Row, call_by_call


def _wrapped(server: StdioServerParameters) -> StdioServerParameters:
    code = "from resilient_mcp.cli import main; main()"
    return StdioServerParameters(
        command=sys.executable, args=["-c", code, "wrap", "--", server.command, *server.args], cwd=ROOT
    )


async def _compare(server: StdioServerParameters, rounds: int) -> Figures:
    connect = BASELINES[REPLACED]
    async with connect(server) as direct, connect(_wrapped(server)) as wrapped:
        return await call_by_call({REPLACED: direct, OURS: wrapped}, 100, rounds)


async def wrapping(*, quick: bool) -> list[Row]:
    """Sequential stdio calls, direct and through `wrap`; with the raw server nearly all of the time is transport."""
    rounds = 3 if quick else 20
    rows = []
    for what, server, goal in (
        ("wrap, sequential, p50", SDK_SERVER, Goal(2)),
        ("  the same, raw server", RAW_SERVER, None),
    ):
        figures = await _compare(server, rounds)
        rows.append(Row(what, "ms", REPLACED, figures[REPLACED], figures[OURS], goal))
    return rows

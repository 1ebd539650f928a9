"""The five scenes of `resilient-mcp demo`: what goes wrong, and what `ResilientClient` promises in each case.

Each scene is one function that both sides run unchanged: the sessions have the same methods.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from resilient_mcp.errors import ConnectionLost, DeadlineExceeded

from .server import RETRY_AFTER, forecast_for
from .stage import Outcome, Scene, Side

_CITY = "Oslo"
_LIMIT = 2.0
_BUSY = 0.8 * RETRY_AFTER
# Seconds into a call of one second at which the server is frozen.
_MID_CALL = 0.3


async def _killed(side: Side) -> None:
    if sys.platform == "win32":  # where the command refuses to run
        raise NotImplementedError
    pid = int(await side.ask("pid"))
    os.kill(pid, signal.SIGKILL)
    side.note("SIGKILL: the server is dead")
    await side.call("next call", "forecast", city=_CITY)


async def _frozen(side: Side) -> None:
    if sys.platform == "win32":  # where the command refuses to run
        raise NotImplementedError
    pid = int(await side.ask("pid"))
    restart = getattr(side.session, "restart", None)
    with _freezing(pid):
        asyncio.get_running_loop().call_later(_MID_CALL, _freeze, pid, side)
        try:
            await side.call("call", "forecast", city=_CITY, seconds=1)
            if restart is not None:
                side.note("await client.restart()")
                await restart()
            await side.call("next call", "forecast", city=_CITY)
        finally:
            if restart is None:  # the plain side: the SDK would take four seconds to stop its frozen child
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _freeze(pid: int, side: Side) -> None:
    if sys.platform == "win32":  # where the command refuses to run
        raise NotImplementedError
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    side.note("SIGSTOP: the server is frozen")


@contextmanager
def _freezing(pid: int) -> Iterator[None]:
    """Kill `pid` if this process ends within the block: a frozen process never sees its stdin close and would stay."""
    guard = subprocess.Popen(  # noqa: S603
        ["/bin/sh", "-c", 'read _; kill -KILL "$0"', str(pid)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.kill()
        with guard:
            pass


async def _overloaded(side: Side) -> None:
    assert side.http is not None
    await side.ask("forecast", city=_CITY)
    await side.http.overload(_BUSY)
    side.note("the server is overloaded")
    await side.call("next call", "forecast", city=_CITY)


async def _restarted(side: Side) -> None:
    assert side.http is not None
    if (version := getattr(side.session, "protocol_version", None)) is not None:
        side.note(f"speaks MCP {version}")
    await side.ask("forecast", city=_CITY)
    await side.http.restart()
    side.note("the server is a new process")
    await side.call("next call", "forecast", city=_CITY)


async def _ordered(side: Side) -> None:
    await side.ask("forecast", city=_CITY)
    await side.call("order", "place_order", item="umbrella")
    lines = len(side.orders.read_text(encoding="utf-8").splitlines())
    side.facts.append(f"lines in the file: {lines}")
    side.note(side.facts[-1])
    await side.call("next call", "forecast", city=_CITY)


def _answers(side: Side) -> bool:
    return _all_right(side.outcomes)


def _ends_in_time(side: Side) -> bool:
    first, *others = side.outcomes
    in_time = isinstance(first.error, DeadlineExceeded) and first.seconds < 1.5 * _LIMIT
    return in_time and _all_right(others)


def _orders_once(side: Side) -> bool:
    first, *others = side.outcomes
    says_so = isinstance(first.error, ConnectionLost) and "may have run" in first.error.advice
    return says_so and side.facts == ["lines in the file: 1"] and _all_right(others)


def _all_right(outcomes: Sequence[Outcome]) -> bool:
    """Whether there was at least one call and every call got the right answer."""
    return bool(outcomes) and all(outcome.answer == forecast_for(_CITY) for outcome in outcomes)


SCENES = (
    Scene(
        "The server is killed",
        "SIGKILL hits the server process while nothing is in flight. Then the next call is made.",
        "stdio",
        _killed,
        _answers,
    ),
    Scene(
        "The server freezes",
        f"SIGSTOP freezes the server in mid-call, for good; both sides allow a call {_LIMIT:.0f} s and one attempt. "
        "ResilientClient can then replace the frozen process; a plain session is bound to it.",
        "stdio",
        _frozen,
        _ends_in_time,
        limit=_LIMIT,
    ),
    Scene(
        "The server is overloaded",
        f'The server answers 503 with "Retry-After: {RETRY_AFTER}" for a moment. '
        "A refused call did not run, so it can be sent again after that second.",
        "HTTP",
        _overloaded,
        _answers,
    ),
    Scene(
        "The server is restarted",
        "A new server process replaces the old one on the same port. It does not know the old one's sessions. "
        "(MCP 2026-07-28 has none; ResilientClient speaks it where the SDK does.)",
        "HTTP",
        _restarted,
        _answers,
    ),
    Scene(
        "The server dies mid-call",
        "The tool place_order writes a line to a file and dies before it can answer. If sent again, it would "
        "order twice, so the caller must learn that it may have run.",
        "stdio",
        _ordered,
        _orders_once,
    ),
)

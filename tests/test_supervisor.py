"""The supervisor under virtual time: hours of outage in milliseconds, and one reconnect for any number of callers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient_mcp import Policy, RestartPolicy, RestartScheduled, ServerFailed, ServerUnavailable, State
from resilient_mcp.connection.generation import Connection
from resilient_mcp.connection.supervisor import Supervisor
from resilient_mcp.evidence import Delivery, Evidence, FailureKind
from resilient_mcp.in_flight import InFlight
from resilient_mcp.observability.hub import Hub
from resilient_mcp.verdicts.remedies import in_python
from resilient_mcp.verdicts.verdict import AttemptError

from .support import Recorder

LOST = Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "lost")
REFUSED = AttemptError(None, Evidence(FailureKind.NETWORK, Delivery.NOT_SENT, "refused"))
DIED = AttemptError(OSError("died"), None)


class Script:
    """Takes the place of `Connector`, which needs a server: opens connections or fails, as scripted."""

    def __init__(self, *outcomes: AttemptError | None, is_process: bool = True) -> None:
        self.outcomes = list(outcomes)
        self.server = SimpleNamespace(is_process=is_process)
        self.opened: list[float] = []
        self.open_now = 0
        self.most_at_once = 0
        self.opening: Any = None

    async def __aenter__(self) -> Script:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[Connection]:
        self.opened.append(anyio.current_time())
        outcome = self.outcomes.pop(0) if self.outcomes else None
        await anyio.sleep(0.01)
        if outcome is not None:
            raise outcome
        session: Any = SimpleNamespace(protocol_version="test")
        self.open_now += 1
        self.most_at_once = max(self.most_at_once, self.open_now)
        try:
            yield Connection(generation, session, InFlight())
        finally:
            self.open_now -= 1


def run(script: Script, body: Callable[[Supervisor, Recorder], Awaitable[None]], policy: Policy | None = None) -> None:
    async def main() -> None:
        events = Recorder()
        supervisor = Supervisor(script, policy or Policy(), Hub("test", events), in_python("the script"))  # type: ignore[arg-type]
        async with anyio.create_task_group() as tg:
            supervisor.begin()
            tg.start_soon(supervisor.run)
            await body(supervisor, events)
            supervisor.close()
        assert supervisor.state is State.CLOSED
        assert script.open_now == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_an_hour_of_a_dying_process():
    """Six attempts, then one after each suspension of 30, 60, 120, 240, 300 s: no endless forking."""
    script = Script(*[DIED] * 500)

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        await anyio.sleep(3600)
        delays = [event.delay for event in events.of(RestartScheduled) if event.suspended]
        assert delays[:5] == [30, 60, 120, 240, 300]

    run(script, body)
    assert len(script.opened) < 30


def test_an_hour_without_an_http_server():
    """An unreachable server is retried at least every half minute, and calls wait: no suspension."""
    script = Script(*[REFUSED] * 500, is_process=False)

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        await anyio.sleep(3600)
        assert supervisor.state is State.RECONNECTING
        began = anyio.current_time()
        with pytest.raises(ServerUnavailable, match="refused"):
            await supervisor.wait_ready(began + 20)
        assert anyio.current_time() - began <= 20

    run(script, body)
    assert 100 < len(script.opened) < 250


def test_a_suspended_server_fails_calls_immediately_and_recovers():
    """Calls fail without delay, the error says when the next attempt is due, and it is made."""
    script = Script(*[DIED] * 6)

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        await events.wait_for(RestartScheduled, suspended=True)
        await anyio.sleep(1)
        began = anyio.current_time()
        with pytest.raises(ServerUnavailable) as caught:
            await supervisor.wait_ready(began + 30)
        assert anyio.current_time() == began
        assert caught.value.retry_in is not None
        assert 28 < round(caught.value.retry_in, 6) <= 29  # the clock stands still: rounding errors remain
        await anyio.sleep(31)
        assert supervisor.state is State.READY

    run(script, body)


def test_requested_restarts_are_not_metered():
    """Twenty in a row, and none of them waits."""

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        began = anyio.current_time()
        for generation in range(1, 21):
            assert (await supervisor.wait_ready(anyio.current_time() + 5)).generation == generation
            supervisor.restart()
        assert anyio.current_time() - began < 1

    run(Script(), body)


def test_restart_wakes_a_suspended_server():
    """`restart` does not wait for the end of the suspension."""
    script = Script(*[DIED] * 6)

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        await events.wait_for(RestartScheduled, suspended=True)
        supervisor.restart()
        began = anyio.current_time()
        await supervisor.wait_ready(began + 5)
        assert anyio.current_time() - began < 1

    run(script, body)


def test_failed_does_not_loop():
    """A failure that no restart can fix is attempted once, until `restart()` is called."""
    script = Script(AttemptError(FileNotFoundError(2, "No such file", "npx"), None))

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        with pytest.raises(ServerFailed, match="cannot start: No such file: npx"):
            await supervisor.wait_ready(anyio.current_time() + 5)
        await anyio.sleep(3600)
        assert len(script.opened) == 1
        supervisor.restart()
        await supervisor.wait_ready(anyio.current_time() + 5)

    run(script, body)


def test_a_session_that_lived_a_minute_is_proven():
    """After 60 s up or an answered call the next loss is replaced immediately; a young one backs off."""

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        for _ in range(20):
            connection = await supervisor.wait_ready(anyio.current_time() + 5)
            await anyio.sleep(61)
            connection.end(LOST)
        assert not events.of(RestartScheduled)
        for _ in range(20):
            connection = await supervisor.wait_ready(anyio.current_time() + 5)
            supervisor.answered(connection)
            connection.end(LOST)
        assert not events.of(RestartScheduled)

    run(Script(), body)


def test_sessions_that_end_early_are_suspended():
    """Handshakes alone prove nothing."""

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        with pytest.raises(ServerUnavailable):
            for _ in range(10):
                (await supervisor.wait_ready(anyio.current_time() + 60)).end(LOST)
        assert supervisor.state is State.SUSPENDED

    run(Script(), body)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.booleans())
def test_many_reports_of_one_loss_make_one_reconnect(callers: list[int], is_process: bool):
    """N callers whose calls fail on generation g cause one connection, g + 1, and processes never overlap."""
    script = Script(is_process=is_process)

    async def body(supervisor: Supervisor, events: Recorder) -> None:
        for expected, n in enumerate(callers, start=1):
            connection = await supervisor.wait_ready(anyio.current_time() + 5)
            assert connection.generation == expected
            supervisor.answered(connection)
            for _ in range(n):
                supervisor.lost(connection, LOST)
            assert supervisor.ready is None

    run(script, body, Policy(restart=RestartPolicy(intensity=100)))
    assert len(script.opened) <= len(callers) + 1
    if is_process:
        assert script.most_at_once == 1

"""Waits that pass instantly: hours of policy fit into a test's twenty seconds, and time limits stay real."""

from __future__ import annotations

import anyio
import pytest

from resilient_mcp import (
    BreakerPolicy,
    BreakerState,
    CircuitOpen,
    DeadlineExceeded,
    Policy,
    RateLimit,
    RateLimitExceeded,
    RestartPolicy,
    RestartScheduled,
    RetryPolicy,
    RetryScheduled,
    ServerUnavailable,
    TimeoutPolicy,
)
from resilient_mcp.testing import HttpReply, Reply, ScriptedHttpServer, ScriptedStdioServer, StdioReply, instant_waits

from .support import Recorder, client_of, listed, measured, text_of

pytestmark = pytest.mark.anyio

HOUR = 3600.0
DAYS = TimeoutPolicy(total=100 * HOUR, ready=15, connect=15)
SLOW = RetryPolicy(base=HOUR, max_delay=9 * HOUR, max_retry_after=9 * HOUR)


async def test_back_off_passes():
    """Hours pass between the attempts, and the events report them."""
    recorder = Recorder()
    script = [HttpReply.refusal(500)] * 3
    policy = Policy(retry=SLOW, timeout=DAYS)
    with instant_waits():
        async with ScriptedHttpServer(script) as server, client_of(server.url, policy, on_event=recorder) as client:
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
            assert len(server.requests.of()) == 4
    assert sum(event.delay for event in recorder.of(RetryScheduled)) > HOUR / 4


async def test_a_push_back_passes_for_all_callers():
    """`Retry-After: 3600` passes for the call that got it and for a concurrent one."""
    policy = Policy(retry=SLOW, timeout=DAYS)
    with instant_waits():
        async with ScriptedHttpServer([HttpReply.refusal(429, retry_after=HOUR)]) as server:
            async with client_of(server.url, policy) as client, anyio.create_task_group() as tg:
                tg.start_soon(client.call_tool, "echo", {"text": "x"})
                await server.received()
                assert text_of(await client.call_tool("order", {"text": "y"})) == "y"
            assert len(server.requests.of()) == 3


async def test_the_rate_limit_passes():
    """At one an hour, ten calls in sequence and concurrently each cost one hour of the clock."""
    policy = Policy(rate_limit=RateLimit(rate=1 / HOUR, burst=1), timeout=DAYS)
    with instant_waits() as clock:
        async with ScriptedHttpServer() as server, client_of(server.url, policy) as client:
            began = clock.now()
            for _ in range(5):
                await client.call_tool("echo", {"text": "x"})
            async with anyio.create_task_group() as tg:
                for _ in range(5):
                    tg.start_soon(client.call_tool, "echo", {"text": "x"})
            assert 9 * HOUR <= clock.now() - began < 10 * HOUR


async def test_restart_delays_pass():
    """A server fails to start four times, with hours in between."""
    recorder = Recorder()
    policy = Policy(restart=RestartPolicy(base=HOUR, max_delay=HOUR), timeout=DAYS)
    with instant_waits():
        async with ScriptedStdioServer({"start": [StdioReply.exit()] * 4}) as server:
            async with client_of(server.parameters, policy, on_event=recorder) as client:
                assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
            assert len(server.requests.of("start")) == 5
    assert sum(event.delay for event in recorder.of(RestartScheduled)) >= HOUR


async def test_a_server_that_never_starts_is_reported_as_suspended():
    """The suspension is visible, although it passes in a moment."""
    with instant_waits():
        async with ScriptedStdioServer({"start": [StdioReply.exit()] * 1000}) as server:
            with pytest.raises(ServerUnavailable):
                async with client_of(server.parameters, Policy(timeout=DAYS)):
                    raise AssertionError("unreachable")


async def test_an_open_circuit_is_seen_until_the_clock_is_advanced():
    """A call's back-off does not close the circuit; an hour of the clock half-opens it."""
    policy = Policy(
        retry=RetryPolicy(attempts=1), breaker=BreakerPolicy(failures=1, open=HOUR, max_open=HOUR), timeout=DAYS
    )
    with instant_waits() as clock:
        probes = [HttpReply.refusal(503)] * 99
        script = {"tools/call": [HttpReply.refusal(500)], "ping": probes}
        async with ScriptedHttpServer(script) as server, client_of(server.url, policy) as client:
            await listed(client)  # its answer would be a sign of life
            with pytest.raises(Exception, match="500"):
                await client.call_tool("echo", {"text": "x"})
            for _ in range(2):
                with pytest.raises(CircuitOpen):
                    await client.call_tool("echo", {"text": "x"})
                clock.advance(HOUR / 2)
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
            assert client.circuit.state is BreakerState.CLOSED


async def test_skipped_waits_do_not_count_against_a_time_limit():
    """Three waits of two thirds of the total fit; a single longer one is still refused."""
    policy = Policy(retry=SLOW, timeout=TimeoutPolicy(total=30, ready=15, connect=15, attempt=15))
    with instant_waits():
        async with ScriptedHttpServer([HttpReply.refusal(503, retry_after=20)] * 3) as server:
            async with client_of(server.url, policy) as client:
                assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
                server.then(HttpReply.refusal(503, retry_after=40))
                with pytest.raises(Exception, match="503"):
                    await client.call_tool("echo", {"text": "x"})
                with pytest.raises(RateLimitExceeded):
                    await client.call_tool("echo", {"text": "x"})


async def test_time_limits_and_other_sleeps_stay_real():
    """A hanging request takes its whole time limit, and a test's own sleep its time."""
    policy = Policy(retry=RetryPolicy(attempts=1), timeout=TimeoutPolicy(attempt=0.3))
    with instant_waits():
        async with ScriptedHttpServer([Reply.hang()]) as server, client_of(server.url, policy) as client:
            await client.list_tools()
            with measured() as took, pytest.raises(DeadlineExceeded):
                await client.call_tool("echo", {"text": "x"})
            assert took[0] >= 0.3
        with measured() as took:
            await anyio.sleep(0.1)
        assert took[0] >= 0.099


async def test_afterwards_waits_are_real_again():
    """Waits are real again even after nested contexts and a body that failed."""
    with pytest.raises(ZeroDivisionError), instant_waits(), instant_waits():
        raise ZeroDivisionError
    async with ScriptedHttpServer([HttpReply.refusal(503, retry_after=1)]) as server:
        async with client_of(server.url) as client:
            with measured() as took:
                await client.call_tool("echo", {"text": "x"})
            assert took[0] >= 0.99

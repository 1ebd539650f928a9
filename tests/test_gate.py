"""The gate: circuit breaker, rate limit, concurrency limit, retry budget and loop guard around real calls."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import anyio
import pytest

from resilient_mcp import (
    BreakerChanged,
    BreakerPolicy,
    BreakerState,
    BudgetPolicy,
    CircuitOpen,
    Concurrency,
    Connected,
    ConnectionLost,
    DeadlineExceeded,
    HealthPolicy,
    LoopGuard,
    Overloaded,
    Policy,
    RateLimit,
    RateLimitExceeded,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    ServerUnavailable,
    State,
    Throttled,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp._sdk.results import is_error_result
from resilient_mcp.calls.probe import _spread
from resilient_mcp.event_loop import clock
from resilient_mcp.testing import ScriptedStdioServer

from .support import (
    QUICK,
    Faults,
    Recorder,
    ScriptedHttp,
    client_of,
    http_server,
    in_turn,
    is_alive,
    raw_server,
    reply,
    text_of,
)

pytestmark = pytest.mark.anyio
ONCE = QUICK.model_copy(
    update={"retry": RetryPolicy(attempts=1), "timeout": QUICK.timeout.model_copy(update={"ready": 1})}
)

PATIENT = ONCE.model_copy(update={"timeout": QUICK.timeout})


def policy(base: Policy = ONCE, **update: Any) -> Policy:
    return base.model_copy(update=update)


def answer(text: str, *, is_error: bool = False) -> Any:
    """A tool result, as one fault."""

    async def fault(stream: Any, request_id: Any) -> bool:
        result = {"content": [{"type": "text", "text": text}], "isError": is_error}
        await reply(stream, 200, json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode())
        return True

    return fault


def held(server: ScriptedHttp, text: str) -> Any:
    """An answer that waits for `server.release`."""

    async def fault(stream: Any, request_id: Any) -> bool:
        await server.release.wait()
        return await answer(text)(stream, request_id)

    return fault


async def fails(client: ResilientClient, error: type[Exception] = ResilienceError, tool: str = "echo") -> Any:
    with pytest.raises(error) as caught:
        await client.call_tool(tool, {"text": "x"})
    return caught.value


async def open_circuit(server: ScriptedHttp, client: ResilientClient) -> None:
    server.faults = [Faults.status(502)] * 5
    for _ in range(5):
        await fails(client)
    assert client.circuit is not None
    assert client.circuit.state is BreakerState.OPEN


# --- the circuit ---


async def test_an_open_circuit_refuses_every_call():
    """An open circuit refuses 1,000 callers, each with the time to wait, and the server sees no call."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, ONCE, on_event=events) as client:
        server.ping_faults = [Faults.status(502)] * 9
        await open_circuit(server, client)
        errors = []

        async def call() -> None:
            errors.append(await fails(client, CircuitOpen))

        async with anyio.create_task_group() as tg:
            for _ in range(1000):
                tg.start_soon(call)
        assert len(server.calls) == 5
        assert len(errors) == 1000
        with anyio.fail_after(15):  # only the probe keeps sending requests
            while not server.requests["ping"]:
                await anyio.sleep(0.01)
        assert len(server.calls) == 5
        assert all(0 < error.retry_in <= 60 and error.attempts == 0 for error in errors)
        assert "Nothing was sent" in errors[0].advice
        assert "HTTP 502" in errors[0].advice
        assert text_of(errors[0].to_tool_result()) == errors[0].advice
        (changed,) = events.of(BreakerChanged)
        assert (changed.old, changed.new) == (BreakerState.CLOSED, BreakerState.OPEN)


@pytest.mark.parametrize(
    "fault",
    [
        Faults.status(400),
        Faults.status(401),
        Faults.error(200, -32602, "bad"),
        Faults.error(200, -32603, "broken tool"),
        answer("rate limit", is_error=True),
    ],
    ids=["400", "401", "-32602", "-32603", "isError"],
)
async def test_answers_of_a_healthy_server_open_no_circuit(fault: Any):
    """Refusals, the server's own errors and `isError` results count as answers, not failures."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults = [fault] * 20
        for _ in range(20):
            try:
                assert is_error_result(await client.call_tool("unsafe"))
            except MCPError as error:
                assert not isinstance(error, CircuitOpen)
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED
        assert len(server.calls) == 20


async def test_cancelled_calls_open_no_circuit():
    """Calls cancelled by their callers do not count as failures."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        for n in range(8):
            server.faults, server.received = [Faults.hang(server)], anyio.Event()
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.call_tool, "echo", {"text": str(n)})
                await server.received.wait()
                tg.cancel_scope.cancel()
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_one_trial_decides():
    """A half-open circuit admits one call: others wait for it briefly, and its answer closes the circuit."""
    server = ScriptedHttp()
    early = policy(breaker=BreakerPolicy(open=0.05, max_open=0.1), timeout=TimeoutPolicy(ready=0.3))
    async with server.serve(), client_of(server.url, early) as client:
        await open_circuit(server, client)
        await anyio.sleep(0.05)  # the open time itself
        server.faults, server.received = [held(server, "well")], anyio.Event()
        results = []

        async def trial() -> None:
            results.append(text_of(await client.call_tool("echo", {"text": "trial"})))

        async with anyio.create_task_group() as tg:
            tg.start_soon(trial)
            await server.received.wait()
            error = await fails(client, CircuitOpen)
            assert "half-open" in str(error)
            assert 0 < error.retry_in <= 30
            server.release.set()
        assert results == ["well"]
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_a_cancelled_trial_gives_its_permit_back():
    """A cancelled trial is not counted, and the next call is the trial."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(breaker=BreakerPolicy(open=0.05, max_open=0.1))) as client:
        await open_circuit(server, client)
        await anyio.sleep(0.05)  # the open time itself
        server.faults, server.received = [Faults.hang(server)], anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.call_tool, "echo", {"text": "trial"})
            await server.received.wait()
            tg.cancel_scope.cancel()
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.HALF_OPEN
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.circuit.state is BreakerState.CLOSED


async def test_a_new_connection_half_opens_the_circuit():
    """A restarted server is tried immediately."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        await open_circuit(server, client)
        await client.restart()
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_an_answered_probe_half_opens_the_circuit():
    """A server message in reply to the probe half-opens an open circuit; a gateway's HTTP status does not."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, ONCE, on_event=events) as client:
        server.ping_faults = [Faults.status(502)]
        await open_circuit(server, client)
        changed = await events.wait_for(BreakerChanged, new=BreakerState.HALF_OPEN)
        assert changed.reason == "the server sent a message"
        assert server.requests["ping"] == 2
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_one_crash_under_many_calls_is_one_failure():
    """20 calls that fail with their process do not open the circuit; all are retried and answered."""
    async with client_of(
        raw_server(), QUICK.model_copy(update={"tools": {"*": ToolPolicy(repeatable=True)}})
    ) as client:
        results: list[str] = []

        async def call(n: int) -> None:
            results.append(text_of(await client.call_tool("echo", {"text": str(n)})))

        pid = int(text_of(await client.call_tool("pid")))
        os.kill(pid, signal.SIGSTOP)
        async with anyio.create_task_group() as tg:
            for n in range(20):
                tg.start_soon(call, n)
            await anyio.wait_all_tasks_blocked()
            os.kill(pid, signal.SIGKILL)
        assert sorted(results, key=int) == [str(n) for n in range(20)]
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_a_call_waits_for_a_reconnect_in_progress():
    """A circuit opened by a tool that crashes the server refuses no call while the process is being replaced."""
    patient = policy(restart=RestartPolicy(base=0.01, intensity=100))
    async with client_of(raw_server(), patient) as client:
        for _ in range(5):
            await fails(client, ConnectionLost, "die")
        assert client.circuit is not None
        assert client.circuit.state is not BreakerState.CLOSED
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.circuit.state is BreakerState.CLOSED


@in_turn
async def test_concurrent_waits_without_a_server_count_once():
    """Twenty concurrent waits for a missing server are one failure; five failures open the circuit, four do not."""
    quick = TimeoutPolicy(ready=0.5, connect=5, shutdown=1)
    async with http_server() as server, client_of(server.url, policy(timeout=quick)) as client:
        assert client.circuit is not None
        server.kill()
        async with anyio.create_task_group() as tg:
            for _ in range(20):
                tg.start_soon(fails, client, ServerUnavailable)
        for _ in range(3):
            await fails(client, ServerUnavailable)
        assert client.circuit.state is BreakerState.CLOSED
        await fails(client, ServerUnavailable)
        assert client.circuit.state is BreakerState.OPEN
        await fails(client, CircuitOpen)


async def test_a_circuit_is_isolated_and_reset_by_hand():
    """An isolated circuit refuses every call, even after a reconnect; `reset()` closes it."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, ONCE, on_event=events) as client:
        assert client.circuit is not None
        client.circuit.isolate()
        error = await fails(client, CircuitOpen)
        assert "by hand" in str(error)
        assert error.retry_in is None
        await client.restart()
        await fails(client, CircuitOpen)
        client.circuit.reset()
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert [event.new for event in events.of(BreakerChanged)] == [BreakerState.ISOLATED, BreakerState.CLOSED]


async def test_a_circuit_that_was_reset_is_probed_when_it_opens_again():
    """After `isolate()` and `reset()` the probe runs each time the circuit opens again, on the same connection."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, ONCE, on_event=events) as client:
        assert client.circuit is not None
        await open_circuit(server, client)
        client.circuit.isolate()
        client.circuit.reset()
        for times in range(1, 4):
            await open_circuit(server, client)
            await events.wait_for(BreakerChanged, times, new=BreakerState.HALF_OPEN)
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.generation == 1


async def test_unsubscribing_works_while_the_circuit_is_open():
    """The subscription is no longer wanted, whether or not the server can be notified."""
    async with client_of(raw_server()) as client:
        assert client.circuit is not None
        client.circuit.isolate()
        await client.unsubscribe_resource("raw://x")


async def test_throttling_opens_no_circuit():
    """Throttling leads to a pause, not to an open circuit."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults = [Faults.status(429), Faults.status(503, retry_after="0")] * 10
        for _ in range(20):
            await fails(client)
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_a_server_that_sheds_load_opens_no_circuit():
    """A 503 while other calls are answered is not an outage; a second without any answer is."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        assert client.circuit is not None
        for _ in range(6):
            server.faults = [Faults.status(503)]
            await fails(client)
            await client.send_ping()
        assert client.circuit.state is BreakerState.CLOSED
        await anyio.sleep(1)
        server.ping_faults = [Faults.status(503)] * 9
        server.faults = [Faults.status(503)] * 5
        for _ in range(5):
            await fails(client)
        assert client.circuit.state is BreakerState.OPEN


async def test_the_breaker_can_be_disabled():
    """With `breaker=None` every call is sent."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(breaker=None, budget=None)) as client:
        assert client.circuit is None
        server.faults = [Faults.status(502)] * 20
        for _ in range(20):
            await fails(client, ConnectionLost)
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_a_504_for_a_slow_trial_does_not_block_other_calls():
    """When the trial call ends in a 504, a server that answers a probe meanwhile still gets the other calls."""
    server, events = ScriptedHttp(), Recorder()

    async def cut_off(stream: Any, request_id: Any) -> bool:
        await anyio.sleep(3)
        return await Faults.status(504)(stream, request_id)

    async with server.serve(), client_of(server.url, PATIENT, on_event=events) as client:
        await open_circuit(server, client)
        await events.wait_for(BreakerChanged, new=BreakerState.HALF_OPEN)
        server.faults, server.received = [cut_off], anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(fails, client, ConnectionLost)
            await server.received.wait()
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_a_retry_waits_for_the_circuit():
    """A retry is sent as soon as a probe is answered, and a caller that arrives just then waits for that probe too."""
    server, events = ScriptedHttp(), Recorder()
    early = policy(QUICK, breaker=BreakerPolicy(failures=2))
    async with server.serve(), client_of(server.url, early, on_event=events) as client:
        server.faults = [Faults.status(502)] * 2
        answers = []

        async def call(text: str) -> None:
            answers.append(text_of(await client.call_tool("echo", {"text": text})))

        async with anyio.create_task_group() as tg:
            tg.start_soon(call, "repeated")
            await events.wait_for(BreakerChanged, new=BreakerState.OPEN)
            tg.start_soon(call, "new")
        assert sorted(answers) == ["new", "repeated"]
        assert len(server.calls) == 4


async def test_calls_wait_for_a_slow_trial():
    """Once the server has been heard, no call is refused: all wait for the trial, however slow it is."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, PATIENT, on_event=events) as client:
        await open_circuit(server, client)
        await events.wait_for(BreakerChanged, new=BreakerState.HALF_OPEN)
        server.faults, server.received = [held(server, "trial")], anyio.Event()
        answers = []

        async def call(text: str) -> None:
            answers.append(text_of(await client.call_tool("echo", {"text": text})))

        async with anyio.create_task_group() as tg:
            tg.start_soon(call, "trial")
            await server.received.wait()
            for _ in range(20):
                tg.start_soon(call, "other")
            await anyio.sleep(1.5)
            assert answers == []
            server.release.set()
        assert answers == ["trial", *["other"] * 20]


async def test_a_retry_waits_for_the_circuit_no_longer_than_for_a_server():
    """After `timeout.ready` the error reports both the fate of the call and the state of the circuit."""
    server = ScriptedHttp()
    limits = QUICK.timeout.model_copy(update={"ready": 0.5})
    early = policy(QUICK, breaker=BreakerPolicy(failures=2), timeout=limits)
    async with server.serve(), client_of(server.url, early) as client:
        server.ping_faults = [Faults.status(502)] * 9
        server.faults = [Faults.status(502)] * 4
        error = await fails(client, CircuitOpen)
        assert "HTTP 502" in str(error)
        assert error.attempts == 2
        assert len(server.calls) == 2


async def test_a_retry_that_meets_an_open_circuit_ends_the_call():
    """The error says how often the call was sent, and what opened the circuit."""
    server, events = ScriptedHttp(), Recorder()
    patient = policy(QUICK, retry=RetryPolicy(throttled_base=0.01))
    async with server.serve(), client_of(server.url, patient, on_event=events) as client:
        server.faults = [Faults.status(429, retry_after="1")]
        async with anyio.create_task_group() as tg:

            async def call() -> None:
                error = await fails(client, CircuitOpen)
                assert error.attempts == 1
                assert "It was sent once and was not run." in error.advice

            tg.start_soon(call)
            await events.wait_for(Throttled)
            client.circuit.isolate()  # type: ignore[union-attr]
        assert len(server.calls) == 1


# --- the retry budget ---


async def test_an_empty_budget_ends_retries():
    """Two tokens allow two retries, then the failure is raised; an answered call refunds tokens."""
    server = ScriptedHttp()
    scarce = policy(QUICK, budget=BudgetPolicy(tokens=2, refund=1), breaker=None)
    async with server.serve(), client_of(server.url, scarce) as client:
        server.faults = [Faults.status(502)] * 4
        assert (await fails(client, ConnectionLost)).attempts == 3
        assert (await fails(client, ConnectionLost)).attempts == 1
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        server.faults = [Faults.status(502)]
        assert text_of(await client.call_tool("echo", {"text": "y"})) == "y"


async def test_a_new_connection_costs_no_budget():
    """Retries of calls whose process died cost no tokens."""
    scarce = policy(QUICK, budget=BudgetPolicy(tokens=1, refund=0), tools={"*": ToolPolicy(repeatable=True)})
    async with client_of(raw_server(), scarce) as client:
        for n in range(3):
            pid = int(text_of(await client.call_tool("pid")))
            os.kill(pid, signal.SIGSTOP)
            async with anyio.create_task_group() as tg:
                tg.start_soon(client.call_tool, "echo", {"text": str(n)})
                await anyio.wait_all_tasks_blocked()
                os.kill(pid, signal.SIGKILL)
            assert not is_alive(pid)


# --- the rate limit ---


async def test_one_push_back_pauses_every_caller():
    """After a 429 with `Retry-After: 1` to the first of 50, nothing arrives for a second, and all 50 are answered."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client:
        server.faults = [Faults.status(429, retry_after="1")]
        answers = []

        async def call(n: int) -> None:
            answers.append(text_of(await client.call_tool("echo", {"text": str(n)})))

        async with anyio.create_task_group() as tg:
            tg.start_soon(call, 0)
            throttled = await events.wait_for(Throttled)
            for n in range(1, 50):
                tg.start_soon(call, n)
        assert throttled.delay == 1
        assert sorted(answers, key=int) == [str(n) for n in range(50)]
        assert len(server.calls) == 51
        assert server.arrivals[1] - server.arrivals[0] >= 1


async def test_a_push_back_beyond_the_deadline_fails_immediately():
    """A call whose deadline ends before the pause fails immediately, and nothing is sent."""
    server = ScriptedHttp()
    short = policy(timeout=TimeoutPolicy(total=5))
    async with server.serve(), client_of(server.url, short) as client:
        server.faults = [Faults.status(429, retry_after="60")]
        await fails(client, RateLimitExceeded)
        error = await fails(client, RateLimitExceeded)
        assert 50 < error.retry_in <= 60
        assert "Nothing was sent" in error.advice
        assert len(server.calls) == 1


async def test_the_rate_limit_holds_at_the_server():
    """With rate 20 and burst 5, at most 5 + 20 * t of 100 calls a second arrive in any t seconds."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(rate_limit=RateLimit(rate=20, burst=5))) as client:
        await client.list_tools()
        stall = 0.0

        async def measure_stalls() -> None:
            nonlocal stall
            while True:
                before = anyio.current_time()
                await anyio.sleep(0.01)
                stall = max(stall, anyio.current_time() - before - 0.01)

        async with anyio.create_task_group() as everything:
            everything.start_soon(measure_stalls)
            async with anyio.create_task_group() as tg:
                for n in range(40):
                    tg.start_soon(client.call_tool, "echo", {"text": str(n)})
                    await anyio.sleep(0.01)
            everything.cancel_scope.cancel()
        times = server.arrivals
        assert len(times) == 40
        for i, first in enumerate(times):
            for j in range(i, len(times)):
                # Calls that fell due while the machine stalled arrive together; one more may be late in transit.
                assert j - i + 1 <= 5 + 20 * (times[j] - first + stall) + 1


async def test_a_tool_has_its_own_rate_limit():
    """Each tool has its own bucket, beside the server's; a wait beyond the deadline is refused."""
    server = ScriptedHttp()
    tools = {"echo": ToolPolicy(rate_limit=RateLimit(rate=0.001, burst=2)), "uns*": ToolPolicy()}
    limits = TimeoutPolicy(total=300)
    async with server.serve(), client_of(server.url, policy(tools=tools, timeout=limits)) as client:
        for _ in range(2):
            await client.call_tool("echo", {"text": "x"})
        error = await fails(client, RateLimitExceeded)
        assert error.retry_in > 900
        for _ in range(5):
            await client.call_tool("unsafe", {"text": "x"})
        assert len(server.calls) == 7


async def test_unused_tokens_are_returned():
    """A call that is refused by a later limit, finds no slot, or is cancelled returns the tokens it took."""
    limits = {"echo": ToolPolicy(rate_limit=RateLimit(rate=0.001, burst=3))}
    server = ScriptedHttp()
    tight = policy(rate_limit=RateLimit(rate=0.001, burst=1), tools=limits, timeout=TimeoutPolicy(total=2))
    async with server.serve(), client_of(server.url, tight) as client:
        await client.call_tool("echo", {"text": "x"})
        for _ in range(5):
            await fails(client, RateLimitExceeded)
        now = clock.now()
        assert [client._gate._tool_buckets["echo"].reserve(now, 0) for _ in range(3)] == [0, 0, None]
    narrow = policy(rate_limit=RateLimit(rate=0.001, burst=4), concurrency=Concurrency(limit=1, queue=1))
    async with server.serve(), client_of(server.url, narrow) as client:
        server.faults, server.received = [Faults.hang(server)], anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.call_tool, "echo", {"text": "runs"})
            await server.received.wait()
            with anyio.move_on_after(0.05):
                await client.call_tool("echo", {"text": "queues, and is cancelled"})
            tg.start_soon(client.call_tool, "echo", {"text": "queues"})
            await anyio.wait_all_tasks_blocked()
            await fails(client, Overloaded)
            tg.cancel_scope.cancel()
        now = clock.now()
        assert [client._gate._bucket.reserve(now, 0) for _ in range(4)] == [0, 0, 0, None]


async def test_a_cancelled_wait_gives_its_token_back():
    """A cancelled caller leaves its token to the next."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(rate_limit=RateLimit(rate=0.5, burst=1))) as client:
        await client.call_tool("echo", {"text": "1"})
        for _ in range(100):
            with anyio.move_on_after(0.001):
                await client.call_tool("echo", {"text": "never"})
        with anyio.fail_after(10):
            await client.call_tool("echo", {"text": "2"})
        assert server.calls == ["1", "2"]


async def test_an_answer_is_returned_when_its_retry_is_refused():
    """When the rate limit forbids the retry that an `isError` result asks for, that result is returned."""
    server = ScriptedHttp()
    async with (
        server.serve(),
        client_of(server.url, policy(QUICK, rate_limit=RateLimit(rate=0.001, burst=1))) as client,
    ):
        server.faults = [answer("temporarily unavailable", is_error=True)]
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "temporarily unavailable"


# --- the concurrency limit ---


async def test_the_concurrency_limit_and_its_queue():
    """Two run, one waits, the fourth is refused; a slot that becomes free is passed on."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(concurrency=Concurrency(limit=2, queue=1))) as client:
        server.faults = [held(server, "a"), held(server, "b")]
        answers = []

        async def call() -> None:
            answers.append(text_of(await client.call_tool("echo", {"text": "c"})))

        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(call)
            await anyio.wait_all_tasks_blocked()
            error = await fails(client, Overloaded)
            assert "2 calls are running" in str(error)
            assert "and 1 queued" in str(error)
            with anyio.fail_after(5):
                while len(server.calls) < 2:
                    await anyio.sleep(0.01)
            assert len(server.calls) == 2
            server.release.set()
        assert sorted(answers) == ["a", "b", "c"]


async def test_a_cancelled_wait_for_a_slot_frees_its_place():
    """Callers that are cancelled while they wait for a slot free their place in the queue."""
    server = ScriptedHttp()
    limits = policy(concurrency=Concurrency(limit=1, queue=1), timeout=TimeoutPolicy(total=1, attempt=0.9))
    async with server.serve(), client_of(server.url, limits) as client:
        server.faults = [held(server, "a")]
        async with anyio.create_task_group() as tg:
            tg.start_soon(fails, client, DeadlineExceeded)
            await server.received.wait()
            for _ in range(3):
                with anyio.move_on_after(0.01):
                    await client.call_tool("echo")
        client.circuit.reset()  # type: ignore[union-attr]
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


# --- the loop guard ---


async def test_the_loop_guard_warns_the_model():
    """From the third refusal in a row the answer begins with a warning to the model; a success resets the count."""
    server = ScriptedHttp()
    guarded = policy(loop_guard=LoopGuard(failures=3), tools={"free*": ToolPolicy(), "unsafe": ToolPolicy()})
    async with server.serve(), client_of(server.url, guarded) as client:
        refusal = answer("bad city", is_error=True)
        for faults, expected in (([refusal] * 4, [1, 1, 2, 2]), ([answer("well"), refusal], [1, 1])):
            server.faults = list(faults)
            results = [await client.call_tool("unsafe") for _ in faults]
            assert [len(result.content) for result in results] == expected
            assert all(result.content[-1].text in {"bad city", "well"} for result in results)
            if expected[-1] == 2:
                assert "refused the last 4 calls" in text_of(results[-1])


# --- health ---

IMPATIENT = HealthPolicy(idle=0.05, timeout=0.2)


async def test_an_idle_connection_is_checked():
    """An idle server is pinged, and an error in reply is a sign of life too."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT), on_event=events) as client:
        with anyio.fail_after(10):
            while server.requests["ping"] < 3:
                await anyio.sleep(0.01)
        assert client.generation == 1


async def test_two_misses_end_a_connection():
    """After two missed checks the next generation is ready before the next call."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT), on_event=events) as client:
        server.ping_faults = [Faults.hang(server)] * 2
        await events.wait_for(Connected, 2)
        assert client.state is State.READY
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_refused_credentials_are_an_answer():
    """401 and 403 in reply to a health check do not end the connection: the server is there."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT)) as client:
        server.ping_faults = [Faults.status(401), Faults.status(403)] * 4
        with anyio.fail_after(10):
            while server.ping_faults:
                await anyio.sleep(0.01)
        assert client.generation == 1
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_checks_are_spread_out():
    """200 clients that became idle at the same moment do not send their checks at the same moment."""
    waits = {round(_spread(30), 3) for _ in range(200)}
    assert len(waits) > 100
    assert 27 <= min(waits) <= max(waits) <= 33


async def test_a_lost_session_is_found_by_a_health_check():
    """One missed check is enough when the server does not know the session."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT), on_event=events):
        server.forget_sessions()
        await events.wait_for(Connected, 2)


async def test_a_modern_server_is_asked_to_discover():
    """At 2026-07-28, which has no ping, `server/discover` is sent; mcp 1.x always pings."""
    async with http_server() as server:
        async with ResilientClient(server.url, policy=policy(health=IMPATIENT)) as client:
            for _ in range(3):
                await client._health._is_alive(client._supervisor.ready)
            server.kill()
            assert not await client._health._is_alive(client._supervisor.ready)


async def test_an_idle_process_is_never_pinged():
    """A process needs no health checks, because its exit is noticed."""
    async with ScriptedStdioServer() as server:
        async with client_of(server.parameters, policy(health=IMPATIENT)):
            await anyio.sleep(0.5)
        assert "ping" not in [request.method for request in server.requests]

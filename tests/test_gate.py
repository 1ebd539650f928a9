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


async def test_an_open_circuit_lets_nothing_through():
    """1,000 callers are refused, each with the time to wait, and the server hears of no call."""
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
        with anyio.fail_after(15):  # the probe is the only request that goes on
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
async def test_what_is_no_sign_of_an_unwell_server_opens_nothing(fault: Any):
    """Refusals, the server's own errors and `isError` results are answers."""
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


async def test_cancelled_calls_open_nothing():
    """A caller's own cancellation says nothing about the server."""
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
    """Half-open lets one call through: others wait for it, a while, and its answer closes the circuit."""
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
    """It says nothing; the next call is the trial."""
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
    """A server that was restarted is tried at once."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        await open_circuit(server, client)
        await client.restart()
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_a_probe_that_is_answered_half_opens_the_circuit():
    """An open circuit is probed; a gateway's status is no sign of life, a message of the server's own is."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, ONCE, on_event=events) as client:
        server.ping_faults = [Faults.status(502)]
        await open_circuit(server, client)
        changed = await events.wait_for(BreakerChanged, new=BreakerState.HALF_OPEN)
        assert changed.reason == "the server was heard"
        assert server.requests["ping"] == 2
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_one_crash_under_many_calls_is_one_failure():
    """20 calls that die with their process do not open the circuit; all are repeated and answered."""
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


async def test_a_call_waits_for_the_connection_that_is_on_its_way():
    """A circuit that a tool opened, by crashing the server each time, refuses no call while the process is replaced."""
    patient = policy(restart=RestartPolicy(base=0.01, intensity=100))
    async with client_of(raw_server(), patient) as client:
        for _ in range(5):
            await fails(client, ConnectionLost, "die")
        assert client.circuit is not None
        assert client.circuit.state is not BreakerState.CLOSED
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert client.circuit.state is BreakerState.CLOSED


@in_turn
async def test_calls_that_find_no_server_count_once():
    """However often a call tried, and however many waited at once: five waits in vain open the circuit, four do not."""
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
    """Isolated refuses everything, also after a reconnect; reset closes it."""
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
    """Once isolated by hand, and on the same connection: the probe works as often as it is needed."""
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


async def test_a_subscription_is_taken_back_while_the_circuit_refuses():
    """The wish is gone, whatever the server hears of it."""
    async with client_of(raw_server()) as client:
        assert client.circuit is not None
        client.circuit.isolate()
        await client.unsubscribe_resource("raw://x")


async def test_throttling_opens_no_circuit():
    """The pause deals with that."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults = [Faults.status(429), Faults.status(503, retry_after="0")] * 10
        for _ in range(20):
            await fails(client)
        assert client.circuit is not None
        assert client.circuit.state is BreakerState.CLOSED


async def test_a_server_that_sheds_load_opens_no_circuit():
    """A 503 while others are answered is no outage; when nobody has been answered for a second, it is."""
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


async def test_there_may_be_no_breaker():
    """`breaker=None`: every call is sent."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(breaker=None, budget=None)) as client:
        assert client.circuit is None
        server.faults = [Faults.status(502)] * 20
        for _ in range(20):
            await fails(client, ConnectionLost)
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_a_slow_tool_behind_a_gateways_time_limit_keeps_nobody_out():
    """It is the call that tries the circuit, and its 504 says nothing of a server that answers a probe meanwhile."""
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
    """It goes out as soon as a probe is answered, and a caller that comes just then waits for that probe, too."""
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


async def test_a_call_waits_for_the_one_that_tries_the_circuit():
    """Nobody is refused by a circuit whose server has been heard: the trial, however slow, decides for all."""
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


async def test_a_retry_waits_for_the_circuit_as_long_as_for_a_server():
    """Then its error says what became of the call, and what of the circuit."""
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
    """It says how often the call was sent, and what opened the circuit."""
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
    """Two tokens: two retries, then the failure itself; an answered call pays back."""
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
    """Calls that are repeated because their process died are free."""
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


async def test_one_push_back_quiets_every_caller():
    """429 with `Retry-After: 1` to the first of 50: no request arrives for a second, and all 50 are answered."""
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


async def test_a_push_back_that_does_not_fit_refuses_at_once():
    """A caller whose deadline is sooner than the end of the pause is told so; nothing is sent."""
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
    """100 calls a second asked of rate 20, burst 5: at most 5 + 20 * t arrive in any t seconds."""
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
                # What fell due while this busy machine stood still arrives together; one may be late on its way.
                assert j - i + 1 <= 5 + 20 * (times[j] - first + stall) + 1


async def test_a_tool_has_its_own_rate_limit():
    """One bucket a tool, beside the others; what does not fit the deadline is refused."""
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


async def test_what_was_taken_and_not_used_is_there_again():
    """A token of the tool's limit when the server's refuses; one of a call that no place, or its caller, let go."""
    limits = {"echo": ToolPolicy(rate_limit=RateLimit(rate=0.001, burst=3))}
    server = ScriptedHttp()
    tight = policy(rate_limit=RateLimit(rate=0.001, burst=1), tools=limits, timeout=TimeoutPolicy(total=2))
    async with server.serve(), client_of(server.url, tight) as client:
        await client.call_tool("echo", {"text": "x"})
        for _ in range(5):
            await fails(client, RateLimitExceeded)
        now = anyio.current_time()
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
        now = anyio.current_time()
        assert [client._gate._bucket.reserve(now, 0) for _ in range(4)] == [0, 0, 0, None]


async def test_a_cancelled_wait_gives_its_token_back():
    """Who stops waiting leaves the token to the next."""
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
    """An `isError` result that asked for another try, which the rate limit does not allow, is still the answer."""
    server = ScriptedHttp()
    async with (
        server.serve(),
        client_of(server.url, policy(QUICK, rate_limit=RateLimit(rate=0.001, burst=1))) as client,
    ):
        server.faults = [answer("temporarily unavailable", is_error=True)]
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "temporarily unavailable"


# --- the concurrency limit ---


async def test_so_many_run_and_so_many_wait():
    """Two run, one waits, the fourth is refused; a place that gets free is given on."""
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
            assert "2 calls run" in str(error)
            assert "1 wait" in str(error)
            with anyio.fail_after(5):
                while len(server.calls) < 2:
                    await anyio.sleep(0.01)
            assert len(server.calls) == 2
            server.release.set()
        assert sorted(answers) == ["a", "b", "c"]


async def test_waiting_for_a_place_ends_with_the_deadline():
    """And says what was waited for; the place in the queue is free again."""
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


async def test_a_tool_that_refuses_everything_says_so():
    """From the third refusal in a row the model is told, in front of the answer; a success resets it."""
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
    """A server of nobody's calls is pinged; an error is a sign of life, too."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT), on_event=events) as client:
        with anyio.fail_after(10):
            while server.requests["ping"] < 3:
                await anyio.sleep(0.01)
        assert client.generation == 1


async def test_two_misses_end_a_connection():
    """The next generation is ready before the next call."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT), on_event=events) as client:
        server.ping_faults = [Faults.hang(server)] * 2
        await events.wait_for(Connected, 2)
        assert client.state is State.READY
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_refused_credentials_are_an_answer():
    """Somebody is there, and the credentials may be right again before the next call."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT)) as client:
        server.ping_faults = [Faults.status(401), Faults.status(403)] * 4
        with anyio.fail_after(10):
            while server.ping_faults:
                await anyio.sleep(0.01)
        assert client.generation == 1
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_checks_are_spread_out():
    """Two hundred clients that were idle since the same moment do not ask in the same moment."""
    waits = {round(_spread(30), 3) for _ in range(200)}
    assert len(waits) > 100
    assert 27 <= min(waits) <= max(waits) <= 33


async def test_a_lost_session_is_found_by_a_health_check():
    """At the first miss, for a session that the server does not know is lost."""
    server, events = ScriptedHttp(), Recorder()
    async with server.serve(), client_of(server.url, policy(health=IMPATIENT), on_event=events):
        server.forget_sessions()
        await events.wait_for(Connected, 2)


async def test_a_modern_server_is_asked_to_discover():
    """At 2026-07-28 there is no ping; on mcp 1.x there is nothing else."""
    async with http_server() as server:
        async with ResilientClient(server.url, policy=policy(health=IMPATIENT)) as client:
            for _ in range(3):
                await client._health._is_alive(client._supervisor.ready)
            server.kill()
            assert not await client._health._is_alive(client._supervisor.ready)


async def test_an_idle_process_is_never_pinged():
    """It speaks for itself: its exit is seen."""
    async with ScriptedStdioServer() as server:
        async with client_of(server.parameters, policy(health=IMPATIENT)):
            await anyio.sleep(0.5)
        assert "ping" not in [request.method for request in server.requests]

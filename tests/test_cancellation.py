"""A call can be interrupted at any moment: it gives back what it took, and its caller learns what really happened.

Each test makes the same call repeatedly, through rate limit, concurrency limit, circuit and retry budget. It lets
the event loop run 0, 1, 2, ... steps, interrupts the call, waits until the loop is idle, and compares what the
client holds and what the caller got with what the server saw. It is done when the call ends before its
interruption. `CANCELLATION_STEPS=all pytest tests/test_cancellation.py` runs every number of steps.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
import sniffio
from mcp import StdioServerParameters

from resilient_mcp import (
    BreakerState,
    BudgetPolicy,
    CircuitOpen,
    Concurrency,
    Policy,
    RateLimit,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    ServerUnavailable,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.requests import PING
from resilient_mcp._sdk.results import is_error_result
from resilient_mcp.connection.generation import Connection
from resilient_mcp.event_loop import clock
from resilient_mcp.strategies.budget import RetryBudget
from resilient_mcp.strategies.concurrency import Bulkhead
from resilient_mcp.strategies.rate_limit import TokenBucket

from .support import LEGACY, Faults, ScriptedHttp, nothing_left, reply, text_of

ALL = os.environ.get("CANCELLATION_STEPS") == "all"
REPEATABLE, ONCE = "echo", "unsafe"
# Tokens are not refilled while a test runs, so that the missing ones can be counted.
LIMIT = RateLimit(rate=1e-6, burst=20)
BUDGET = BudgetPolicy(tokens=20, refund=0)
POLICY = Policy(
    retry=RetryPolicy(base=0.002, throttled_base=0.002),
    budget=BUDGET,
    rate_limit=LIMIT,
    concurrency=Concurrency(limit=1, queue=5),
    restart=RestartPolicy(base=0.001, max_delay=0.005, intensity=10_000),
    timeout=TimeoutPolicy(attempt=10, ready=10, connect=10, total=30, shutdown=2),
    tools={"*": ToolPolicy(rate_limit=LIMIT)},
)
# Seconds that a call waits for its token, in the rate-limit scenarios.
TOKEN_WAIT = 0.0025
# Seconds within which a call ends after it was cancelled or its client was closed.
PROMPTLY = 1.0
# Every number of steps is run up to this one, then every third.
EACH = 20
# A test stops after this many faults.
ENOUGH = 20
CANCELLED = "cancelled"
TRY_AGAIN = "temporarily unavailable: try again"


# --- the event loop ---

# This many idle turns of the event loop count as one step.
_IDLE = 50


class _Asyncio:
    """The steps of asyncio's loop: turns in which something besides the counting task ran."""

    def __init__(self) -> None:
        self._ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]

    async def step(self) -> None:
        for _ in range(_IDLE):
            if self._ready:
                break
            await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def rest(self) -> None:
        """Wait until every task waits for a timer or for another process."""
        idle = 0
        while idle < 3:  # a write to a socket wakes a reader in this process one turn later
            idle = 0 if self._ready else idle + 1
            await asyncio.sleep(0)


class _Trio:
    """The same for trio."""

    def __init__(self) -> None:
        import trio.testing

        self._trio = trio
        self._ran = 0
        self._own = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)  # it ends with the test's loop

    def before_task_step(self, task: Any) -> None:
        self._ran += task is not self._own

    async def step(self) -> None:
        ran = self._ran
        for _ in range(_IDLE):
            await self._trio.lowlevel.checkpoint()
            if self._ran != ran:
                break

    async def rest(self) -> None:
        await self._trio.testing.wait_all_tasks_blocked()


def event_loop() -> Any:
    return _Asyncio() if sniffio.current_async_library() == "asyncio" else _Trio()


# --- servers that count ---


class HttpServer(ScriptedHttp):
    """Counts the calls that it receives and executes, and the POSTs that begin and end."""

    def __init__(self, *, sse: bool = False) -> None:
        super().__init__(sse=sse)
        self.arrived: Counter[str] = Counter()
        self.executed: Counter[str] = Counter()
        self.begun = self.whole = 0
        self.port = 0
        self.listening: anyio.CancelScope | None = None
        self._tasks: Any = None

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[HttpServer]:
        async with anyio.create_task_group() as self._tasks:
            await self.up()
            yield self
            self._tasks.cancel_scope.cancel()

    async def up(self) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.listening = anyio.CancelScope()
        self._tasks.start_soon(self._listen, listener, self.listening)

    def come_up(self) -> None:
        """Run `up` in the background."""
        self._tasks.start_soon(self.up)

    def down(self) -> None:
        """Close the port and all connections."""
        assert self.listening is not None
        self.listening.cancel()
        self.listening = None

    async def _listen(self, listener: Any, scope: anyio.CancelScope) -> None:
        with scope:
            async with listener:
                await listener.serve(self._connection)

    async def _connection(self, stream: Any) -> None:
        await super()._connection(_Tap(stream, self))

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        message = json.loads(body) if verb == "POST" else {}
        self.whole += verb == "POST"
        if message.get("method") == "tools/call":
            key = message["params"]["arguments"]["text"]
            is_known = headers.get("mcp-session-id") == f"session-{self.session}"
            self.arrived[key] += 1
            self.executed[key] += is_known and not (self.faults and getattr(self.faults[0], "refuses", False))
        return await super()._exchange(stream, verb, path, headers, body)


class _Tap:
    """A stream that counts the requests begun on it."""

    def __init__(self, inner: Any, server: HttpServer) -> None:
        self._inner = inner
        self._server = server
        self.extra, self.send = inner.extra, inner.send

    async def receive(self) -> bytes:
        data = await self._inner.receive()
        self._server.begun += data.count(b"POST /")
        return data

    async def __aenter__(self) -> _Tap:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._inner.aclose()


def refusal(fault: Any) -> Any:
    """Mark a fault as one that answers a call without executing it."""
    fault.refuses = True
    return fault


def answered_by(text: str, *, is_error: bool = False, when: anyio.Event | None = None) -> Any:
    """A fault that answers with the result `text`, once `when` is set."""

    async def fault(stream: Any, request_id: Any) -> bool:
        if when is not None:
            await when.wait()
        result = {"content": [{"type": "text", "text": text}], "isError": is_error}
        await reply(stream, 200, json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode())
        return True

    return fault


_STDIO_SERVER = """
import json, os, sys
journal = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for line in sys.stdin.buffer:
    message = json.loads(line)
    method, params = message["method"], message.get("params", {})
    if "id" not in message:
        continue
    if method == "initialize":
        info = {"name": "counting", "version": "1"}
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = {"tools": [{"name": "unsafe", "inputSchema": {"type": "object"}}]}
    elif method == "tools/call":
        text = params["arguments"]["text"]
        os.write(journal, text.encode() + b"\\n")
        result = {"content": [{"type": "text", "text": text}]}
    else:
        result = {}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\\n")
    sys.stdout.flush()
"""


class StdioServer:
    """A process that records each call that it receives, and executes it immediately."""

    begun = whole = 0  # counts whole requests only
    faults: ClassVar[list[Any]] = []

    def __init__(self, journal: Path) -> None:
        self.release = anyio.Event()
        journal.touch()
        self._journal = journal
        self.url = StdioServerParameters(
            command=sys.executable, args=["-I", "-S", "-c", _STDIO_SERVER, str(journal)], cwd=journal.parent
        )

    @property
    def arrived(self) -> Counter[str]:
        return Counter(self._journal.read_text().split())

    executed = arrived


# --- one call ---


class Run:
    """One call that is interrupted, and the calls made at the same time.

    Attributes:
        ended: By caller name: set when that caller is done.
        outcomes: By caller name: what it got: a result, an exception, or `CANCELLED`.
        begun: How many POSTs had begun on the server before this run.
        whole: How many of them the server had received completely.
    """

    def __init__(self, client: ResilientClient, server: Any, loop: Any, number: int, scenario: Scenario) -> None:
        self.client = client
        self.server = server
        self.scenario = scenario
        self.loop = loop
        self.number = number
        self.began = clock.now()
        self.ended = {name: anyio.Event() for name in ("call", *scenario.beside)}
        self.outcomes: dict[str, Any] = {}
        self.begun, self.whole = server.begun, server.whole
        self.refill()
        client._gate._budget = RetryBudget(BUDGET)
        client._gate._bulkhead = Bulkhead(scenario.limit, 5)
        assert client.circuit is not None
        client.circuit.reset()

    def refill(self) -> None:
        """Refill the token buckets."""
        self.client._gate._bucket = TokenBucket(LIMIT.rate, LIMIT.burst)
        self.client._gate._tool_buckets.clear()

    def key(self, name: str) -> str:
        return f"{self.number}-{name}"

    async def call(self, name: str, tool: str = ONCE) -> None:
        try:
            self.outcomes[name] = await self.client.call_tool(tool, {"text": self.key(name)})
        except anyio.get_cancelled_exc_class():
            self.outcomes[name] = CANCELLED
            raise
        except Exception as exc:
            self.outcomes[name] = exc
        finally:
            self.ended[name].set()


@dataclass(frozen=True)
class Scenario:
    """What the call meets.

    Attributes:
        tool: The tool that is called.
        arrange: Run before the call.
        later: Run `when` steps after the call began, or just before it is interrupted.
        when: The step at which `later` runs.
        most: The largest number of steps to run, where the call never ends by itself.
        shutdown: `TimeoutPolicy.shutdown`: how long a restart waits for calls in flight.
        sse: Whether the response is an event stream.
        stdio: Whether the server is a process.
        beside: Other calls: "holder" starts before this one, "behind" after it, "another" when it is interrupted.
        limit: How many calls may run concurrently.
    """

    tool: str = ONCE
    arrange: Callable[[Run, Any], Awaitable[None]] | None = None
    later: Callable[[Run], None] = lambda run: None
    when: int = 6
    most: int | None = None
    shutdown: float = 2
    sse: bool = False
    stdio: bool = False
    beside: tuple[str, ...] = ()
    limit: int = 1


async def _token_falls_due_later(run: Run, _tg: Any) -> None:
    run.client._gate._bucket = bucket = TokenBucket(LIMIT.rate, 1)
    due = run.began + TOKEN_WAIT
    assert bucket.reserve(due - 1 / LIMIT.rate, 0) == 0  # taken so long ago that the next token is due in a moment


async def _server_pushed_back(run: Run, _tg: Any) -> None:
    run.client._gate._bucket.pause(run.began + TOKEN_WAIT)


def _it_pushes_back_again(run: Run) -> None:
    run.client._gate._bucket.pause(run.began + 2 * TOKEN_WAIT)


async def _another_call_runs(run: Run, tg: Any) -> None:
    server = run.server
    server.release = anyio.Event()
    server.faults.append(answered_by(run.key("holder"), when=server.release))
    tg.start_soon(run.call, "holder")
    await run.loop.rest()
    assert server.arrived[run.key("holder")] == 1


def _it_is_answered(run: Run) -> None:
    run.server.release.set()


async def _circuit_is_half_open(run: Run, _tg: Any) -> None:
    breaker = run.client._gate._breaker
    assert breaker is not None
    breaker._open(clock.now())
    breaker.hint(clock.now())


async def _trial_is_not_answered(run: Run, tg: Any) -> None:
    await _circuit_is_half_open(run, tg)
    server = run.server
    server.release = anyio.Event()
    hang, answer, session = Faults.hang(server), answered_by(run.key("call")), server.session

    async def fault(stream: Any, request_id: Any) -> bool:
        return await (hang if server.session == session else answer)(stream, request_id)

    server.faults.append(fault)


async def _server_is_down(run: Run, _tg: Any) -> None:
    run.server.down()
    await run.loop.rest()


async def _session_is_lost(run: Run, _tg: Any) -> None:
    run.server.forget_sessions()


def _answered_first(fault: Any) -> Callable[[Run, Any], Awaitable[None]]:
    async def arrange(run: Run, _tg: Any) -> None:
        run.server.faults.append(fault)

    return arrange


SCENARIOS = {
    "JSON": Scenario(),
    "SSE": Scenario(sse=True),
    "stdio": Scenario(stdio=True),
    "rate limit": Scenario(arrange=_token_falls_due_later),
    "push-back": Scenario(arrange=_server_pushed_back, later=_it_pushes_back_again, when=3),
    "queue": Scenario(arrange=_another_call_runs, later=_it_is_answered, beside=("holder", "behind")),
    "other calls": Scenario(arrange=_another_call_runs, later=_it_is_answered, beside=("holder", "another"), limit=3),
    "half-open circuit": Scenario(arrange=_circuit_is_half_open),
    "silent server": Scenario(arrange=_trial_is_not_answered, most=12, shutdown=0.05),
    "429": Scenario(arrange=_answered_first(refusal(Faults.status(429)))),
    "500": Scenario(REPEATABLE, arrange=_answered_first(Faults.status(500))),
    "500, once": Scenario(arrange=_answered_first(Faults.status(500))),
    "isError": Scenario(REPEATABLE, arrange=_answered_first(answered_by(TRY_AGAIN, is_error=True))),
    "connection refused": Scenario(arrange=_server_is_down, later=lambda run: run.server.come_up()),
    "session lost": Scenario(arrange=_session_is_lost),
}


# --- the interruption ---

SCOPE, NATIVE, ACLOSE, RESTART = "cancel scope", "native cancellation", "aclose()", "restart()"


async def launch(run: Run, tool: str, interrupt: str, tg: Any) -> Callable[[], object]:
    """Start the call.

    Returns:
        A function that cancels it.
    """
    if interrupt == NATIVE and sniffio.current_async_library() == "asyncio":
        task = asyncio.get_running_loop().create_task(run.call("call", tool))

        def end(_: object) -> None:
            if not run.ended["call"].is_set():  # cancelled before its first step
                run.outcomes["call"] = CANCELLED
                run.ended["call"].set()

        task.add_done_callback(end)
        return task.cancel
    if interrupt == NATIVE:
        import trio

        async def in_nursery(*, task_status: Any) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run.call, "call", tool)
                task_status.started(nursery.cancel_scope)

        return (await tg.start(in_nursery)).cancel
    scope = anyio.CancelScope()

    async def in_scope() -> None:
        with scope:
            await run.call("call", tool)

    tg.start_soon(in_scope)
    return scope.cancel


async def _a_moment_later(run: Run) -> None:
    for _ in range(run.number % 20):
        await anyio.lowlevel.checkpoint()
    await run.call("another")


class Bench:
    """Makes the call of one scenario repeatedly, and interrupts it in one way.

    Attributes:
        wrong: The faults that were found.
        runs: How many times the call was made.
    """

    def __init__(self, scenario: str, interrupt: str, server: Any) -> None:
        self.name = scenario
        self.scenario = SCENARIOS[scenario]
        self.interrupt = interrupt
        self.server = server
        self.loop = event_loop()
        timeout = POLICY.timeout.model_copy(update={"shutdown": self.scenario.shutdown})
        self.policy = POLICY.model_copy(update={"timeout": timeout})
        self.client: ResilientClient | None = None
        self.wrong: list[str] = []
        self.runs = 0

    async def fuzz(self) -> None:
        """Interrupt the call after 0, 1, 2, ... steps, until it ends by itself first."""
        steps, over, most = 0, False, self.scenario.most or 3000
        try:
            while not over and steps < most and (ALL or len(self.wrong) < ENOUGH):
                over, found = await self._run(steps)
                self.wrong += [f"{self.name}, {self.interrupt} after {steps} steps: {what}" for what in found]
                if found or self.interrupt == ACLOSE:
                    await self._close()
                self.runs += 1
                steps += 1 if ALL or steps < EACH else 3
        finally:
            await self._close()
        assert over or self.scenario.most or self.wrong

    async def _close(self) -> None:
        if self.client is not None:
            await self.client.aclose()
            self.client = None

    async def _connected(self) -> Connection:
        if self.client is None:
            self.client = ResilientClient(self.server.url, name="counting", policy=self.policy, **LEGACY)
            await self.client.start()
        connection = await self.client._supervisor.wait_ready(anyio.current_time() + 10)
        await self.client._catalog.wait_listed(connection, anyio.current_time() + PROMPTLY)
        await self.loop.rest()
        return connection

    async def _run(self, steps: int) -> tuple[bool, list[str]]:
        """Make the call and interrupt it after `steps` steps.

        Returns:
            Whether it ended before that, and the faults found.
        """
        connections = [await self._connected()]
        assert self.client is not None
        run = Run(self.client, self.server, self.loop, self.runs, self.scenario)
        async with anyio.create_task_group() as tg:
            over, found = await self._interrupt(run, steps, tg)
            tg.cancel_scope.cancel()
        self.server.release.set()
        await self.loop.rest()
        closed = self.interrupt == ACLOSE and not over
        if not closed:
            connections.append(await self._connected())
        if self.scenario.stdio and not closed:  # once this is answered, the process has read everything before it
            await connections[-1].call(PING, timeout=5)
        found += self._contradicted(run)
        found += self._still_taken(run, connections)
        self.server.faults.clear()
        found += await self._next(run, closed=closed)
        return over, found

    async def _interrupt(self, run: Run, steps: int, tg: Any) -> tuple[bool, list[str]]:
        """Make the call and those alongside it, interrupt it, and wait for all of them to end."""
        scenario, call = run.scenario, run.ended["call"]
        if scenario.arrange is not None:
            await scenario.arrange(run, tg)
        cancel = await launch(run, scenario.tool, self.interrupt, tg)
        if "behind" in scenario.beside:
            tg.start_soon(run.call, "behind")
        for step in range(steps):
            if step == scenario.when:
                scenario.later(run)
            if not call.is_set():
                await self.loop.step()
        over = call.is_set()
        if steps <= scenario.when:
            scenario.later(run)
        if "another" in scenario.beside:
            tg.start_soon(_a_moment_later, run)
        found, may_be_cancelled = [], False
        began, limit = anyio.current_time(), 5 if self.interrupt == RESTART else PROMPTLY
        try:
            if not over and self.interrupt == ACLOSE:
                await run.client.aclose()
            elif not over and self.interrupt == RESTART:
                await run.client.restart()
            elif not over:
                may_be_cancelled = True
                found += await self._cancel(run, cancel)
        except Exception as exc:
            found.append(f"{self.interrupt} raised {exc!r}")
        if (elapsed := anyio.current_time() - began) > limit:
            found.append(f"{self.interrupt} took {elapsed:.1f} s")
        with anyio.CancelScope(deadline=began + limit):
            for ended in run.ended.values():
                await ended.wait()
        for name, ended in run.ended.items():
            if not ended.is_set():
                found.append(f"{name} does not end")
            elif run.outcomes[name] == CANCELLED and not (name == "call" and may_be_cancelled):
                found.append(f"{name} was cancelled, though it was not interrupted")
        return over, found

    async def _cancel(self, run: Run, cancel: Callable[[], object]) -> list[str]:
        """Cancel the call.

        In a cancelled scope it may still end by itself, but only in its very next step. `Task.cancel()` always takes
        effect, except on Python 3.10, where `anyio.connect_tcp` loses one that comes as it connects.
        """
        cancel()
        for _ in range(2):
            await anyio.lowlevel.checkpoint()
        at_once = run.ended["call"].is_set()
        with anyio.move_on_after(PROMPTLY):
            await run.ended["call"].wait()
        outcome = run.outcomes.get("call", CANCELLED)
        native = self.interrupt == NATIVE and sniffio.current_async_library() == "asyncio"
        if native and sys.version_info < (3, 11):
            return []
        missed = outcome != CANCELLED and (native or not at_once)
        return [f"it was not cancelled, but got {outcome!r}"] if missed else []

    def _contradicted(self, run: Run) -> Iterator[str]:
        """Yield what callers got that contradicts what the server saw."""
        for name, outcome in run.outcomes.items():
            key, tool = run.key(name), self.scenario.tool if name == "call" else ONCE
            received, executed = self.server.arrived[key], self.server.executed[key]
            said = f"{name} got {outcome!r}; the server received it {received} times, and executed it {executed} times"
            for what in contradictions(tool, key, outcome, received, executed):
                yield f"{what}: {said}"

    def _still_taken(self, run: Run, connections: list[Connection]) -> Iterator[str]:
        """Yield what the calls took and did not give back."""
        gate, client, server = run.client._gate, run.client, self.server
        requests = {name: server.arrived[run.key(name)] for name in run.ended}
        received = sum(requests.values())
        cut = (server.begun - run.begun) - (server.whole - run.whole)
        saw = f"the server received {received}" + (f" and {cut} more in part" if cut else "")
        burst = 1 if self.scenario.arrange is _token_falls_due_later else LIMIT.burst
        limits = {"server": (gate._bucket, burst), "tool": (gate._tool_buckets.get(self.scenario.tool), LIMIT.burst)}
        for name, (bucket, most) in limits.items():
            tokens = 0 if bucket is None else most - left_in(bucket, run.began)
            if not received <= tokens <= received + cut:
                yield f"{tokens} tokens of the {name}'s rate limit are taken: {saw}"
        assert gate._budget is not None
        spent = BUDGET.tokens - gate._budget.tokens
        retries = max(0, requests["call"] - 1)
        if not 0 <= spent <= retries + cut:
            yield f"{spent:g} of the budget is spent: the server received {retries} retries"
        bulkhead, breaker = gate._bulkhead, gate._breaker
        assert bulkhead is not None
        assert breaker is not None
        if bulkhead.running or bulkhead.waiting or gate._woken:
            yield f"{bulkhead.running} slots are taken, {bulkhead.waiting} calls wait, {len(gate._woken)} are woken"
        if breaker._trial is not None:
            yield "the circuit still waits for its trial"
        if breaker.state is BreakerState.OPEN:
            yield f"the circuit is open: {gate._reason}"
        if client._stats.running:
            yield f"{client._stats.running} calls are counted as running"
        for connection in connections:
            if connection._attempts or connection.in_flight._attempts:
                yield (
                    f"connection {connection.generation} has {len(connection._attempts)} attempts, and "
                    f"{list(connection.in_flight._attempts)} in flight"
                )

    async def _next(self, run: Run, *, closed: bool) -> list[str]:
        """Make one more call: it must be answered, or refused because the client is closed."""
        run.ended["next"] = anyio.Event()
        run.refill()
        with anyio.move_on_after(PROMPTLY):
            await run.call("next")
        outcome, key = run.outcomes["next"], run.key("next")
        if closed:
            right = isinstance(outcome, ServerUnavailable | CircuitOpen) and not self.server.arrived[key]
        else:
            right = not isinstance(outcome, Exception) and outcome != CANCELLED and text_of(outcome) == key
        found = [] if right else [f"the next call ends with {outcome!r}"]
        state = run.client.circuit.state if run.client.circuit is not None else None
        if not closed and state is not BreakerState.CLOSED:
            found.append(f"the circuit is {state} after the next call")
        return found


def left_in(bucket: TokenBucket, began: float) -> int:
    """How many tokens a bucket holds just after the run began."""
    bucket = copy.deepcopy(bucket)
    left = 0
    while bucket.reserve(began + 60, 1) is not None:
        left += 1
    return left


def contradictions(tool: str, key: str, outcome: Any, received: int, executed: int) -> Iterator[str]:
    """Yield how the caller's outcome contradicts what its server saw."""
    if tool == ONCE and executed > 1:
        yield "it was executed twice"
    if outcome == CANCELLED:
        return
    if not isinstance(outcome, Exception):
        if not executed:
            yield "it was answered and not executed"
        if text_of(outcome) not in {key, TRY_AGAIN} or (text_of(outcome) == TRY_AGAIN) != is_error_result(outcome):
            yield "it got the wrong answer"
        return
    if not isinstance(outcome, ResilienceError):
        yield "neither the server nor this library raises that"
        return
    text = f"{outcome} {outcome.advice}"
    if executed and (not outcome.may_have_run or "not run" in text):
        yield "it is said not to have run"
    if received and ("Nothing was sent" in text or not outcome.attempts):
        yield "it is said not to have been sent"
    if received > outcome.attempts:
        yield f"it is said to have been sent {outcome.attempts} times"


@asynccontextmanager
async def served(scenario: Scenario, tmp_path: Path) -> AsyncIterator[Any]:
    if scenario.stdio:
        yield StdioServer(tmp_path / "journal")
    else:
        async with HttpServer(sse=scenario.sse).serve() as server:
            yield server


async def assert_nothing_is_wrong(scenario: str, interrupt: str, tmp_path: Path) -> None:
    async with nothing_left(), served(SCENARIOS[scenario], tmp_path) as server:
        bench = Bench(scenario, interrupt, server)
        await bench.fuzz()
    assert not bench.wrong, f"{len(bench.wrong)} faults in {bench.runs} runs:\n" + "\n".join(bench.wrong)


each_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


@each_scenario
@pytest.mark.timeout(60)
@pytest.mark.anyio
async def test_a_cancel_scope_ends_the_call(scenario: str, tmp_path: Path):
    """A call whose cancel scope is cancelled at any moment ends, and gives back what it did not use."""
    await assert_nothing_is_wrong(scenario, SCOPE, tmp_path)


@each_scenario
@pytest.mark.timeout(60)
@pytest.mark.anyio
async def test_a_native_cancellation_ends_the_call(scenario: str, tmp_path: Path):
    """A call whose task or nursery is cancelled at any moment ends, and gives back what it did not use."""
    await assert_nothing_is_wrong(scenario, NATIVE, tmp_path)


@each_scenario
@pytest.mark.timeout(60)
@pytest.mark.anyio
async def test_closing_the_client_ends_the_call(scenario: str, tmp_path: Path):
    """A call whose client is closed at any moment ends within a second, and its caller learns whether it ran."""
    await assert_nothing_is_wrong(scenario, ACLOSE, tmp_path)


@each_scenario
@pytest.mark.timeout(60)
@pytest.mark.anyio
async def test_the_call_survives_a_restart(scenario: str, tmp_path: Path):
    """A call whose connection is replaced at any moment ends with the true outcome, and the next call is answered."""
    await assert_nothing_is_wrong(scenario, RESTART, tmp_path)

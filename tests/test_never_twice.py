"""Nothing is done twice that must be done once: servers that count, under faults that a seed draws.

`NEVER_TWICE_SEED=7 pytest tests/test_never_twice.py` draws others; the seed is in each test's id.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resilient_mcp import (
    ConnectionLost,
    Policy,
    ResilienceError,
    ResilientClient,
    RestartPolicy,
    RetryPolicy,
    ServerUnavailable,
    TimeoutPolicy,
    ToolPolicy,
    _sdk,
)
from resilient_mcp.catalog import Catalog
from resilient_mcp.classifier import Classifier
from resilient_mcp.connection import Connection, Failed
from resilient_mcp.events import Hub
from resilient_mcp.evidence import Delivery, Evidence, InFlight, Kind, current_attempt
from resilient_mcp.executor import Executor
from resilient_mcp.gate import Gate
from resilient_mcp.operation import Operation
from resilient_mcp.supervisor import Supervisor

from .servers.counting_server import BUSY, ONCE, REPEATABLE, fate
from .support import LEGACY, Faults, HttpServer, ScriptedHttp, every_pair, in_turn, nothing_left, reply, reset, text_of
from .support import _stdio as stdio_server

SEED = int(os.environ.get("NEVER_TWICE_SEED", "20251125"))
seeded = pytest.mark.parametrize("seed", [SEED], ids="seed={}".format)
HARD = Policy(
    breaker=None,
    budget=None,
    retry=RetryPolicy(attempts=60, base=0.005, throttled_base=0.005, max_delay=0.05),
    restart=RestartPolicy(base=0.01, max_delay=0.05, intensity=10_000),
    timeout=TimeoutPolicy(attempt=0.7, ready=45, connect=10, total=60, shutdown=1),
)
CALLERS = 20
SERVERS_OWN = (-32603, -32602)
"""The JSON-RPC errors that the servers below send: any other that a caller gets must be one of the library's."""


@dataclass
class Ledger:
    """What callers were told, to be compared with what the server did."""

    seed: int
    told: dict[str, Any] = field(default_factory=dict)

    async def ask(self, client: ResilientClient, calls: int) -> None:
        """Make `calls` calls from 20 callers at once, each with a key of its own, and note each outcome."""
        rng = random.Random(self.seed)
        keys = iter([f"{rng.choice([REPEATABLE, ONCE])}-{n}" for n in range(calls)])

        async def caller() -> None:
            for key in keys:
                try:
                    with anyio.fail_after(HARD.timeout.total + 15):
                        self.told[key] = await client.call_tool(key.split("-")[0], {"text": key})
                except _sdk.MCPError as error:
                    self.told[key] = error
                except TimeoutError:
                    self.told[key] = None

        async with anyio.create_task_group() as tg:
            for _ in range(CALLERS):
                tg.start_soon(caller)
        assert len(self.told) == calls

    def compare(self, ran: Counter[str], taken: Counter[str]) -> None:
        """Compare with how often each key was executed, and how often it was taken and not provably refused."""
        wrong = []
        for key, outcome in self.told.items():
            answered = not isinstance(outcome, Exception)
            if outcome is None:
                wrong.append(f"{key} had no outcome")
            elif key.startswith(REPEATABLE):
                if not answered or text_of(outcome) != key or not ran[key]:
                    wrong.append(f"{key} was not answered right: {outcome!r}")
            elif ran[key] > 1 or taken[key] > 1:
                wrong.append(f"{key} was taken {taken[key]} times, executed {ran[key]} times, told: {outcome!r}")
            elif answered and not (ran[key] == 1 and (text_of(outcome) == key or BUSY in text_of(outcome))):
                wrong.append(f"{key} was executed {ran[key]} times, and answered {text_of(outcome)}")
            elif not answered and not isinstance(outcome, ResilienceError) and outcome.error.code not in SERVERS_OWN:
                wrong.append(f"{key} was told an error that the server never sent: {outcome!r}")
            elif not answered and _says_not_run(outcome) and ran[key]:
                wrong.append(f"{key} was executed, and the caller was told that it was not: {outcome!r}")
        assert not wrong, f"seed {self.seed}, {len(wrong)} wrong: " + "\n".join(wrong[:10])
        assert not ran.keys() - self.told.keys()

    def assert_that_it_was_hard(self, ran: Counter[str]) -> None:
        """The faults did happen: answers were lost on both kinds of tools, before and after they were executed."""
        lost = [key for key, outcome in self.told.items() if isinstance(outcome, ConnectionLost)]
        assert any(ran[key] for key in lost)
        assert not all(ran[key] for key in lost)
        assert any(count > 1 for count in ran.values())


def _says_not_run(error: Any) -> bool:
    verdict = getattr(error, "verdict", None)
    return isinstance(error, ServerUnavailable) or (verdict is not None and verdict.safe)


def read_journal(path: Path) -> tuple[Counter[str], Counter[str], int]:
    """How often each key was executed and received, and how often the server was started."""
    words: dict[str, Counter[str]] = {"ran": Counter(), "received": Counter(), "started": Counter()}
    for line in path.read_text().splitlines():
        word, key = line.split(" ")
        words[word][key] += 1
    return words["ran"], words["received"], words["started"].total()


# --- stdio -----------------------------------------------------------------------------------------------------------


@seeded
@pytest.mark.timeout(180)  # seconds of work, and more on a busy machine
@pytest.mark.anyio
async def test_on_stdio_nothing_is_done_twice(seed: int, tmp_path: Path):
    """600 calls of a server that is killed before, after and while it answers, mute, noisy, or dead after its start."""
    ledger = Ledger(seed)
    server = stdio_server(
        "tests.servers.counting_server", ("raw", "--journal", str(tmp_path / "journal"), "--seed", str(seed)), None
    )
    async with nothing_left(), ResilientClient(server, policy=HARD, **LEGACY) as client:
        await ledger.ask(client, 600)
    ran, received, started = read_journal(tmp_path / "journal")
    ledger.compare(ran, received)
    ledger.assert_that_it_was_hard(ran)
    assert started > 10


@seeded
@pytest.mark.timeout(180)  # seconds of work, and more on a busy machine
@pytest.mark.anyio
@in_turn
async def test_on_the_sdks_stdio_server_nothing_is_done_twice(seed: int, tmp_path: Path):
    """100 calls of the SDK's own server, in the era that it negotiates by itself, killed before and after it ran."""
    ledger = Ledger(seed)
    server = stdio_server(
        "tests.servers.counting_server", ("stdio", "--journal", str(tmp_path / "journal"), "--seed", str(seed)), None
    )
    async with nothing_left(), ResilientClient(server, policy=HARD) as client:
        await ledger.ask(client, 100)
    ran, received, started = read_journal(tmp_path / "journal")
    ledger.compare(ran, received)
    assert started > 1


# --- HTTP ------------------------------------------------------------------------------------------------------------

REFUSALS = {"429": 0.03, "503": 0.03, "503 bare": 0.02, "forget": 0.01}
"""Answered, and not run."""
LOSSES = ("500", "502", "504", "-32603", "reset", "close", "JSON cut", "SSE cut", "SSE primed", "crash", "slow")
"""Each happens before the key is executed or after."""
HTTP_FATES = {
    **REFUSALS,
    **{
        f"{loss} {when}": 0.003 if loss in ("slow", "crash") else 0.008
        for loss in LOSSES
        for when in ("before", "after")
    },
    "bad answer": 0.02,
    "refused": 0.02,
    "busy": 0.02,
    "answer and reset": 0.02,
}


class CountingHttp(ScriptedHttp):
    """Executes keys and counts; what else happens to a key is drawn from the seed. A crash takes every connection."""

    def __init__(self, seed: int, *, sse: bool) -> None:
        super().__init__(sse=sse)
        self.seed = seed
        self.received: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.ran: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self.busy = 0
        self._streams: set[Any] = set()
        self._crash = anyio.Event()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[CountingHttp]:
        async with anyio.create_task_group() as tg:
            await tg.start(self._lives)
            yield self
            with anyio.fail_after(5):  # what was delayed past its caller's patience is executed late
                while self.busy:
                    await anyio.sleep(0.01)
            tg.cancel_scope.cancel()

    async def _lives(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        port = 0
        while True:
            self._crash = anyio.Event()
            with socket.create_server(("127.0.0.1", port), backlog=100) as listener:
                listener.setblocking(False)
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._accept, listener, tg)
                    if not port:
                        port = listener.getsockname()[1]
                        self.url = f"http://127.0.0.1:{port}/mcp"
                        task_status.started()
                    await self._crash.wait()
                    for stream in self._streams:
                        with suppress(OSError):  # one that is being closed
                            reset(stream)
                    tg.cancel_scope.cancel()
            self.forget_sessions()
            await anyio.sleep(0.03)  # connections are refused

    async def _accept(self, listener: socket.socket, tg: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            with suppress(BlockingIOError):
                accepted, _ = listener.accept()
                tg.start_soon(self._connection, await anyio.abc.SocketStream.from_socket(accepted))

    async def _connection(self, stream: Any) -> None:
        self._streams.add(stream)
        try:
            await super()._connection(stream)
        finally:
            self._streams.discard(stream)

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        message = json.loads(body) if verb == "POST" else {}
        session = headers.get("mcp-session-id")
        if message.get("method") != "tools/call" or session != f"session-{self.session}":
            return await super()._exchange(stream, verb, path, headers, body)
        self.busy += 1
        try:
            return await self._serve_call(stream, message["id"], message["params"]["arguments"]["text"])
        finally:
            self.busy -= 1

    async def _serve_call(self, stream: Any, request_id: Any, key: str) -> bool:
        self.received[key] += 1
        happens = fate(self.seed, key, self.received[key], HTTP_FATES)
        self.happened[happens] += 1
        if happens in REFUSALS:
            return await self._refuse(stream, request_id, happens)
        self.taken[key] += 1
        result = {"content": [{"type": "text", "text": key}], "isError": False}
        if happens == "refused":
            return await Faults.error(200, -32602, "no such key")(stream, request_id)
        if happens == "slow before":
            await anyio.sleep(HARD.timeout.attempt * 1.3)
        if not happens.endswith("before"):
            self.ran[key] += 1
        if happens == "slow after":
            await anyio.sleep(HARD.timeout.attempt * 1.3)
        if happens == "busy":
            result = {"content": [{"type": "text", "text": BUSY}], "isError": True}
        answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
        loss = happens.rpartition(" ")[0]
        if loss in LOSSES and loss != "slow":
            return await self._lose(stream, request_id, loss, answer)
        if happens == "slow before":
            return False
        if happens == "bad answer":
            kind = random.Random(f"{self.seed}/{key}").choice(["application/json", "text/html", "text/event-stream"])
            return await Faults.body(b"event: message\ndata: {nope\n\n", kind)(stream, request_id)
        if self.sse:
            await reply(stream, 200, b"data: " + answer + b"\n\n", {"content-type": "text/event-stream"})
        else:
            await reply(stream, 200, answer)
        if happens == "answer and reset":
            reset(stream)
            return False
        return True

    async def _refuse(self, stream: Any, request_id: Any, how: str) -> bool:
        if how == "forget":
            self.forget_sessions()
            return await Faults.error(404, -32600, "Session not found")(stream, request_id)
        headers = {} if how == "503 bare" else {"retry_after": "0"}
        return await Faults.status(int(how[:3]), b"not now", **headers)(stream, request_id)

    async def _lose(self, stream: Any, request_id: Any, how: str, answer: bytes) -> bool:
        if how.isdecimal():
            return await Faults.status(int(how))(stream, request_id)
        if how == "-32603":
            return await Faults.error(200, -32603, "out of order")(stream, request_id)
        if how == "JSON cut":
            return await Faults.cut(answer[:-9], "application/json", len(answer))(stream, request_id)
        if how == "SSE cut":
            return await Faults.cut(b"data: " + answer[:-9], "text/event-stream", len(answer))(stream, request_id)
        if how == "SSE primed":  # the SDK asks to resume it, which this server does not do
            body = b"id: 1\nretry: 5\ndata:\n\n"
            return await Faults.cut(body, "text/event-stream", len(body) + 1)(stream, request_id)
        if how == "reset":
            reset(stream)
        elif how == "crash":
            self._crash.set()
        return False


@seeded
@pytest.mark.timeout(180)  # seconds of work, and more on a busy machine
@pytest.mark.anyio
@every_pair("answers", ["json", "sse"])
async def test_on_http_nothing_is_done_twice(seed: int, answers: str):
    """600 calls of a server that refuses, loses and cuts answers, forgets sessions, crashes and is late."""
    ledger = Ledger(seed)
    server = CountingHttp(seed, sse=answers == "sse")
    async with nothing_left(), server.serve():
        async with ResilientClient(server.url, policy=HARD, **LEGACY) as client:
            await ledger.ask(client, 600)
    ledger.compare(server.ran, server.taken)
    ledger.assert_that_it_was_hard(server.ran)
    assert server.happened.keys() >= {"429", "forget"}
    assert len(server.happened) > len(HTTP_FATES) // 2
    assert server.requests["initialize"] > 2


@asynccontextmanager
async def _restarted(server: HttpServer) -> AsyncIterator[None]:
    """Start the server again whenever it died."""

    async def keep() -> None:
        while True:
            if server.process is None or server.process.poll() is not None:
                server.kill()
                server.start()
            await anyio.sleep(0.02)

    try:
        async with anyio.create_task_group() as tg:
            tg.start_soon(keep)
            await server.listening()
            yield
            tg.cancel_scope.cancel()
    finally:
        server.kill()


@seeded
@pytest.mark.timeout(180)  # seconds of work, and more on a busy machine
@pytest.mark.anyio
@in_turn
async def test_on_the_sdks_http_server_nothing_is_done_twice(seed: int, tmp_path: Path):
    """100 calls of the SDK's own server, in the era that it negotiates by itself, killed before and after it ran."""
    ledger = Ledger(seed)
    server = HttpServer()
    server._command = [
        sys.executable, "-m", "tests.servers.counting_server", "http", str(server.port),
        "--journal", str(tmp_path / "journal"), "--seed", str(seed),
    ]  # fmt: skip
    async with nothing_left(), _restarted(server):
        async with ResilientClient(server.url, policy=HARD) as client:
            await ledger.ask(client, 100)
    ran, received, started = read_journal(tmp_path / "journal")
    ledger.compare(ran, received)
    assert started > 1


# --- The rule itself, under virtual time -----------------------------------------------------------------------------

NO_SERVER = Failed(None, Evidence(Kind.NETWORK, Delivery.NOT_SENT, "refused"))
REJECTING = frozenset({400, 401, 403, 404, 405, 413, 429, 503})
"""HTTP statuses that prove that the request was not run."""
THROTTLED = 7
"""A JSON-RPC code that the policy says to mean that nothing was run."""
LIMIT = TimeoutPolicy(attempt=20, ready=30, connect=10, total=60)


@dataclass(frozen=True)
class Seen:
    """An edge saw the attempt fail, and answers in the server's stead."""

    evidence: Evidence

    @property
    def free(self) -> bool:
        return self.evidence.delivery is Delivery.NOT_SENT or self.lost_session

    @property
    def lost_session(self) -> bool:
        return self.evidence.http_status == 404 and self.evidence.session_id_sent

    @property
    def may_have_run(self) -> bool:
        status = self.evidence.http_status
        return self.evidence.delivery is Delivery.UNKNOWN if status is None else status not in REJECTING


@dataclass(frozen=True)
class Gone:
    """The connection ends while the attempt waits: before its request was sent, or after; the SDK says so first."""

    sent: bool
    sdk_first: bool

    @property
    def free(self) -> bool:
        return not self.sent

    @property
    def may_have_run(self) -> bool:
        return self.sent


@dataclass(frozen=True)
class Silence:
    """No answer comes, or only after `seconds`."""

    sent: bool
    seconds: float

    @property
    def free(self) -> bool:
        return not self.sent

    @property
    def may_have_run(self) -> bool:
        return self.sent


@dataclass(frozen=True)
class Said:
    """The server answers with a JSON-RPC error, or with an `isError` result when `code` is None."""

    code: int | None
    free = False

    @property
    def may_have_run(self) -> bool:
        return self.code not in (-32602, -32002, THROTTLED)


@dataclass(frozen=True)
class Step:
    """What becomes of one attempt: `fault`, at its first request or, when `rounds` is 2, at its second."""

    fault: Any
    rounds: int
    pause: float

    @property
    def may_have_run(self) -> bool:
        return self.rounds > 1 or self.fault.may_have_run

    @property
    def free(self) -> bool:
        return self.rounds == 1 and self.fault.free


seen = st.one_of(
    st.builds(
        Evidence,
        st.sampled_from([kind for kind in Kind if kind is not Kind.HTTP]),
        st.sampled_from([Delivery.NOT_SENT, Delivery.REJECTED, Delivery.UNKNOWN]),
        st.just("seen"),
    ),
    st.builds(
        Evidence,
        st.just(Kind.HTTP),
        st.just(Delivery.UNKNOWN),
        st.just("HTTP"),
        st.sampled_from([*REJECTING, 408, 500, 502, 504, 599]),
        st.sampled_from([None, "0", "1", "7", "59", "3600", "soon"]),
        st.booleans(),
    ),
).map(Seen)
fault = st.one_of(
    seen,
    seen,
    st.builds(Gone, st.booleans(), st.booleans()),
    st.builds(Silence, st.booleans(), st.sampled_from([3.0, 1000.0])),
    st.builds(Said, st.sampled_from([None, -32603, -32000, -32001, -32602, -32002, -32800, THROTTLED])),
)
step = st.builds(Step, fault, st.sampled_from([1, 1, 1, 2]), st.sampled_from([0.0, 0.1, 5.0, 19.0]))


class Play:
    """A server that follows a script, seen from the SDK's session: stands where `Connector` and the session stand."""

    is_process = False

    def __init__(self, steps: list[Step], absences: list[float]) -> None:
        self.steps = steps
        self.absences = absences
        self.done: list[Step] = []
        self.connection: Connection | None = None
        self.ids = itertools.count(1)

    async def __aenter__(self) -> Play:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[Connection]:
        if self.absences:
            await anyio.sleep(self.absences.pop())
            raise NO_SERVER
        session: Any = SimpleNamespace(protocol_version="test", cancel=self._told)
        self.connection = Connection(generation, session, InFlight())
        yield self.connection

    async def _told(self, request_id: object, reason: str) -> None:
        """The server takes no notice of cancellations."""

    async def invoke(self, _session: Any, _progress: Any) -> Any:
        connection, attempt = self.connection, current_attempt.get()
        assert connection is not None
        assert attempt is not None
        if not self.steps:
            self._request(connection, sent=True)
            self.done.append(Step(Said(None), 1, 0))
            return _result("fine", is_error=False)
        now = self.steps.pop(0)
        self.done.append(now)
        if now.rounds > 1:
            connection.in_flight.answered(self._request(connection, sent=True))
        await self._play(connection, now)
        return _result("late, but fine", is_error=False)

    def _request(self, connection: Connection, *, sent: bool) -> int:
        request_id = next(self.ids)
        connection.in_flight.sending("tools/call", request_id)
        if sent:
            connection.in_flight.sent(request_id)
        return request_id

    async def _play(self, connection: Connection, now: Step) -> None:
        fault = now.fault
        request_id = self._request(connection, sent=getattr(fault, "sent", True))
        await anyio.sleep(now.pause)
        if isinstance(fault, Seen):
            connection.in_flight.note(request_id, fault.evidence)
            raise _sdk.ErrorBase(-32603, "an edge's error")
        if isinstance(fault, Said):
            connection.in_flight.answered(request_id)
            if fault.code is None:
                raise _Answered
            raise _sdk.ErrorBase(fault.code, "the server's error")
        if isinstance(fault, Gone):
            if fault.sdk_first:
                raise _sdk.ErrorBase(_sdk.CONNECTION_CLOSED, "Connection closed")
            connection.end(Evidence(Kind.PROCESS, Delivery.UNKNOWN, "it died"))
            await anyio.sleep(1000)
        await anyio.sleep(fault.seconds)
        connection.in_flight.answered(request_id)


class _Answered(Exception):
    """A signal of the play: the tool answers `isError`."""


def _result(text: str, *, is_error: bool) -> Any:
    content = [SimpleNamespace(type="text", text=text)]
    return SimpleNamespace(content=content, is_error=is_error, structured_content=None)


session_lost = Step(Seen(Evidence(Kind.HTTP, Delivery.UNKNOWN, "HTTP", 404, session_id_sent=True)), 2, 0)
silence = Step(Silence(sent=True, seconds=1000), 1, 0)


@settings(deadline=None, max_examples=300)
@example([session_lost], [], False, 4)
@example([Step(Said(THROTTLED), 2, 0)], [], False, 4)
@example([Step(Seen(Evidence(Kind.HTTP, Delivery.UNKNOWN, "HTTP", 401)), 2, 0)], [], False, 4)
@example([silence, silence, Step(Gone(sent=True, sdk_first=True), 1, 19)], [], True, 4)
@given(
    st.lists(step, min_size=1, max_size=8),
    st.lists(st.sampled_from([0.0, 0.5, 20.0]), max_size=4),
    st.sampled_from([True, False, None]),
    st.integers(1, 5),
)
def test_the_rule(steps: list[Step], absences: list[float], repeatable: bool | None, attempts: int):
    """Whatever happens: no second sending of what may have run, no attempt and no second beyond the policy."""
    play = Play(list(steps), absences)
    policy = Policy(
        breaker=None,
        retry=RetryPolicy(attempts=attempts),
        restart=RestartPolicy(intensity=1000),
        timeout=LIMIT,
        tools={"tool": ToolPolicy(repeatable=repeatable)},
        error_codes={THROTTLED: "throttled"},
    )

    async def invoke(session: Any, progress: Any) -> Any:
        try:
            return await play.invoke(session, progress)
        except _Answered:
            return _result("temporarily unavailable", is_error=True)

    async def main() -> None:
        hub = Hub("play")
        supervisor = Supervisor(play, policy, hub)  # type: ignore[arg-type]
        judge = Classifier(policy)
        gate = Gate(policy, hub)
        executor = Executor(supervisor, gate, catalog=Catalog(judge, hub), policy=policy, hub=hub, classifier=judge)
        async with anyio.create_task_group() as tg:
            supervisor.begin()
            tg.start_soon(supervisor.run)
            began = anyio.current_time()
            outcome: Any
            try:
                outcome = await executor.run(Operation("tools/call", invoke, "tool"))
            except _sdk.MCPError as error:
                outcome = error
            elapsed = anyio.current_time() - began
            supervisor.close()
        sent = [step for step in play.done if not step.free]
        assert len(sent) <= attempts, "an attempt too many"
        assert elapsed <= LIMIT.total + 1e-6, f"{elapsed} s is beyond the deadline"
        if not repeatable:
            assert not any(step.may_have_run for step in play.done[:-1]), "sent again, though it may have run"
        if isinstance(outcome, ServerUnavailable):
            assert repeatable or not any(step.may_have_run for step in play.done), "it may have run, and is told not to"

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

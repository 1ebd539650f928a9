"""Nothing is done twice that must be done once: servers that count, under faults that a seed draws.

`NEVER_TWICE_SEED=7 pytest tests/test_never_twice.py` draws others; the seed is in each test's id.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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

from .promises import Told, broken_promise
from .servers.counting_http import HTTP_FATES, CountingHttp, Memory
from .servers.counting_server import ONCE, REPEATABLE
from .support import LEGACY, HttpServer, every_pair, in_turn, nothing_left
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
        broken = {key: broken_promise(key, Told.of(self.told[key]), ran[key], taken[key]) for key in self.told}
        wrong = [f"{key} {why}: told {self.told[key]!r}" for key, why in broken.items() if why]
        assert not wrong, f"seed {self.seed}, {len(wrong)} wrong: " + "\n".join(wrong[:10])
        assert not ran.keys() - self.told.keys()

    def assert_that_it_was_hard(self, ran: Counter[str]) -> None:
        """The faults did happen: answers were lost on both kinds of tools, before and after they were executed."""
        lost = [key for key, outcome in self.told.items() if isinstance(outcome, ConnectionLost)]
        assert any(ran[key] for key in lost)
        assert not all(ran[key] for key in lost)
        assert any(count > 1 for count in ran.values())


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


@seeded
@pytest.mark.timeout(180)  # seconds of work, and more on a busy machine
@pytest.mark.anyio
@every_pair("answers", ["json", "sse"])
async def test_on_http_nothing_is_done_twice(seed: int, answers: str):
    """600 calls of a server that refuses, loses and cuts answers, forgets sessions, crashes and is late."""
    ledger = Ledger(seed)
    journal = Memory()
    server = CountingHttp(seed, journal, sse=answers == "sse", late=1.3 * HARD.timeout.attempt)
    async with nothing_left(), server.serve():
        async with ResilientClient(server.url, policy=HARD, **LEGACY) as client:
            await ledger.ask(client, 600)
    ledger.compare(journal.ran, journal.taken)
    ledger.assert_that_it_was_hard(journal.ran)
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

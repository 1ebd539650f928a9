"""Nothing runs twice that must run once: servers that count executions, under faults drawn from a seed.

`NEVER_TWICE_SEED=7 pytest tests/test_never_twice.py` draws other faults; the seed is in each test's id.
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
from functools import partial
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
from mcp import types

from resilient_mcp import (
    BudgetPolicy,
    Concurrency,
    ConnectionLost,
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
from resilient_mcp._sdk.installed import CONNECTION_CLOSED, METHOD_NOT_FOUND, ErrorBase, MCPError
from resilient_mcp.calls.catalog import Catalog
from resilient_mcp.calls.executor import Executor
from resilient_mcp.calls.gate import Gate
from resilient_mcp.calls.operation import Operation
from resilient_mcp.connection.generation import Connection
from resilient_mcp.connection.supervisor import Supervisor
from resilient_mcp.evidence import Delivery, Evidence, FailureKind
from resilient_mcp.in_flight import InFlight, current_attempt
from resilient_mcp.observability.hub import Hub
from resilient_mcp.verdicts.classifier import Classifier
from resilient_mcp.verdicts.remedies import in_python
from resilient_mcp.verdicts.verdict import AttemptError

from .promises import Outcome, broken_promise
from .servers.counting_http import HTTP_FATES, CountingHttp, Memory
from .servers.counting_server import ONCE, REPEATABLE
from .support import LEGACY, HttpServer, every_pair, in_turn, nothing_left
from .support import _stdio as stdio_server

SEED = int(os.environ.get("NEVER_TWICE_SEED", "20251125"))
seeded = pytest.mark.parametrize("seed", [SEED], ids="seed={}".format)
HARD = Policy(
    breaker=None,
    budget=None,
    retry=RetryPolicy(attempts=60, crashes=60, base=0.005, throttled_base=0.005, max_delay=0.05),
    restart=RestartPolicy(base=0.01, max_delay=0.05, intensity=10_000),
    timeout=TimeoutPolicy(attempt=0.7, ready=45, connect=10, total=60, shutdown=1),
)
CALLERS = 20


@dataclass
class Ledger:
    """The outcomes that callers got, to be compared with what the server did."""

    seed: int
    outcomes: dict[str, Any] = field(default_factory=dict)

    async def ask(self, client: ResilientClient, calls: int) -> None:
        """Make `calls` calls from 20 concurrent callers, each with its own key, and record each outcome."""
        rng = random.Random(self.seed)
        keys = iter([f"{rng.choice([REPEATABLE, ONCE])}-{n}" for n in range(calls)])

        async def caller() -> None:
            for key in keys:
                try:
                    with anyio.fail_after(HARD.timeout.total + 15):
                        self.outcomes[key] = await client.call_tool(key.split("-")[0], {"text": key})
                except MCPError as error:
                    self.outcomes[key] = error
                except TimeoutError:
                    self.outcomes[key] = None

        async with anyio.create_task_group() as tg:
            for _ in range(CALLERS):
                tg.start_soon(caller)
        assert len(self.outcomes) == calls

    def compare(self, ran: Counter[str], taken: Counter[str]) -> None:
        """Compare with how often each key was executed, and how often it was received and not provably refused."""
        outcomes = {key: Outcome.of(outcome) for key, outcome in self.outcomes.items()}
        broken = {key: broken_promise(key, outcome, ran[key], taken[key]) for key, outcome in outcomes.items()}
        wrong = [f"{key} {why}: got {self.outcomes[key]!r}" for key, why in broken.items() if why]
        assert not wrong, f"seed {self.seed}, {len(wrong)} wrong: " + "\n".join(wrong[:10])
        assert not ran.keys() - self.outcomes.keys()

    def assert_that_it_was_hard(self, ran: Counter[str]) -> None:
        """Assert that the faults occurred: answers of both kinds of tools were lost before and after execution."""
        lost = [key for key, outcome in self.outcomes.items() if isinstance(outcome, ConnectionLost)]
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
    """600 calls to a server killed before, after and while it answers, silent, noisy, or dead after its start."""
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
    """100 calls to the SDK's own server, in the era it negotiates by itself, killed before and after a run."""
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
    """600 calls to a server that refuses, loses and cuts answers, forgets sessions, crashes and is late."""
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
    """Start the server again whenever it dies."""

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
    """100 calls to the SDK's own server, in the era it negotiates by itself, killed before and after a run."""
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

NO_SERVER = AttemptError(None, Evidence(FailureKind.NETWORK, Delivery.NOT_SENT, "refused"))
REJECTING = frozenset({400, 401, 403, 404, 405, 413, 429})
"""HTTP statuses that prove that the request was not run."""
THROTTLED = 7
"""A JSON-RPC code that the policy says to mean that nothing was run."""
LIMIT = TimeoutPolicy(attempt=20, ready=30, connect=10, total=60)


@dataclass(frozen=True)
class Seen:
    """An edge saw the attempt fail, and answers in place of the server."""

    evidence: Evidence

    @property
    def free(self) -> bool:
        return self.evidence.delivery is Delivery.NOT_SENT or self.lost_session

    @property
    def sent(self) -> bool:
        return self.evidence.delivery is not Delivery.NOT_SENT

    @property
    def lost_session(self) -> bool:
        return self.evidence.http_status == 404 and self.evidence.session_id_sent

    @property
    def may_have_run(self) -> bool:
        status = self.evidence.http_status
        return self.evidence.delivery is Delivery.UNKNOWN if status is None else status not in REJECTING


@dataclass(frozen=True)
class Gone:
    """The connection ends before or after the attempt's request was sent; with `sdk_first` the SDK reports it first."""

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
    """No answer comes, or only after `seconds`; a request that was not sent gets none."""

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
    """One attempt: `fault` strikes its first request or, when `rounds` is 2, its second."""

    fault: Any
    rounds: int
    pause: float

    @property
    def may_have_run(self) -> bool:
        return self.rounds > 1 or self.fault.may_have_run

    @property
    def free(self) -> bool:
        return self.rounds == 1 and self.fault.free

    @property
    def left(self) -> bool:
        """Whether a request of this attempt was sent."""
        return self.rounds > 1 or getattr(self.fault, "sent", True)


seen = st.one_of(
    st.builds(
        Evidence,
        st.sampled_from([kind for kind in FailureKind if kind is not FailureKind.HTTP]),
        st.sampled_from([Delivery.NOT_SENT, Delivery.REJECTED, Delivery.UNKNOWN]),
        st.just("seen"),
    ),
    st.builds(
        Evidence,
        st.just(FailureKind.HTTP),
        st.just(Delivery.UNKNOWN),
        st.just("HTTP"),
        st.sampled_from([*sorted(REJECTING), 408, 499, 500, 502, 503, 504, 599]),
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


@dataclass(frozen=True)
class Listing:
    """What a connection's tool list says about the tool, and when; `hint` None is a refused listing."""

    hint: bool | None
    after: float
    stale_after: float | None


listing = st.builds(
    Listing,
    st.sampled_from([True, True, False, None]),
    st.sampled_from([0.0, 0.0, 1.0, 5.0]),
    st.sampled_from([None, None, 0.0, 3.0]),
)
LISTED = Listing(hint=True, after=0, stale_after=None)


class Play:
    """A server that follows a script, in place of `Connector` and the SDK's session.

    Attributes:
        done: The steps played so far.
        allowed: For each of them, whether the list of its connection said at that moment that it may run twice.
    """

    server = SimpleNamespace(is_process=False)
    opening: Any = None

    def __init__(self, steps: list[Step], absences: list[float], listings: list[Listing]) -> None:
        self.steps = steps
        self.absences = absences
        self.listings = listings
        self.done: list[Step] = []
        self.allowed: list[bool] = []
        self.connection: Connection | None = None
        self.catalog: Catalog | None = None
        self.ids = itertools.count(1)
        self._listing = LISTED
        self._says = False

    async def __aenter__(self) -> Play:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[Connection]:
        if self.absences:
            await anyio.sleep(self.absences.pop())
            raise NO_SERVER
        self._listing = self.listings.pop(0) if self.listings else LISTED
        self._says = False
        sdk = SimpleNamespace(list_tools=self._list)
        session: Any = SimpleNamespace(
            callback_runner=None,
            protocol_version="test",
            cancel=self._cancelled,
            offers=lambda _: True,
            raw=sdk,
            client=sdk,
        )
        self.connection = Connection(generation, session, InFlight())
        yield self.connection

    async def _list(self, **_: object) -> Any:
        assert self.connection is not None
        request_id = self._request(self.connection, sent=True)
        await anyio.sleep(self._listing.after)
        self.connection.in_flight.answered(request_id)
        if self._listing.hint is None:
            raise ErrorBase(METHOD_NOT_FOUND, "nothing is listed")
        annotations = {"idempotentHint": self._listing.hint}
        tool = types.Tool.model_validate(
            {"name": "tool", "inputSchema": {"type": "object"}, "annotations": annotations}
        )
        self._says = self._listing.hint
        return types.ListToolsResult(tools=[tool])

    async def follow(self, connection: Connection) -> None:
        """Keep the list as a client does, until the server reports a permanent change."""
        assert self.catalog is not None
        async with anyio.create_task_group() as tg:
            tg.start_soon(partial(self.catalog.keep, connection, timeout=20))
            if self._listing.stale_after is not None:
                await anyio.sleep(self._listing.stale_after)
                self._listing = Listing(hint=None, after=0, stale_after=None)
                self._says = False
                self.catalog.changed()

    async def _cancelled(self, request_id: object, reason: str) -> None:
        """Ignore cancellations."""

    async def perform(self, _session: Any, _progress: Any) -> Any:
        connection, attempt = self.connection, current_attempt.get()
        assert connection is not None
        assert attempt is not None
        if not self.steps:
            self._request(connection, sent=True)
            self.done.append(Step(Said(None), 1, 0))
            self.allowed.append(self._says)
            return _result("fine", is_error=False)
        now = self.steps.pop(0)
        self.done.append(now)
        self.allowed.append(self._says)
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
            raise ErrorBase(-32603, "an edge's error")
        if isinstance(fault, Said):
            connection.in_flight.answered(request_id)
            if fault.code is None:
                raise _Answered
            raise ErrorBase(fault.code, "the server's error")
        if isinstance(fault, Gone):
            if fault.sdk_first:
                raise ErrorBase(CONNECTION_CLOSED, "Connection closed")
            connection.end(Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, "it died"))
            await anyio.sleep(1000)
        await anyio.sleep(fault.seconds if fault.sent else 1000)
        connection.in_flight.answered(request_id)


class _Answered(Exception):
    """Signals that the tool answers `isError`."""


def _result(text: str, *, is_error: bool) -> Any:
    content = [SimpleNamespace(type="text", text=text)]
    return SimpleNamespace(content=content, is_error=is_error, structured_content=None)


session_lost = Step(Seen(Evidence(FailureKind.HTTP, Delivery.UNKNOWN, "HTTP", 404, session_id_sent=True)), 2, 0)
silence = Step(Silence(sent=True, seconds=1000), 1, 0)
died = Step(Gone(sent=True, sdk_first=False), 1, 0)
BURST = 1000


def reset_after(pause: float) -> Step:
    return Step(Seen(Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, "reset")), 1, pause)


@settings(deadline=None, max_examples=300)
@example([session_lost], [], [], False, 4)
@example([Step(Said(THROTTLED), 2, 0)], [], [], False, 4)
@example([Step(Seen(Evidence(FailureKind.HTTP, Delivery.UNKNOWN, "HTTP", 401)), 2, 0)], [], [], False, 4)
@example([silence, silence, Step(Gone(sent=True, sdk_first=True), 1, 19)], [], [], True, 4)
@example([died], [], [LISTED, Listing(hint=False, after=1, stale_after=None)], None, 4)
@example([died], [], [LISTED, Listing(hint=True, after=5, stale_after=None)], None, 4)
@example([reset_after(5)], [], [Listing(hint=True, after=0, stale_after=3)], None, 4)
@pytest.mark.timeout(60)  # 6 s on an idle machine
@given(
    st.lists(step, min_size=1, max_size=8),
    st.lists(st.sampled_from([0.0, 0.5, 20.0]), max_size=4),
    st.lists(listing, max_size=4),
    st.sampled_from([True, False, None, None]),
    st.integers(1, 5),
)
def test_the_rule(
    steps: list[Step], absences: list[float], listings: list[Listing], repeatable: bool | None, attempts: int
):
    """Whatever happens, no call is repeated or reported against the rule.

    Nothing that may have run is sent again unless the policy, or the current list of its connection, says at that
    moment that it may be; no error says "not run" of a call that may have run; attempts and time stay within the
    policy; and tokens taken for a request that was not sent are returned.
    """
    play = Play(list(steps), absences, list(listings))
    policy = Policy(
        breaker=None,
        rate_limit=RateLimit(rate=1e-6, burst=BURST),
        concurrency=Concurrency(limit=1),
        budget=BudgetPolicy(tokens=BURST, refund=0),
        retry=RetryPolicy(attempts=attempts, crashes=attempts),
        restart=RestartPolicy(intensity=1000),
        timeout=LIMIT,
        tools={"tool": ToolPolicy(repeatable=repeatable)},
        error_codes={THROTTLED: "throttled"},
    )

    async def perform(session: Any, progress: Any) -> Any:
        try:
            return await play.perform(session, progress)
        except _Answered:
            return _result("temporarily unavailable", is_error=True)

    request: Any = SimpleNamespace(method="tools/call", target="tool", arguments=None, perform=perform)

    async def main() -> None:
        hub = Hub("play")
        judge = Classifier(policy)
        gate = Gate(policy, hub)
        play.catalog = catalog = Catalog(judge, hub)
        supervisor = Supervisor(
            play,  # type: ignore[arg-type]
            policy,
            hub,
            in_python("the play"),
            background=[play.follow],
        )
        executor = Executor(supervisor, gate, catalog=catalog, policy=policy, hub=hub, classifier=judge)
        async with anyio.create_task_group() as tg:
            supervisor.begin()
            tg.start_soon(supervisor.run)
            began = anyio.current_time()
            outcome: Any
            try:
                outcome = await executor.run(Operation(request))
            except MCPError as error:
                outcome = error
            elapsed = anyio.current_time() - began
            supervisor.close()
        sent = [step for step in play.done if not step.free]
        assert len(sent) <= attempts, "one attempt too many"
        assert elapsed <= LIMIT.total + 1e-6, f"{elapsed} s is beyond the deadline"
        may_have_run = False
        for one, allowed in zip(play.done, play.allowed, strict=True):
            may_twice = allowed if repeatable is None else repeatable
            assert may_twice or not may_have_run, "sent again, though it may have run"
            may_have_run = may_have_run or one.may_have_run
        if isinstance(outcome, ResilienceError):
            assert outcome.may_have_run or not may_have_run, "it may have run, but the error says it did not"
            if elapsed < LIMIT.total:  # otherwise the deadline may have passed before the proof that it did not run
                assert outcome.may_have_run is may_have_run, "it did not run, but the error says it may have"
            assert outcome.attempts == sum(one.left for one in play.done), "the error has the wrong number of attempts"
            if may_have_run and not outcome.repeatable:
                assert not isinstance(outcome, ServerUnavailable)
            for text in (str(outcome), outcome.advice) if may_have_run else ():
                assert "may have run" in text
                assert "not run" not in text
                assert "Nothing was sent" not in text
        assert gate._bulkhead is not None
        assert gate._budget is not None
        assert (gate._bulkhead.running, gate._bulkhead.waiting) == (0, 0)
        left = sum(gate._bucket.reserve(1e6, 0) is not None for _ in range(BURST))
        assert left >= BURST - sum(one.left for one in play.done), "a token was taken for a request that was not sent"
        assert BURST - sum(one.left for one in play.done) <= gate._budget.tokens <= BURST

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

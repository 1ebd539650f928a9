"""Events, log and statistics: events in order, one line per record, one id per call; listeners cannot do harm."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from resilient_mcp import (
    AttemptFailed,
    BreakerChanged,
    BreakerState,
    CallFinished,
    Connected,
    Delivery,
    Disconnected,
    Event,
    Evidence,
    ExitStatus,
    Outcome,
    ResilientClient,
    RetryPolicy,
    RetryScheduled,
    ServerFailed,
    State,
    StateChanged,
)
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp.evidence import FailureKind
from resilient_mcp.observability.hub import Hub
from resilient_mcp.observability.stats import MAX_TOOLS, Histogram, Recorder
from resilient_mcp.text.redact import Redactor

from .support import QUICK, Faults, ScriptedHttp, client_of, gone, raw_server, text_of
from .support import Recorder as Listener


def changed(new: State = State.READY, **facts: Any) -> StateChanged:
    return StateChanged(server="s", old=State.CONNECTING, new=new, **facts)


class Records(logging.Handler):
    """Keeps what the library logs."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def at(self, level: int) -> list[logging.LogRecord]:
        return [record for record in self.records if record.levelno == level]

    @property
    def lines(self) -> list[str]:
        return [self.format(record) for record in self.records]


@pytest.fixture
def records() -> Iterator[Records]:
    handler = Records()
    logger = logging.getLogger("resilient_mcp")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


# --- the hub ---


def test_an_event_caused_by_a_listener_comes_after_its_cause():
    """Every listener sees events in the same order."""
    seen: list[str] = []

    def restless(event: Event) -> None:
        assert isinstance(event, StateChanged)
        if event.reason == "first":
            hub.emit(changed(reason="second"))

    hub = Hub("s", lambda event: seen.append(event.reason))  # type: ignore[attr-defined]
    hub.add(restless)
    hub.emit(changed(reason="first"))
    assert seen == ["first", "second"]


def test_a_listener_that_raises_or_is_slow_is_logged(records: Records, monkeypatch: pytest.MonkeyPatch):
    """Its exceptions are logged and not raised; a slow listener gets one warning that suggests `events()`."""
    monkeypatch.setattr("resilient_mcp.observability.hub._SLOW", -1)

    def listener(event: Event) -> None:
        raise ValueError("my mistake")

    hub = Hub("s", listener)
    hub.emit(changed())
    hub.emit(changed())
    assert [r.exc_info[1].args for r in records.at(logging.ERROR)] == [("my mistake",)] * 2  # type: ignore[index,union-attr]
    assert ["client.events()" in r.getMessage() for r in records.at(logging.WARNING)] == [True]


def test_a_listener_must_be_a_function():
    """A coroutine function, which would never run, is refused with the remedy."""

    async def listener(event: Event) -> None: ...

    with pytest.raises(TypeError, match=r"client\.events"):
        ResilientClient("http://x/mcp", on_event=listener)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="takes an Event"):
        ResilientClient("http://x/mcp", on_event=5)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_slow_reader_loses_the_oldest_events():
    """The buffer is bounded, dropped events are counted, and other readers lose nothing."""
    hub = Hub("s")
    slow, fast = hub.stream(2), hub.stream(100)
    for n in range(5):
        hub.emit(changed(reason=str(n)))
    hub.emit(changed(State.CLOSED, reason="end"))
    assert [event.reason async for event in slow] == ["4", "end"]  # type: ignore[attr-defined]
    assert slow.dropped == 4
    assert [event.reason async for event in fast] == ["0", "1", "2", "3", "4", "end"]  # type: ignore[attr-defined]
    assert fast.dropped == 0
    assert [event async for event in hub.stream(1)] == []  # the client is closed
    with pytest.raises(ValueError, match="at least 1"):
        hub.stream(0)


@pytest.mark.anyio
async def test_a_waiting_reader_gets_new_events():
    """A waiting reader gets each event as it is emitted, and a discarded stream costs nothing."""
    hub = Hub("s")
    stream = hub.stream(10)
    got: list[Event] = []

    async def read() -> None:
        async for event in stream:
            got.append(event)

    async with anyio.create_task_group() as tg:
        tg.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        hub.emit(changed())
        await anyio.wait_all_tasks_blocked()
        assert len(got) == 1
        hub.emit(changed(State.CLOSED))
    assert len(got) == 2
    logging.getLogger("resilient_mcp").setLevel(logging.WARNING)
    try:
        other = Hub("s")
        forgotten = other.stream(1)
        assert other.wants(CallFinished)
        del forgotten
        gc.collect()
        assert not other.wants(CallFinished)
    finally:
        logging.getLogger("resilient_mcp").setLevel(logging.NOTSET)


def test_log_levels_and_extra_fields(records: Records):
    """States log at INFO, paid retries at WARNING, the rest at DEBUG; fields in `extra` are plain and bounded."""

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Others(Event):
        added: tuple[str, ...]
        counts: dict[str, Any]

    hub = Hub("s", redactor=Redactor(["s3cr3t"]))
    hub.emit(changed())
    retry: dict[str, Any] = {"server": "s", "operation": "ping", "attempt": 1, "delay": 0.5, "reason": "no\nanswer"}
    hub.emit(RetryScheduled(transparent=False, **retry))
    hub.emit(RetryScheduled(transparent=True, **retry))
    died = Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, "ended", exit=ExitStatus(1, code=3, stderr="s3cr3t"))
    hub.emit(Disconnected(server="s", generation=1, reason="ended", evidence=died))
    hub.emit(Others(server="s", added=("\x1b[31mred", "s3cr3t\n") * 100, counts={"a\nb": {"c": object()}}))
    levels = [logging.INFO, logging.WARNING, logging.DEBUG, logging.DEBUG, logging.DEBUG]
    assert [record.levelno for record in records.records] == levels
    facts = [vars(record) for record in records.records]
    assert (facts[0]["mcp_event"], facts[0]["mcp_new"], facts[0]["mcp_server"]) == ("StateChanged", "ready", "s")
    assert (facts[1]["mcp_delay"], facts[1]["mcp_reason"]) == (0.5, "no answer")
    assert facts[3]["mcp_evidence"]["exit"] == "exit status 3"
    assert facts[4]["mcp_added"][:2] == ["red", "***"]
    assert len(facts[4]["mcp_added"]) == 50
    assert not any("\n" in line or "s3cr3t" in line or "\x1b" in line for line in records.lines)


def test_debug_mode_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    """`RESILIENT_MCP_DEBUG=1` turns it on, `0` or an empty value off, and `debug=` overrides both."""
    for value, debug in {"1": True, "0": False, "": False}.items():
        monkeypatch.setenv("RESILIENT_MCP_DEBUG", value)
        assert Hub("s").debug is debug
        assert Hub("s", debug=not debug).debug is not debug


# --- a client ---


@pytest.mark.anyio
async def test_a_call_can_be_traced_through_its_retries(records: Records):
    """Every event, record and request of a call carries its operation id; a call without failures logs no warning."""
    events = Listener()
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"send_operation_id": True})
    async with server.serve(), client_of(server.url, policy, on_event=events) as client:
        server.faults = [Faults.status(500), Faults.status(503)]
        await client.call_tool("echo", {"text": "x"})
        await client.call_tool("echo", {"text": "y"})
    first, second = events.of(CallFinished)[-2:]
    assert first.operation_id != second.operation_id
    assert (first.outcome, first.attempts, first.error) == (Outcome.RESULT, 3, None)
    assert (second.outcome, second.attempts) == (Outcome.RESULT, 1)
    assert {meta["resilient-mcp/operation-id"] for meta in server.metas[:3]} == {first.operation_id}
    own = [type(event) for event in events.events if event.operation_id == first.operation_id]
    assert own == [AttemptFailed, RetryScheduled] * 2 + [CallFinished]
    assert [e.category for e in events.of(AttemptFailed)] == ["transient", "transient"]
    stamped = [r for r in records.records if getattr(r, "mcp_operation_id", None) == first.operation_id]
    assert [vars(r)["mcp_event"] for r in stamped] == [kind.__name__ for kind in own]
    assert len(records.at(logging.WARNING)) == 2
    states = [vars(r)["mcp_new"] for r in records.at(logging.INFO)]
    assert states == ["connecting", "ready", "closed"]


@pytest.mark.anyio
async def test_outcomes():
    """A result, a server's error, a time limit and a cancelled caller are counted with their outcomes."""
    events = Listener()
    async with client_of(raw_server(), QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})) as quiet:
        await quiet.call_tool("echo", {"text": "x"})  # no listener
        assert quiet.stats().calls == 1
    async with client_of(raw_server(), on_event=events) as client:
        with pytest.raises(MCPError):
            await client.call_tool("unsafe", {"do": "nonsense"})
        with pytest.raises(TimeoutError):
            await client.call_tool("unsafe", {"do": "no_answer"}, read_timeout_seconds=0.1)
        with anyio.move_on_after(0.1):
            await client.call_tool("no_answer")
        await client.send_ping()
    ended = [(e.operation, e.outcome, e.attempts, e.error) for e in events.of(CallFinished)]
    cancelled = ended.pop(2)
    assert ended == [
        ("tools/call unsafe", Outcome.ERROR, 1, "-32602"),
        ("tools/call unsafe", Outcome.ERROR, 1, "timeout"),
        ("ping", Outcome.RESULT, 1, None),
    ]
    assert cancelled[1] is Outcome.CANCELLED
    stats = client.stats()
    assert stats.outcomes == {Outcome.RESULT: 1, Outcome.ERROR: 2, Outcome.CANCELLED: 1, Outcome.TOOL_ERROR: 0}
    assert (stats.calls, stats.running) == (4, 0)
    assert stats.tools["unsafe"].failed == 2
    assert stats.failures["timeout"] == 1


@pytest.mark.anyio
async def test_stats_and_health_through_a_crash():
    """Reconnects, the last error and the exit status are reported once the server is back."""
    async with client_of(raw_server()) as client:
        health = client.health()
        assert health.is_ready
        assert (health.generation, health.last_error, health.exit_status, health.retry_in) == (1, None, None, None)
        pid = int(text_of(await client.call_tool("pid")))
        with pytest.raises(MCPError):
            await client.call_tool("unsafe", {"do": "exit", "code": 7})
        await gone(pid)
        await client.call_tool("echo", {"text": "x"})
        health, stats = client.health(), client.stats()
    assert health.server == client.name
    assert health.generation == 2
    assert health.protocol_version == "2025-11-25"
    assert health.exit_status is not None
    assert health.exit_status.code == 7
    assert "the disk is full" in (health.last_error or "")
    assert (stats.connections, stats.reconnects, stats.disconnects, stats.breaker) == (2, 1, 1, None)
    assert stats.latency.count == 3
    assert stats.latency.p50 is not None
    assert client.health().state is State.CLOSED


@pytest.mark.anyio
async def test_a_failed_client_reports_the_reason():
    """The state change and `health()` have the reason, and the event stream ends with the client."""
    client = ResilientClient(raw_server().model_copy(update={"command": "/no/such/program"}), policy=QUICK)
    events = client.events()
    with pytest.raises(ServerFailed):
        await client.start()
    seen = [event async for event in events]
    [failed] = [e for e in seen if isinstance(e, StateChanged) and e.new is State.FAILED]
    assert "cannot start: No such file or directory: /no/such/program" in failed.reason
    assert failed.reason == client.health().last_error


@pytest.mark.anyio
async def test_details_are_logged_only_in_debug_mode(records: Records):
    """Arguments, results, full errors and stderr are logged only in debug mode, and without secrets."""
    for debug in (False, True):
        records.records.clear()
        server = raw_server(env={"TOKEN": "s3cr3t-t0k3n"})
        async with client_of(server, debug=debug) as client:
            await client.call_tool("echo", {"text": "my argument s3cr3t-t0k3n"})
            for arguments in ({"do": "exit", "code": 1}, {"do": "nonsense"}):
                with pytest.raises(MCPError):
                    await client.call_tool("unsafe", arguments)
        text = "\n".join(records.lines)
        assert ("my argument" in text) is debug
        assert ("arguments of tools/call echo" in text) is debug
        assert ("result of tools/call echo" in text) is debug
        assert ("error of tools/call unsafe" in text) is debug
        assert ("stderr server=" in text) is debug
        assert "s3cr3t" not in text
        assert not any("\n" in line for line in records.lines)


@pytest.mark.anyio
async def test_expected_and_unexpected_disconnects():
    """Closing and `restart()` are expected disconnects; a crash is not."""
    events = Listener()
    async with client_of(raw_server(), on_event=events) as client:
        await client.restart()
        with pytest.raises(MCPError):
            await client.call_tool("unsafe", {"do": "die"})
        await events.wait_for(Connected, 3)
    assert [event.expected for event in events.of(Disconnected)] == [True, False, True]
    assert client.stats().disconnects == 1


# --- statistics ---


def test_percentiles_are_as_close_as_promised():
    """They are within 2.5 % of a value from 10 µs to three hours; without values there are none."""
    assert Histogram().percentile(0.5) is None
    histogram = Histogram()
    values = [1e-5 * 1.013**n for n in range(1600)]
    for value in values:
        histogram.add(Histogram.bucket(value))
    for share in (0.01, 0.5, 0.95, 0.99, 1):
        exact = values[max(0, round(share * len(values)) - 1)]
        assert histogram.percentile(share) == pytest.approx(exact, rel=0.04)
    for seconds in (2e-5, 0.0123, 1, 60, 9000):
        one = Histogram()
        one.add(Histogram.bucket(seconds))
        assert one.percentile(0.5) == pytest.approx(seconds, rel=0.025)
    for seconds in (0, 1e9):
        one.add(Histogram.bucket(seconds))


def test_statistics_per_tool_are_bounded():
    """Tools beyond the first 256, and names that are too long, are counted as `other`."""
    stats = Recorder(Redactor(["s3cr3t"]))
    assert stats.label(None) is None
    assert stats.label("s3cr3t\n") == "***"
    for n in range(100_000):
        stats.finished(f"tool-{n}", Outcome.RESULT, 1, 0.1)
    stats.finished("x" * 10_000, Outcome.TOOL_ERROR, 3, 0.1)
    stats.finished("other", Outcome.CANCELLED, 1, 0.1)
    snapshot = stats.snapshot()
    assert len(snapshot.tools) == MAX_TOOLS + 1
    other = snapshot.tools["other"]
    assert (other.calls, other.errors, other.retries, other.latency.count) == (99_747, 1, 2, 99_746)


def test_statistics_show_the_breaker():
    """The breaker's state is shown after its first change."""
    stats = Recorder(Redactor())
    assert stats.snapshot().breaker is None
    stats(BreakerChanged(server="s", old=BreakerState.CLOSED, new=BreakerState.OPEN, reason="x", retry_in=60))
    assert stats.snapshot().breaker == "open"

"""OpenTelemetry with its own SDK and in-memory exporters: names, attributes, buckets, and parents of spans."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from resilient_mcp import (
    BreakerChanged,
    BreakerState,
    CallFinished,
    Connected,
    ResilientClient,
    RetryPolicy,
    ServerUnavailable,
    Throttled,
)
from resilient_mcp._sdk.installed import MAJOR, MCPError
from resilient_mcp.observability.hub import Hub
from resilient_mcp.observability.otel import BUCKETS, Telemetry
from resilient_mcp.observability.stats import Recorder

from .support import QUICK, ROOT, Faults, ScriptedHttp, client_of, raw_server
from .support import Recorder as Listener

pytestmark = pytest.mark.anyio

DELTA = AggregationTemporality.DELTA
ONCE = QUICK.model_copy(update={"retry": RetryPolicy(attempts=1)})


@functools.cache
def exporters() -> tuple[InMemorySpanExporter, InMemoryMetricReader]:
    """The providers of this process, which OpenTelemetry allows to be set only once."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    trace.set_tracer_provider(provider)
    reader = InMemoryMetricReader(preferred_temporality={Counter: DELTA, Histogram: DELTA})
    metrics.set_meter_provider(MeterProvider([reader]))
    return spans, reader


class Telemetered:
    """What was exported since this object was made."""

    def __init__(self) -> None:
        self.exporter, self.reader = exporters()
        self.exporter.clear()
        self.reader.get_metrics_data()

    def spans(self, scope: str = "resilient_mcp") -> list[Any]:
        spans = self.exporter.get_finished_spans()
        return [s for s in spans if s.instrumentation_scope.name == scope]

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        scopes = [] if data is None else [s for r in data.resource_metrics for s in r.scope_metrics]
        ours = [metric for s in scopes if s.scope.name == "resilient_mcp" for metric in s.metrics]
        return {metric.name: list(metric.data.data_points) for metric in ours}


@pytest.fixture
def telemetry() -> Telemetered:
    return Telemetered()


def own(attributes: Any) -> dict[str, Any]:
    """The attributes that the conventions prescribe, without this library's."""
    return {key: value for key, value in attributes.items() if not key.startswith("resilient_mcp.")}


CALL = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool"}
VERSION = {"mcp.protocol.version": "2025-11-25"}


async def test_the_outcomes_over_http(telemetry: Telemetered):
    """Success, `isError`, protocol error, time limit and a resource: attributes of spans and the histogram."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url, ONCE) as client:
        port = int(server.url.split(":")[2].split("/")[0])
        tcp = {"network.transport": "tcp", "server.address": "127.0.0.1", "server.port": port, **VERSION}
        session = {"mcp.session.id": "session-1"}
        await client.call_tool("echo", {"text": "x"})
        refusal = b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"no"}],"isError":true}}'

        async def refuse(stream: Any, request_id: Any) -> bool:
            return await Faults.body(refusal % request_id)(stream, request_id)

        server.faults = [refuse, Faults.error(200, -32050, "bad\nthings"), Faults.hang(server)]
        await client.call_tool("echo", {"text": "x"})
        with pytest.raises(MCPError, match="bad"):
            await client.call_tool("echo", {"text": "x"})
        with pytest.raises(TimeoutError):
            await client.call_tool("unsafe", {"text": "x"}, read_timeout_seconds=1)
        with pytest.raises(MCPError):
            await client.read_resource("test://a")
        server.release.set()
        points = telemetry.points()
        spans = telemetry.spans()
    echo = {**CALL, "gen_ai.tool.name": "echo", **tcp}
    unsafe = {**CALL, "gen_ai.tool.name": "unsafe", **tcp}
    resource = {"mcp.method.name": "resources/read", **tcp}
    code = {"error.type": "-32050", "rpc.response.status_code": "-32050"}
    unknown = {"error.type": "-32601", "rpc.response.status_code": "-32601"}
    expected = [
        ("tools/call echo", echo, StatusCode.UNSET, None),
        ("tools/call echo", {**echo, "error.type": "tool_error"}, StatusCode.ERROR, None),
        ("tools/call echo", {**echo, **code}, StatusCode.ERROR, "bad things"),
        ("tools/call unsafe", {**unsafe, "error.type": "timeout"}, StatusCode.ERROR, "timed out after"),
        ("resources/read", {**resource, "mcp.resource.uri": "test://a", **unknown}, StatusCode.ERROR, "not found"),
    ]
    assert len(spans) == len(expected)
    for span, (name, attributes, status, description) in zip(spans, expected, strict=True):
        found = own(span.attributes)
        assert found.pop("jsonrpc.request.id").isdecimal()
        assert (span.name, found, span.kind) == (name, {**attributes, **session}, SpanKind.CLIENT)
        assert span.status.status_code is status
        assert (description or "") in (span.status.description or "")
        assert span.attributes["resilient_mcp.attempts"] == 1
    measured = points["mcp.client.operation.duration"]
    assert all(tuple(point.explicit_bounds) == tuple(BUCKETS) for point in measured)
    assert sum(point.count for point in measured) == 5
    found = [dict(point.attributes) for point in measured]
    for attributes in ({**echo}, {**echo, "error.type": "tool_error"}, {**echo, **code}, {**resource, **unknown}):
        assert attributes in found


async def test_a_retry_over_stdio(telemetry: Telemetered):
    """One span and one measurement for a call that crashed its server; the span records retry and reconnect."""
    events = Listener()
    async with client_of(raw_server(), on_event=events) as client:
        await client.call_tool("echo", {"text": "first"})
        with pytest.raises(MCPError):
            await client.call_tool("exit", {"code": 1}, read_timeout_seconds=5)
        operation_id = events.of(CallFinished)[-1].operation_id
        span = telemetry.spans()[-1]
    points = telemetry.points()
    assert own(span.attributes).items() >= {"network.transport": "pipe", "error.type": "ConnectionLost"}.items()
    assert "mcp.session.id" not in span.attributes
    assert "server.port" not in span.attributes
    assert span.attributes["resilient_mcp.operation.id"] == operation_id
    assert span.attributes["resilient_mcp.attempts"] == 3
    names = [event.name for event in span.events]
    assert names.count("resilient_mcp.attempt_failed") == 3
    assert names.count("resilient_mcp.retry") == 2
    assert names.count("resilient_mcp.connected") == 2
    assert "resilient_mcp.disconnected" in names
    [retry] = {event.attributes["resilient_mcp.transparent"] for event in span.events if event.name.endswith("retry")}
    assert retry is False
    assert sum(point.count for point in points["mcp.client.operation.duration"]) == 2
    assert points["resilient_mcp.retries"][0].value == 2
    assert points["resilient_mcp.attempt.failures"][0].attributes["resilient_mcp.category"] == "connection lost"
    sessions = points["mcp.client.session.duration"]
    assert all(tuple(point.explicit_bounds) == tuple(BUCKETS) for point in sessions)
    lost = {"network.transport": "pipe", "error.type": "process", **VERSION}
    counts = {point.attributes.get("error.type"): point.count for point in sessions}
    assert lost in [dict(point.attributes) for point in sessions]
    assert counts["process"] == points["resilient_mcp.disconnects"][0].value == 3
    assert sum(counts.values()) == len(events.of(Connected))


async def test_the_session_duration_is_measured_once_per_generation(telemetry: Telemetered):
    """A session that the client closes is measured too, without an `error.type`."""
    async with client_of(raw_server()) as client:
        await client.restart()
    points = telemetry.points()
    [point] = points["mcp.client.session.duration"]
    assert point.count == 2
    assert dict(point.attributes) == {"network.transport": "pipe", **VERSION}
    assert sum(point.value for point in points["resilient_mcp.connections"]) == 2
    assert "resilient_mcp.disconnects" not in points


async def test_a_call_that_was_never_sent(telemetry: Telemetered):
    """It has no request id and no attempt, but the exception's type and the tool."""
    client = ResilientClient("http://127.0.0.1:1/mcp")  # and never started
    with pytest.raises(ServerUnavailable):
        await client.call_tool("unsafe", {"text": "x"})
    span = telemetry.spans()[-1]
    assert span.attributes["error.type"] == "ServerUnavailable"
    assert span.attributes["gen_ai.tool.name"] == "unsafe"
    assert span.attributes["resilient_mcp.attempts"] == 0
    assert "rpc.response.status_code" not in span.attributes
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.skipif(MAJOR == 1, reason="mcp 1.x creates no spans")
async def test_the_sdks_spans_are_children_of_the_calls_span(telemetry: Telemetered):
    """One for each attempt, below the one for the call, which is below the caller's."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.status(500)]
        with trace.get_tracer("test").start_as_current_span("caller") as caller:
            await client.call_tool("echo", {"text": "x"})
    [ours] = [s for s in telemetry.spans() if s.name == "tools/call echo"]
    theirs = [s for s in telemetry.spans("mcp-python-sdk") if "tools/call" in s.name]
    assert [span.parent.span_id for span in theirs] == [ours.context.span_id] * 2
    assert ours.parent.span_id == caller.get_span_context().span_id
    assert [meta["traceparent"].split("-")[2] for meta in server.metas] == [f"{s.context.span_id:016x}" for s in theirs]


async def test_arguments_show_in_debug_mode_only(telemetry: Telemetered):
    """Arguments appear only in debug mode, without secrets."""
    for debug in (False, True):
        async with client_of(raw_server(env={"TOKEN": "s3cr3t-t0k3n"}), debug=debug) as client:
            await client.call_tool("echo", {"text": "mine s3cr3t-t0k3n"})
            await client.get_prompt("p", {"a": "b"})
    texts = [span.attributes.get("gen_ai.tool.call.arguments") for span in telemetry.spans() if "echo" in span.name]
    assert texts == [None, "{'text': 'mine ***'}"]
    prompt = telemetry.spans()[-1]
    assert prompt.name == "prompts/get p"
    assert prompt.attributes["gen_ai.prompt.name"] == "p"


async def test_the_number_of_time_series_is_bounded(telemetry: Telemetered):
    """Beyond a bound, invented codes, methods and tools are counted as `_OTHER` and `other`."""
    hub = Hub("s")
    stats = Recorder(hub.redactor)
    one = Telemetry(hub, {}, lambda: None, stats.label)
    made = [one._measured_as(f"method/{n}", stats.label(f"tool-{n}"), str(n), str(n)) for n in range(2000)]
    assert len({attributes["mcp.method.name"] for attributes in made}) == 101
    assert len({attributes["error.type"] for attributes in made}) == 101
    assert len(one._measured) <= 1000
    assert len({stats.label(f"tool-{n}") for n in range(1000)}) <= 257


async def test_circuit_changes_are_recorded_in_every_running_call(telemetry: Telemetered):
    """They are span events and a counter; a wait for a limit is recorded in the waiting call's span."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:

        async def seen(stream: Any, request_id: Any) -> bool:
            old, new = BreakerState.CLOSED, BreakerState.OPEN
            client._hub.emit(BreakerChanged(server="s", old=old, new=new, reason="5 failures", retry_in=60))
            running = next(iter(one._running))
            client._hub.emit(Throttled(server="s", delay=1.5, reason="429", operation_id=running))
            return await Faults.body(b'{"jsonrpc":"2.0","id":%d,"result":{"content":[]}}' % request_id)(
                stream, request_id
            )

        one: Any = client._fallbacks._executor._observer.telemetry
        server.faults = [seen]
        await client.call_tool("echo", {"text": "x"})
        points = telemetry.points()
        span = telemetry.spans()[-1]
    moved, held = span.events
    assert (moved.name, held.name) == ("resilient_mcp.breaker_changed", "resilient_mcp.throttled")
    assert moved.attributes["resilient_mcp.new"] == "open"
    assert held.attributes["resilient_mcp.delay"] == 1.5
    assert points["resilient_mcp.breaker.changes"][0].value == points["resilient_mcp.throttled"][0].value == 1


ALONE = """
import asyncio, sys
{before}
from tests.support import client_of, raw_server
from resilient_mcp.observability import otel

async def main():
    async with client_of(raw_server()) as client:
        await client.call_tool("echo", {{"text": "x"}})
        {between}
        await client.call_tool("echo", {{"text": "x"}})
        {after}

asyncio.run(main())
"""


def run_alone(**parts: str) -> None:
    code = ALONE.format(**{"before": "", "between": "", "after": "", **parts})
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=18, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(MAJOR != 1, reason="mcp 2.x itself needs opentelemetry-api")
def test_it_works_where_opentelemetry_is_not_installed():
    """The client works without OpenTelemetry, which mcp 1.x does not install."""
    run_alone(before="sys.modules['opentelemetry'] = None", after="assert not otel.IS_INSTALLED")


def test_an_sdk_that_is_configured_late_is_used_from_then_on():
    """The first call is not recorded, the second is: spans and measurements."""
    run_alone(
        between="from tests.test_otel import Telemetered; late = Telemetered()",
        after="[span] = late.spans(); assert span.name == 'tools/call echo';"
        "assert [p.count for p in late.points()['mcp.client.operation.duration']] == [1]",
    )


async def test_broken_telemetry_fails_no_call(telemetry: Telemetered, monkeypatch: pytest.MonkeyPatch):
    """A user's sampler, processor or exporter that raises is logged and does not affect the call."""

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no disk")

    monkeypatch.setattr(Telemetry, "_describe", broken)
    monkeypatch.setattr(Telemetry, "_ending", broken)
    monkeypatch.setattr(Telemetry, "_measured_as", broken)
    async with client_of(raw_server()) as client:
        await client.call_tool("echo", {"text": "x"})
        assert client.stats().calls == 1

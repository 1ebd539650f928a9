"""OpenTelemetry: one CLIENT span per call, and metrics.

The metrics are the histograms `mcp.client.operation.duration` and `mcp.client.session.duration`, and counters under
`resilient_mcp.`.

Requires only `opentelemetry-api` (mcp 2.x depends on it; with 1.x install the extra `otel`) and does nothing without
it. Without a configured OpenTelemetry SDK it costs almost nothing; an SDK configured later is used from then on. Names
follow the MCP semantic conventions (status Development) where there is one.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any, Protocol

from .._sdk.installed import MCPError
from ..errors import ResilienceError
from ..events import (
    AttemptFailed,
    BreakerChanged,
    Connected,
    Disconnected,
    Event,
    Outcome,
    RestartScheduled,
    RetryScheduled,
    Throttled,
)
from ..in_flight import Attempt
from .hub import Described, Hub

try:
    from opentelemetry import context, metrics, trace
except ImportError:  # pragma: no cover - tested in a separate process
    IS_INSTALLED = False
else:
    IS_INSTALLED = True

BUCKETS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300]
"""Bucket boundaries of both histograms, in seconds."""

# OpenTelemetry's placeholder for a value that would exceed the number of values.
_OTHER = "_OTHER"

_MAX_VALUES = 100

_MEASURED_KEPT = 1000

_DESCRIPTION = 300

_NAME = 100

# Events recorded in the spans of calls: the first three in their own call's span, the others in that of every running
# call.
_SPAN_EVENTS: dict[type[Event], str] = {
    AttemptFailed: "resilient_mcp.attempt_failed",
    RetryScheduled: "resilient_mcp.retry",
    Throttled: "resilient_mcp.throttled",
    Disconnected: "resilient_mcp.disconnected",
    RestartScheduled: "resilient_mcp.restart_scheduled",
    Connected: "resilient_mcp.connected",
    BreakerChanged: "resilient_mcp.breaker_changed",
}

_OF_ONE_CALL = (AttemptFailed, RetryScheduled, Throttled)


class _Instruments:
    """Instruments, created once: the API keeps every meter requested before an SDK is configured."""

    def __init__(self) -> None:
        meter = metrics.get_meter("resilient_mcp", version("resilient-mcp"))
        self.tracer = trace.get_tracer("resilient_mcp", version("resilient-mcp"))
        self.operation = meter.create_histogram(
            "mcp.client.operation.duration",
            unit="s",
            description="Duration of a call, including its retries.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.session = meter.create_histogram(
            "mcp.client.session.duration",
            unit="s",
            description="Duration of an MCP session.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.failures = meter.create_counter("resilient_mcp.attempt.failures", description="Failed attempts.")
        self.retries = meter.create_counter("resilient_mcp.retries", description="Retries of calls.")
        self.connections = meter.create_counter("resilient_mcp.connections", description="Connections made.")
        self.disconnects = meter.create_counter("resilient_mcp.disconnects", description="Connections lost.")
        self.breaker = meter.create_counter("resilient_mcp.breaker.changes", description="Circuit breaker changes.")
        self.throttled = meter.create_counter("resilient_mcp.throttled", description="Push-backs by the server.")


_instruments = functools.cache(_Instruments)


class TracedCall(Protocol):
    """A call as it is traced.

    Attributes:
        operation: What is called.
        operation_id: Its id, the same in events and logs.
        tool: The tool, or None.
        attempt: Its latest attempt on a connection, or None.
        span: What `begin` stores for `finish`.
    """

    operation: Described
    operation_id: str
    tool: str | None
    attempt: Attempt | None
    span: Any


class Telemetry:
    """Reports one client to OpenTelemetry; a listener of its hub.

    Args:
        hub: The client's hub.
        place: Where the server is, as OpenTelemetry's attributes.
        connection: Returns the connection in use, or None.
        label: Maps a tool to its name in metrics, from a bounded set of names.
    """

    def __init__(
        self,
        hub: Hub,
        place: Mapping[str, str | int],
        connection: Callable[[], Any],
        label: Callable[[str | None], str | None],
    ) -> None:
        self._hub = hub
        self._connection = connection
        self._label = label
        self._place = place
        self._our_name = {"resilient_mcp.server": hub.server}
        self._protocol: dict[str, Any] = {}
        self._instruments = _instruments()
        self._tracing = False
        self._running: dict[str, Any] = {}
        self._connected_at: float | None = None
        self._values: dict[str, set[str]] = {}
        self._measured: dict[tuple[str, str | None, str | None, str | None], dict[str, Any]] = {}

    # --- one call ---

    def begin(self, call: TracedCall) -> None:
        """Start the span of a call, which stays current until the call ends."""
        if not self._tracing:
            self._tracing = _is_configured(trace.get_tracer_provider())
        if not self._tracing:
            return
        name, attributes = self._describe(call)
        tracer = self._instruments.tracer
        span = tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
        call.span = span, context.attach(trace.set_span_in_context(span))
        if span.is_recording():
            self._running[call.operation_id] = span

    def _describe(self, call: TracedCall) -> tuple[str, dict[str, Any]]:
        """The name and initial attributes of a call's span."""
        method, target = call.operation.method, call.operation.target
        attributes = {
            "mcp.method.name": method,
            "resilient_mcp.operation.id": call.operation_id,
            **self._our_name,
            **self._place,
            **self._protocol,
        }
        if target is None:
            return method, attributes
        clean = self._hub.redactor.line
        if method.startswith("resources/"):
            attributes["mcp.resource.uri"] = clean(target)
            return method, attributes
        target = clean(target, _NAME)
        attributes.update(_target(method, target))
        if self._hub.debug and call.operation.arguments is not None:
            attributes["gen_ai.tool.call.arguments"] = clean(str(call.operation.arguments))
        return f"{method} {target}", attributes

    def finish(
        self,
        call: TracedCall,
        outcome: Outcome,
        error: str | None,
        exc: BaseException | None,
        *,
        attempts: int,
        elapsed: float,
    ) -> None:
        """End the span of a call and record its duration."""
        code = _response_code(exc)
        if call.span is not None:
            span, token = call.span
            self._running.pop(call.operation_id, None)
            context.detach(token)
            if span.is_recording():
                span.set_attributes(self._ending(call, error, code, attempts))
                if outcome is Outcome.TOOL_ERROR:
                    span.set_status(trace.StatusCode.ERROR)
                elif outcome is Outcome.ERROR:
                    text = self._hub.redactor.line(str(exc), _DESCRIPTION)
                    span.set_status(trace.StatusCode.ERROR, text)
            span.end()
        key = call.operation.method, self._bounded_target(call), error, code
        attributes = self._measured.get(key)
        if attributes is None:
            attributes = self._measured_as(*key)
        self._instruments.operation.record(elapsed, attributes)

    def _measured_as(self, method: str, target: str | None, error: str | None, code: str | None) -> dict[str, Any]:
        """The metric attributes of a call, cached: building them costs more than all the rest."""
        attributes = {
            "mcp.method.name": self._bounded("method", method),
            **_target(method, target),
            **self._place,
            **self._protocol,
        }
        if error is not None:
            attributes["error.type"] = self._bounded("error", error)
        if code is not None:
            attributes["rpc.response.status_code"] = self._bounded("error", code)
        if len(self._measured) >= _MEASURED_KEPT:
            self._measured.clear()
        self._measured[method, target, error, code] = attributes
        return attributes

    def _ending(self, call: TracedCall, error: str | None, code: str | None, attempts: int) -> dict[str, Any]:
        """Span attributes known only when the call has ended."""
        attributes: dict[str, Any] = {"resilient_mcp.attempts": attempts, **self._protocol}
        if call.attempt is not None and call.attempt.request_id is not None:
            attributes["jsonrpc.request.id"] = str(call.attempt.request_id)
        connection = self._connection()
        if connection is not None and (session_id := connection.in_flight.session_id) is not None:
            attributes["mcp.session.id"] = session_id
        if error is not None:
            attributes["error.type"] = error
        if code is not None:
            attributes["rpc.response.status_code"] = code
        return attributes

    def _bounded_target(self, call: TracedCall) -> str | None:
        method, target = call.operation.method, call.operation.target
        if target is not None and method == "prompts/get":
            return self._bounded("prompt", self._hub.redactor.line(target, _NAME))
        return self._label(call.tool)

    def _bounded(self, what: str, value: str) -> str:
        """`value`, or `_OTHER` if a server or caller has already used too many different values for a metric."""
        known = self._values.setdefault(what, set())
        if value not in known:
            if len(known) >= _MAX_VALUES:
                return _OTHER
            known.add(value)
        return value

    # --- everything else ---

    def __call__(self, event: Event) -> None:
        self._count(event)
        span_event = _SPAN_EVENTS.get(type(event))
        if span_event is None or not self._running:
            return
        facts = {
            f"resilient_mcp.{key}": getattr(value, "value", value)
            for key in event.__dataclass_fields__
            if key not in {"server", "operation", "operation_id", "evidence"}
            and isinstance(value := getattr(event, key), str | int | float) | hasattr(value, "value")
        }
        if isinstance(event, _OF_ONE_CALL):
            one = self._running.get(event.operation_id or "")
            spans = [] if one is None else [one]
        else:
            spans = list(self._running.values())
        for span in spans:
            span.add_event(span_event, facts)

    def retried(self, *, transparent: bool) -> None:
        """Count a retry; a `transparent` one costs no attempt."""
        self._instruments.retries.add(1, {**self._our_name, "resilient_mcp.transparent": transparent})

    def _count(self, event: Event) -> None:
        instruments, name = self._instruments, self._our_name
        if isinstance(event, AttemptFailed):
            instruments.failures.add(1, {**name, "resilient_mcp.category": event.category})
        elif isinstance(event, Connected):
            self._connected_at = time.perf_counter()
            self._protocol = {"mcp.protocol.version": event.protocol_version}
            self._measured.clear()
            instruments.connections.add(1, {**name, "resilient_mcp.reconnect": event.generation > 1})
        elif isinstance(event, Disconnected):
            self._end_session(event)
        elif isinstance(event, BreakerChanged):
            instruments.breaker.add(1, {**name, "resilient_mcp.new": event.new.value})
        elif isinstance(event, Throttled):
            instruments.throttled.add(1, name)

    def _end_session(self, event: Disconnected) -> None:
        lost = {} if event.expected else {"error.type": event.evidence.kind.value if event.evidence else _OTHER}
        if lost:
            self._instruments.disconnects.add(1, self._our_name)
        if self._connected_at is not None:
            elapsed = time.perf_counter() - self._connected_at
            self._instruments.session.record(elapsed, {**self._place, **self._protocol, **lost})
        self._connected_at = None


def _is_configured(provider: object) -> bool:
    """Whether `provider` is more than the API's placeholder, for which creating spans is pointless."""
    return not isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider)


def _target(method: str, target: str | None) -> dict[str, str]:
    """Attributes that name the tool or prompt."""
    if target is not None and method == "tools/call":
        return {"gen_ai.tool.name": target, "gen_ai.operation.name": "execute_tool"}
    if target is not None and method == "prompts/get":
        return {"gen_ai.prompt.name": target}
    return {}


def _response_code(exc: BaseException | None) -> str | None:
    """The JSON-RPC code of an error sent by the server itself, or None."""
    if not isinstance(exc, MCPError) or isinstance(exc, ResilienceError):
        return None
    return str(exc.error.code)

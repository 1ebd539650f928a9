"""Observation of one call: its operation id, its events, and its entry in statistics and traces.

The executor enters one `ObservedCall` per call, reports each failed attempt to it, and hands it the result. Without
listeners this costs a few microseconds per call.
"""

from __future__ import annotations

import itertools
import os
import time
from contextvars import Token
from types import TracebackType
from typing import Any

from pydantic_core import to_json

from .._sdk.installed import MCPError
from .._sdk.results import is_error_result
from ..errors import DeadlineExceeded, ResilienceError
from ..events import AttemptFailed, CallFinished, Outcome
from ..evidence import Delivery
from ..foreign_code import calling
from ..verdicts.verdict import Verdict
from .hub import Described, Hub, RunningCall, current_call
from .otel import Telemetry
from .stats import Recorder

_ANSWERED: tuple[Outcome, str | None] = (Outcome.RESULT, None)

_REFUSED: tuple[Outcome, str | None] = (Outcome.TOOL_ERROR, "tool_error")


class Observer:
    """Observes the calls of one client.

    Args:
        hub: Receives the events.
        stats: Counts the calls; None for a recorder of its own.
        telemetry: OpenTelemetry, or None if it is not installed.
    """

    def __init__(self, hub: Hub, stats: Recorder | None = None, telemetry: Telemetry | None = None) -> None:
        self.hub = hub
        self.stats = stats or Recorder(hub.redactor)
        self.telemetry = telemetry
        self._prefix = os.urandom(8).hex()
        self._numbers = itertools.count(1)

    def call(self, operation: Described) -> ObservedCall:
        """A context manager around one call."""
        return ObservedCall(self, operation, f"{self._prefix}-{next(self._numbers):x}")

    def attempt_failed(self, verdict: Verdict, *, transparent: bool, error: Any = None, result: Any = None) -> None:
        """Report that an attempt of the running call failed, or got an `isError` result that suggests a retry.

        Args:
            verdict: The classifier's verdict.
            transparent: Whether a retry is free: it does not use one of the call's attempts.
            error: What the SDK raised, or None.
            result: The `isError` result, or None.
        """
        call = current_call.get()
        if isinstance(call, ObservedCall) and call.hub is self.hub:
            call.attempt_failed(verdict, error, result, transparent=transparent)

    def sent_again(self, *, transparent: bool) -> None:
        """Report that a call is being sent again.

        Args:
            transparent: Whether this retry is free: it does not use one of the call's attempts.
        """
        self.stats.retried(transparent=transparent)
        if self.telemetry is not None:
            with calling("OpenTelemetry", self.hub.log_exception):  # a user's exporter must not fail a call
                self.telemetry.retried(transparent=transparent)


class ObservedCall(RunningCall):
    """One call, from the caller's point of view.

    Attributes:
        operation: The operation.
        tool: The tool it calls, or None.
        failed: Number of attempts that were sent and failed, or got an `isError` result that suggests a retry.
        span: Data that telemetry keeps for the call.
    """

    __slots__ = ("_began", "_judged", "_observer", "_result", "_token", "failed", "operation", "span", "tool")

    _began: float
    _token: Token[RunningCall | None]

    def __init__(self, observer: Observer, operation: Described, operation_id: str) -> None:
        RunningCall.__init__(self, observer.hub, operation_id)
        self._observer = observer
        self.operation = operation
        self.tool = operation.target if operation.method == "tools/call" else None
        self.failed = 0
        self.span: Any = None
        self._result: Any = None
        self._judged: Any = None

    def __enter__(self) -> ObservedCall:
        observer = self._observer
        self._token = current_call.set(self)
        observer.stats.running += 1
        if observer.telemetry is not None:
            with calling("OpenTelemetry", self.hub.log_exception):  # a user's sampler or exporter must not fail a call
                observer.telemetry.begin(self)
        if self.hub.debug:
            self.hub.log_detail(f"arguments of {self.operation}", _text(self.operation.arguments))
        self._began = time.perf_counter()
        return self

    def attempt_failed(self, verdict: Verdict, error: Any, result: Any, *, transparent: bool) -> None:
        """See `Observer.attempt_failed`."""
        self.failed += verdict.delivery is not Delivery.NOT_SENT
        self._judged = self._judged if result is None else result
        if self.hub.debug and isinstance(error, MCPError):
            self.hub.log_detail(f"error of {self.operation}", f"{error} {_text(error.error.data)}")
        self.hub.emit(
            AttemptFailed(
                server=self.hub.server,
                operation=str(self.operation),
                attempt=self.failed,
                category=verdict.category.value,
                delivery=verdict.delivery,
                transparent=transparent,
                reason=verdict.reason,
            )
        )

    def answered(self, result: Any) -> Any:
        """Record the call's result and return it unchanged."""
        self._result = result
        return result

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        elapsed = time.perf_counter() - self._began
        observer, hub = self._observer, self.hub
        attempts = self.failed
        if exc is None:
            refused = self.tool is not None and is_error_result(self._result)
            outcome, error = _REFUSED if refused else _ANSWERED
            attempts += self._judged is None or self._judged is not self._result
        elif isinstance(exc, Exception):
            if self.attempt is not None:  # otherwise it holds no server text, and failing fast must stay fast
                hub.redactor.clean_error(exc)
            outcome, error = Outcome.ERROR, error_type(exc)
        else:
            outcome, error = Outcome.CANCELLED, error_type(exc)
        observer.stats.running -= 1
        observer.stats.finished(self.tool, outcome, attempts, elapsed)
        if observer.telemetry is not None:
            with calling("OpenTelemetry", hub.log_exception):
                observer.telemetry.finish(self, outcome, error, exc, attempts=attempts, elapsed=elapsed)
        if hub.debug and exc is None:
            hub.log_detail(f"result of {self.operation}", _text(self._result))
        if hub.wants(CallFinished):
            hub.emit(
                CallFinished(
                    server=hub.server,
                    operation=str(self.operation),
                    outcome=outcome,
                    attempts=attempts,
                    elapsed=elapsed,
                    error=error,
                )
            )
        current_call.reset(self._token)


def error_type(exc: BaseException) -> str:
    """OpenTelemetry's `error.type` of an exception: `timeout`, the server's JSON-RPC code, or the exception's type."""
    if isinstance(exc, DeadlineExceeded):
        return "timeout"
    if isinstance(exc, MCPError) and not isinstance(exc, ResilienceError):
        return str(exc.error.code)
    return "timeout" if isinstance(exc, TimeoutError) else type(exc).__qualname__


def _text(value: Any) -> str:
    return "" if value is None else to_json(value, fallback=str, by_alias=True).decode("utf-8", "replace")

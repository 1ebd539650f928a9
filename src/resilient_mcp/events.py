"""What happens in a client, as one frozen dataclass per event, and the hub that hands them out in order.

Pass `on_event=` to `ResilientClient`, or iterate over `client.events()`. A listener that raises or is slow is logged,
never felt. The same facts go to the logger `resilient_mcp`, in the record's `extra`: one INFO per change of state, one
WARNING per retry that costs an attempt, DEBUG for the rest. Whatever a server put into an event has lost its secrets,
and is one printable line in the log.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from .event_stream import EventStream
from .evidence import Attempt, Delivery, Evidence, printable
from .redact import Redactor
from .strategies.breaker import BreakerState

logger = logging.getLogger("resilient_mcp")
logger.addHandler(logging.NullHandler())  # a library is quiet where nobody configured logging


class State(enum.Enum):
    """Where the connection to a server stands."""

    IDLE = "idle"
    CONNECTING = "connecting"
    READY = "ready"
    RECONNECTING = "reconnecting"
    SUSPENDED = "suspended"
    FAILED = "failed"
    CLOSED = "closed"


class Outcome(enum.Enum):
    """How a call ended, for its caller."""

    RESULT = "result"
    """The server's result."""
    TOOL_ERROR = "tool error"
    """A result with `isError`: an answer, for the model to read."""
    ERROR = "error"
    """An exception: the server's own error or one of this library."""
    CANCELLED = "cancelled"
    """The caller gave it up."""


def _own(**options: Any) -> Any:
    """A field that is ours from end to end: names in it are what others look for, and nothing is taken out."""
    return field(metadata={"redact": False}, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        server: The name of the server.
        operation_id: The call in whose course it happened, the same for everything that one call causes; or None.
        level: The level of its log record.
    """

    level: ClassVar[int] = logging.DEBUG

    server: str = _own()
    operation_id: str | None = _own(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """The connection's state changed.

    Attributes:
        reason: Why it is not `ready`, in one line; empty where the state says it all.
    """

    level: ClassVar[int] = logging.INFO

    old: State
    new: State
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """A connection is ready for calls.

    Attributes:
        generation: Counts the connections of this client, from 1.
        protocol_version: What was negotiated.
        elapsed: Seconds it took to connect and negotiate.
    """

    generation: int
    protocol_version: str
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(Event):
    """A connection ended.

    Attributes:
        generation: The connection.
        reason: Why, in one line.
        evidence: What was seen of it: exit status, signal, stderr.
        expected: Whether the client itself ended it: it was closed, or a restart was asked for.
    """

    generation: int
    reason: str
    evidence: Evidence | None
    expected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting(Event):
    """A server takes long to start. It is not stopped for that before `Policy.timeout.connect` is over.

    Attributes:
        elapsed: Seconds since it was started.
        stderr: The last line that its process wrote to stderr, printable; empty if there is none.
    """

    level: ClassVar[int] = logging.INFO

    elapsed: float
    stderr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(Event):
    """The next try to connect is due in `delay` seconds."""

    delay: float
    suspended: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """One try of a call failed, or was answered by an `isError` result that may be worth another.

    Attributes:
        operation: `method` or `method target`.
        attempt: How often it was sent so far.
        category: The classifier's word for what sort of failure it was.
        delivery: Whether the server may have run it.
        transparent: It never left, or was turned away unread, so it costs no attempt.
        reason: What happened, in one line.
    """

    operation: str
    attempt: int
    category: str
    delivery: Delivery
    transparent: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """A call failed and will be sent again in `delay` seconds.

    Attributes:
        operation: `method` or `method target`.
        attempt: How often it was sent so far.
        delay: Seconds until it is sent again.
        transparent: It never left, so sending it costs no attempt.
        reason: What happened, in one line.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    attempt: int
    delay: float
    transparent: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChanged(Event):
    """The circuit breaker changed its state.

    Attributes:
        old: What it was.
        new: What it is.
        reason: Why, in one line.
        retry_in: Seconds until it lets a call through, or None when nobody knows or it does already.
    """

    level: ClassVar[int] = logging.INFO

    old: BreakerState
    new: BreakerState
    reason: str
    retry_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled(Event):
    """The server asked for less traffic: no call is sent to it for `delay` seconds."""

    level: ClassVar[int] = logging.INFO

    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(Event):
    """A call ended, whatever its fate.

    Attributes:
        operation: `method` or `method target`.
        outcome: How.
        attempts: How often it was sent.
        elapsed: Seconds from the call to its end, waits and retries included.
        error: What sort of failure, None for a result: `tool_error`, `timeout`, the server's JSON-RPC code or the
            exception's type (OpenTelemetry's `error.type`).
    """

    operation: str
    outcome: Outcome
    attempts: int
    elapsed: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageOnStdout(Event):
    """The server process wrote something to stdout that is no JSON-RPC message. Reported once per connection.

    Attributes:
        generation: The connection.
        sample: The beginning of it, printable.
        remedy: What whoever writes the server can do.
    """

    level: ClassVar[int] = logging.WARNING
    generation: int
    sample: str
    remedy: str = "it was ignored; stdout is for MCP messages only, and everything else belongs on stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Event):
    """What was subscribed to, listened for or set before is in force again.

    One follows each connection that had something to restore, once everything was tried. What failed is tried again
    as long as the connection lives; each part that then comes back has an event of its own, and so has a part that
    the server ended while the connection lived.

    Attributes:
        generation: The connection.
        restored: What is in force again, as `method target`.
        failed: What is not, or not yet; also what this server does not declare.
    """

    generation: int
    restored: tuple[str, ...]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogChanged(Event):
    """The server's tools are not what they were when they were last listed.

    Attributes:
        added: Names of new tools.
        removed: Names of tools that are gone.
        changed: Names of tools whose description, schema or annotations changed.
    """

    level: ClassVar[int] = logging.INFO

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStale(Event):
    """A list or a resource was answered from the last good copy, because the server is unavailable.

    Attributes:
        operation: `method` or `method target`.
        age: Seconds since the server gave that answer.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    age: float


Listener: TypeAlias = Callable[[Event], None]


@dataclass(slots=True, eq=False)
class RunningCall:
    """The call on whose behalf the running task works.

    Attributes:
        hub: The hub of its client.
        operation_id: Its own, whatever it takes to answer it.
        attempt: Its latest try on a connection, or None.
    """

    hub: Hub
    operation_id: str
    attempt: Attempt | None = None


current_call: ContextVar[RunningCall | None] = ContextVar("resilient_mcp_call", default=None)

_SLOW = 0.1
"""Seconds after which a listener is told to be slow: it runs where the calls run, and holds them up."""
_ITEMS = 50
_DEBUG_TEXT = 10_000
"""Characters of a server's text, an argument or a result in one record of debug mode."""


class Hub:
    """Hands each event to the log and to every listener, in order.

    Args:
        server: The name of the server.
        listener: The user's function, or None.
        redactor: What takes secrets out of events.
        debug: Whether the log gets arguments, results and what servers say in full; None asks `RESILIENT_MCP_DEBUG`.
    """

    def __init__(
        self,
        server: str,
        listener: Listener | None = None,
        *,
        redactor: Redactor | None = None,
        debug: bool | None = None,
    ) -> None:
        self.server = server
        self.redactor = redactor or Redactor()
        self.debug = os.environ.get("RESILIENT_MCP_DEBUG", "") not in {"", "0"} if debug is None else debug
        self._listener = listener
        self._slow = False
        self._own: list[Listener] = []
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._closed = False
        self._queue: deque[Event] = deque()
        self._emitting = False

    def add(self, listener: Listener) -> None:
        """Hand every event to a listener of this library's own, before the user's."""
        self._own.append(listener)

    def stream(self, buffer: int) -> EventStream:
        """A new iterator over the events from now on."""
        stream = EventStream(buffer)
        if self._closed:
            stream.close()
        else:
            self._streams.add(stream)
        return stream

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody would see an event of this kind: one that nobody sees need not be made."""
        return self._listener is not None or len(self._streams) > 0 or logger.isEnabledFor(kind.level)

    def emit(self, event: Event) -> None:
        """Tell everyone; never raises. An event that a listener causes comes after the one that it listens to."""
        call = current_call.get()
        if call is not None and call.hub is self and event.operation_id is None:
            event = dataclasses.replace(event, operation_id=call.operation_id)
        self._queue.append(event)
        if self._emitting:
            return
        self._emitting = True
        try:
            while self._queue:
                self._hand_out(self.redactor.cleaned(self._queue.popleft()))
        finally:
            self._emitting = False

    def _hand_out(self, event: Event) -> None:
        self._log(event)
        for listener in self._own:
            self._tell(listener, event)
        for stream in list(self._streams):
            stream.put(event)
        if self._listener is not None:
            began = time.perf_counter()
            self._tell(self._listener, event)
            took = time.perf_counter() - began
            if took > _SLOW and not self._slow:
                self._slow = True
                name = type(event).__name__
                logger.warning("on_event of %s took %.1f s for %s: use client.events()", self.server, took, name)
        if isinstance(event, StateChanged) and event.new is State.CLOSED:
            self._closed = True
            for stream in list(self._streams):
                stream.close()

    def _tell(self, listener: Listener, event: Event) -> None:
        try:
            listener(event)
        except Exception as exc:
            self.log_exception(f"a listener raised on {type(event).__name__}", exc)

    # --- the log ---

    def _log(self, event: Event) -> None:
        level = logging.DEBUG if getattr(event, "transparent", False) else event.level
        if logger.isEnabledFor(level):
            facts = {f.name: _plain(getattr(event, f.name)) for f in dataclasses.fields(event)}
            facts = {name: value for name, value in facts.items() if value is not None and value != ""}
            name = type(event).__name__
            text = " ".join(f"{key}={value}" for key, value in facts.items() if key != "evidence")
            extra = {f"mcp_{key}": value for key, value in facts.items()}
            logger.log(level, "%s %s", name, printable(text, _DEBUG_TEXT), extra={"mcp_event": name, **extra})
        evidence = getattr(event, "evidence", None)
        if self.debug and isinstance(evidence, Evidence) and evidence.exit is not None:
            self.log_detail("stderr", evidence.exit.stderr[-_DEBUG_TEXT:])

    def log_detail(self, what: str, text: str) -> None:
        """One record of what production must not log, in debug mode only: cleaned, capped, one line."""
        if self.debug and logger.isEnabledFor(logging.DEBUG):
            extra = {"mcp_event": what, "mcp_server": self.server}
            logger.debug("%s server=%s: %s", what, self.server, self.redactor.line(text, _DEBUG_TEXT), extra=extra)

    def log_exception(self, what: str, exc: BaseException) -> None:
        """A fault in somebody's code, with its traceback."""
        exc = self.redactor.clean_error(exc)
        logger.error("%s: %s", self.server, what, exc_info=exc, extra={"mcp_server": self.server})


def check_listener(listener: object) -> None:
    """Refuse what cannot be an `on_event=`.

    Raises:
        TypeError: It cannot be called, or must be awaited.
    """
    if listener is not None and not callable(listener):
        raise TypeError(f"on_event is {listener!r}: pass a function that takes an Event")
    if inspect.iscoroutinefunction(listener):
        raise TypeError("on_event is a coroutine function: iterate over client.events() instead")


def _plain(value: object) -> Any:
    """A fact as structured handlers take it: numbers, printable strings, and bounded lists and dicts of them."""
    if isinstance(value, enum.Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Evidence):
        value = {f.name: fact for f in dataclasses.fields(value) if (fact := getattr(value, f.name)) is not None}
    if isinstance(value, Mapping):
        return {printable(str(key)): _plain(item) for key, item in list(value.items())[:_ITEMS]}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in list(value)[:_ITEMS]]
    return printable(str(value))


class _Stamp(logging.Filter):
    """Every record of a call carries its operation id, whoever writes it."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        if call is not None and not hasattr(record, "mcp_operation_id"):
            record.mcp_operation_id = call.operation_id
        return True


logger.addFilter(_Stamp())

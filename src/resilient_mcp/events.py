"""What happens in a client, as one frozen dataclass per event, and the hub that hands them out in order.

Pass `on_event=` to `ResilientClient`, or iterate over `client.events()`. A listener that raises or is slow is logged,
never felt. The same facts go to the logger `resilient_mcp`, in the record's `extra`: one INFO per change of state, one
WARNING per retry that costs an attempt, DEBUG for the rest. Whatever a server put into an event has lost its secrets,
and is one printable line in the log.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .evidence import Delivery, Evidence
from .strategies.breaker import BreakerState


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

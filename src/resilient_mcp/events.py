"""The events of a client, one frozen dataclass each, delivered in order.

Pass `on_event=` to `ResilientClient`, or iterate over `client.events()`. A listener that raises or is slow is logged,
and no call fails because of it. The logger `resilient_mcp` gets the same facts in the record's `extra`: one INFO per
change of state, one WARNING per retry that costs an attempt, DEBUG for most of the rest. Text from a server has its
secrets removed, and is one printable line in the log.
"""

import enum
import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .evidence import Delivery, Evidence
from .strategies.breaker import BreakerState


class State(enum.Enum):
    """The state of the connection to a server."""

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
    """The caller cancelled it."""


def _own(**options: Any) -> Any:
    """A field whose value never comes from a server; it is not redacted, so that logs can be searched for it."""
    return field(metadata={"redact": False}, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base class of all events.

    Attributes:
        server: The name of the server.
        operation_id: Identifies the call during which it happened, the same for everything that a call causes; or None.
        level: The level of its log record.
    """

    level: ClassVar[int] = logging.DEBUG

    server: str = _own()
    operation_id: str | None = _own(default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """The connection's state changed.

    Attributes:
        reason: Why it is not `ready`, in one line; empty if the state is reason enough.
    """

    level: ClassVar[int] = logging.INFO

    old: State
    new: State
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(Event):
    """A connection is ready for calls.

    Attributes:
        generation: The number of the connection, counted from 1 per client.
        protocol_version: The negotiated protocol version.
        elapsed: Seconds that connecting and negotiating took.
    """

    generation: int
    protocol_version: str
    elapsed: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(Event):
    """A connection ended.

    Attributes:
        generation: The number of the connection.
        reason: Why, in one line.
        evidence: What the transport recorded: exit status, signal, stderr.
        expected: Whether the client itself ended it, because of `aclose()` or `restart()`.
    """

    generation: int
    reason: str
    evidence: Evidence | None
    expected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Starting(Event):
    """A server is slow to start. It is given up only after `Policy.timeout.connect`.

    Attributes:
        elapsed: Seconds since the start began.
        stderr: The last line that its process wrote to stderr, printable; empty if there is none.
    """

    level: ClassVar[int] = logging.INFO

    elapsed: float
    stderr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(Event):
    """The next connection attempt is due in `delay` seconds."""

    delay: float
    suspended: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFailed(Event):
    """An attempt of a call failed, or got an `isError` result that may be worth a retry.

    Attributes:
        operation: `method` or `method target`.
        attempt: How often the call was sent so far.
        category: The classifier's category of the failure.
        delivery: Whether the server may have run it.
        transparent: Whether it costs no attempt, because it was never sent or its session no longer existed.
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
        transparent: Whether the retry is free, because it was never sent or its session no longer existed.
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
    """The circuit breaker changed state.

    Attributes:
        old: The previous state.
        new: The new state.
        reason: Why, in one line.
        retry_in: Seconds until it admits a call; None if unknown, or if it admits calls already.
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
    """A call ended, whatever its outcome.

    Attributes:
        operation: `method` or `method target`.
        outcome: How it ended.
        attempts: How often it was sent.
        elapsed: Seconds from start to end of the call, including waits and retries.
        error: The type of failure, None for a result: `tool_error`, `timeout`, the server's JSON-RPC code or the
            exception's type (OpenTelemetry's `error.type`).
    """

    operation: str
    outcome: Outcome
    attempts: int
    elapsed: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageOnStdout(Event):
    """The server process wrote something to stdout that is not a JSON-RPC message. Reported once per connection.

    Attributes:
        generation: The number of the connection.
        sample: The beginning of the output, printable.
        remedy: What the author of the server can do.
    """

    level: ClassVar[int] = logging.WARNING
    generation: int
    sample: str
    remedy: str = "it was ignored; stdout is for MCP messages only, and everything else belongs on stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored(Event):
    """Subscriptions, listeners and settings from before are in effect again.

    Emitted for each connection that had something to restore, once every part was attempted. Parts that failed are
    retried while the connection lasts; each that then succeeds has an event of its own, and so has a part that the
    server ended while the connection lasted.

    Attributes:
        generation: The number of the connection.
        restored: The parts in effect again, as `method target`.
        failed: The parts that are not, or not yet; also those that this server does not declare.
    """

    generation: int
    restored: tuple[str, ...]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogChanged(Event):
    """The server's tools have changed since they were last listed.

    Attributes:
        added: Names of new tools.
        removed: Names of removed tools.
        changed: Names of tools whose description, schema or annotations changed.
    """

    level: ClassVar[int] = logging.INFO

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedStale(Event):
    """A list or a resource was served from the last good copy, because the server is unavailable.

    Attributes:
        operation: `method` or `method target`.
        age: Seconds since the server gave that answer.
    """

    level: ClassVar[int] = logging.WARNING

    operation: str
    age: float

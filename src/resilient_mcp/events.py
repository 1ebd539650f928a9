"""What happens in a client, as one frozen dataclass per event, and the hub that hands them out.

Pass `on_event=` to `ResilientClient` to get them. A listener that raises is logged, never felt. The same facts go to
the logger `resilient_mcp`, in the record's `extra`.
"""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from .evidence import Evidence
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        server: The name of the server.
    """

    server: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """The connection's state changed."""

    old: State
    new: State


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
    """A connection ended."""

    generation: int
    reason: str
    evidence: Evidence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartScheduled(Event):
    """The next try to connect is due in `delay` seconds."""

    delay: float
    suspended: bool
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

    old: BreakerState
    new: BreakerState
    reason: str
    retry_in: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled(Event):
    """The server asked for less traffic: no call is sent to it for `delay` seconds."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageOnStdout(Event):
    """The server process wrote something to stdout that is no JSON-RPC message. Told once per connection.

    Attributes:
        generation: The connection.
        sample: The beginning of it, printable.
    """

    generation: int
    sample: str


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

    operation: str
    age: float


Listener: TypeAlias = Callable[[Event], None]

_LEVELS: dict[type[Event], int] = {
    StateChanged: logging.INFO,
    RetryScheduled: logging.WARNING,
    CatalogChanged: logging.INFO,
    ServedStale: logging.WARNING,
}


class Hub:
    """Hands each event to the log and to the user's listener, in order."""

    def __init__(self, server: str, listener: Listener | None = None) -> None:
        self.server = server
        self._listener = listener

    def emit(self, event: Event) -> None:
        """Tell everyone; never raises."""
        level = _LEVELS.get(type(event), logging.DEBUG)
        if getattr(event, "transparent", False):
            level = logging.DEBUG
        if logger.isEnabledFor(level):
            names = [f.name for f in dataclasses.fields(event)]
            facts = {name: _plain(getattr(event, name)) for name in names if name != "evidence"}
            text = " ".join(f"{name}={value}" for name, value in facts.items())
            extra = {f"mcp_{name}": value for name, value in facts.items()}
            logger.log(level, "%s %s", type(event).__name__, text, extra=extra)
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                logger.exception("on_event listener raised on %s", type(event).__name__)


def _plain(value: object) -> object:
    return value.value if isinstance(value, enum.Enum) else value

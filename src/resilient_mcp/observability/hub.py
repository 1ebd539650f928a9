"""Hands each event to the log, to listeners and to `client.events()`, in order."""

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
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import anyio
import anyio.lowlevel

from ..events import Event, State, StateChanged
from ..evidence import Evidence
from ..foreign_code import calling, guarded_logger
from ..in_flight import Attempt
from ..text.printable import printable
from ..text.redact import Redactor


class EventStream:
    """An async iterator over a client's events from its creation on; ends when the client is closed.

    A reader that falls behind loses the oldest events; other readers are not affected.

    Attributes:
        dropped: The number of events lost so far because the buffer was full.
    """

    def __init__(self, buffer: int) -> None:
        if buffer < 1:
            raise ValueError(f"buffer is {buffer}: pass the number of events to keep for a slow reader, at least 1")
        self.dropped = 0
        self._buffer: deque[Event] = deque(maxlen=buffer)
        self._news: anyio.Event | None = None
        self._closed = False

    def put(self, event: Event) -> None:
        """Buffer an event for the reader."""
        self.dropped += len(self._buffer) == self._buffer.maxlen
        self._buffer.append(event)
        self._wake()

    def close(self) -> None:
        """End the iteration once the buffer is empty."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        await anyio.lowlevel.checkpoint()  # or a reader of a buffer that never runs empty would starve the event loop
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if self._news is None:
                self._news = anyio.Event()
            await self._news.wait()
        return self._buffer.popleft()


logger = guarded_logger("resilient_mcp")


logger.addHandler(logging.NullHandler())  # stay silent unless the application configures logging


Listener: TypeAlias = Callable[[Event], None]
"""Called with each event, in order; it must not block."""


class Described(Protocol):
    """An operation's description of itself; `str()` gives one printable line."""

    @property
    def method(self) -> str:
        """The JSON-RPC method."""

    @property
    def target(self) -> str | None:
        """The tool, prompt or resource, or None."""

    @property
    def arguments(self) -> Any:
        """The tool's arguments, or None."""


@dataclass(slots=True, eq=False)
class RunningCall:
    """The call that the current task is running.

    Attributes:
        hub: The hub of its client.
        operation_id: Identifies the call, across all of its attempts.
        attempt: Its latest attempt on a connection, or None.
    """

    hub: Hub
    operation_id: str
    attempt: Attempt | None = None


current_call: ContextVar[RunningCall | None] = ContextVar("resilient_mcp_call", default=None)


# Seconds after which a listener is reported as slow: it runs in the event loop and delays the calls.
_SLOW = 0.1


# Stands in for a text of an event that could not be cleaned.
_NOT_SHOWN = "[not shown]"


# Items of a list or a mapping in one log record.
_ITEMS = 50


# Characters of server output, an argument or a result in one debug-mode record.
_DEBUG_TEXT = 10_000


class Hub:
    """Passes each event to the log and to every listener, in order.

    Args:
        server: The name of the server.
        listener: The user's function, or None.
        redactor: Removes secrets from events.
        debug: Whether to log arguments, results and server output in full; None reads `RESILIENT_MCP_DEBUG`.
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
        """Add a listener of this library, called before the user's."""
        self._own.append(listener)

    def stream(self, buffer: int) -> EventStream:
        """Return a new iterator over the events from now on."""
        stream = EventStream(buffer)
        if self._closed:
            stream.close()
        else:
            self._streams.add(stream)
        return stream

    def wants(self, kind: type[Event]) -> bool:
        """Whether an event of this kind has a reader; if not, it need not be created."""
        return self._listener is not None or len(self._streams) > 0 or logger.isEnabledFor(kind.level)

    def emit(self, event: Event) -> None:
        """Deliver an event. Never raises. An event that a listener causes is delivered after the current one."""
        call = current_call.get()
        if call is not None and call.hub is self and event.operation_id is None:
            event = dataclasses.replace(event, operation_id=call.operation_id)
        self._queue.append(event)
        if self._emitting:  # called by a listener: the outer call delivers it next, so all listeners see one order
            return
        self._emitting = True
        try:
            while self._queue:
                event = self._queue.popleft()
                with calling("the handling of an event", self.log_exception):
                    self._hand_out(self._cleaned(event))
        finally:
            self._emitting = False

    def _cleaned(self, event: Event) -> Event:
        """`event` without secrets; without its texts if that fails, since listeners rely on the event itself."""
        try:
            with calling("the redactor"):
                cleaned = self.redactor.cleaned(event)
        except Exception as exc:
            logger.error("%s: %s of %s is reported without its texts", self.server, exc, type(event).__name__)  # noqa: TRY400 - its traceback may show secrets
            hidden: dict[str, Any] = {}
            for field in dataclasses.fields(event):
                if field.init and field.metadata.get("redact", True) and isinstance(getattr(event, field.name), str):
                    hidden[field.name] = _NOT_SHOWN
            if getattr(event, "evidence", None) is not None:
                hidden["evidence"] = None
            return dataclasses.replace(event, **hidden)
        return cleaned

    def _hand_out(self, event: Event) -> None:
        with calling("logging an event", self.log_exception):
            self._log(event)
        for listener in self._own:
            with calling(type(listener).__name__, self.log_exception):
                listener(event)
        for stream in list(self._streams):
            stream.put(event)
        if self._listener is not None:
            began = time.perf_counter()
            with calling("on_event", self.log_exception):
                self._listener(event)
            took = time.perf_counter() - began
            if took > _SLOW and not self._slow:
                self._slow = True
                name = type(event).__name__
                logger.warning("on_event of %s took %.1f s for %s: use client.events()", self.server, took, name)
        if isinstance(event, StateChanged) and event.new is State.CLOSED:
            self._closed = True
            for stream in list(self._streams):
                stream.close()

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
        """Log, in debug mode only, what production must not log: one line, cleaned and capped."""
        if self.debug and logger.isEnabledFor(logging.DEBUG):
            extra = {"mcp_event": what, "mcp_server": self.server}
            logger.debug("%s server=%s: %s", what, self.server, self.redactor.line(text, _DEBUG_TEXT), extra=extra)

    def log_exception(self, what: str, exc: BaseException) -> None:
        """Log an error in foreign code, with its traceback."""
        extra = {"mcp_server": self.server}
        try:
            with calling("the redactor"):
                exc = self.redactor.clean_error(exc)
        except Exception as fault:
            logger.error("%s: %s %s, and %s", self.server, what, type(exc).__name__, fault, extra=extra)  # noqa: TRY400
        else:
            logger.error("%s: %s", self.server, what, exc_info=exc, extra=extra)


def check_listener(listener: object) -> None:
    """Check the `on_event=` argument.

    Raises:
        TypeError: It is not callable, or is a coroutine function.
    """
    if listener is not None and not callable(listener):
        raise TypeError(f"on_event is {listener!r}: pass a function that takes an Event")
    if inspect.iscoroutinefunction(listener):
        raise TypeError("on_event is a coroutine function: iterate over client.events() instead")


def _plain(value: object) -> Any:
    """A value for structured log handlers: numbers, printable strings, and bounded lists and dicts of them."""
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
    """Adds the operation id of the current call to every record."""

    def filter(self, record: logging.LogRecord) -> bool:
        call = current_call.get()
        if call is not None and not hasattr(record, "mcp_operation_id"):
            record.mcp_operation_id = call.operation_id
        return True


logger.addFilter(_Stamp())

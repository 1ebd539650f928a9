"""Server-sent events from bytes (sans-I/O), as leniently as the WHATWG algorithm asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..jsonrpc import Unusable

REOPEN = 1.0
"""Seconds after which a stream is reopened, unless the server names another time (as in the SDK)."""

# Longest time in milliseconds for which a server may postpone the reopening of a stream, and the digits it takes.
_LONGEST_RETRY, _DIGITS = 60_000, 12

# Longest id that is sent back: servers limit the length of a header.
_LONGEST_ID = 4096

_BOM = b"\xef\xbb\xbf"
# The first letters of the known fields: there may be a flood of comments.
_FIELDS = b"deir"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event.

    Attributes:
        data: Its data, without the last newline; empty if it has none.
        kind: Its type; `message` unless the event names another one.
    """

    data: bytes
    kind: bytes = b"message"


class SseParser:
    """Splits a stream of bytes into events.

    Lines end with CR, LF or CRLF, mixed as they come; invalid UTF-8 is the reader's to replace; unknown fields and
    comments are skipped, and so is an event that the end of the stream cuts off
    (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).

    Args:
        max_bytes: Maximum length of an event.

    Attributes:
        last_id: The last event id; empty if there is none.
        retry: Seconds after which the server wants the stream to be reopened, or None.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._line = (
            bytearray()
        )  # what has come of the unfinished line; chunks may be tiny, and each would take 40 bytes
        self._size = 0  # bytes of the data lines of the unfinished event; nothing else is kept
        self._after_cr = False
        self._at_start = True
        self._data = bytearray()  # each line with its newline
        self._kind = b""
        self._id: str | None = None  # of the unfinished event
        self.last_id = ""
        self.retry: float | None = None

    def feed(self, chunk: bytes) -> Iterator[SseEvent]:
        """The events that `chunk` completes, including those without data: they may carry an id.

        Raises:
            Unusable: The unfinished event exceeds `max_bytes`.
        """
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")  # the second half of a CRLF
            self._after_cr = False
        end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if end:
            self._after_cr = chunk.endswith(b"\r")
            whole = bytes(self._line + chunk[:end]) if self._line else chunk[:end]
            self._line = bytearray()
            if self._at_start:
                self._at_start = False
                whole = whole.removeprefix(_BOM)
            for line in whole.splitlines():
                if not line:
                    yield self._event()
                    continue
                if line.startswith(b"data"):
                    self._size += len(line)
                if max(self._size, len(line)) > self._max:
                    raise self._too_long()
                if line[0] in _FIELDS:
                    self._field(line)
        self._line += chunk[end:]
        if self._size + len(self._line) > self._max:
            raise self._too_long()

    def _too_long(self) -> Unusable:
        return Unusable(f"an event over the limit of {self._max} bytes (Policy.max_message_bytes)")

    def restart(self) -> None:
        """Begin a new stream that continues the last one; an unfinished event is lost."""
        self._line = bytearray()
        self._data, self._kind, self._size, self._id = bytearray(), b"", 0, None
        self._after_cr, self._at_start = False, True

    @property
    def resume_from(self) -> bytes | None:
        """The `Last-Event-ID` with which the stream can be resumed; None if it has no id, or none for a header."""
        value = self.last_id.strip(" \t")
        fits = value and len(value) <= _LONGEST_ID and all(char >= " " or char == "\t" for char in value)
        return value.encode() if fits and "\x7f" not in value else None

    def _event(self) -> SseEvent:
        event = SseEvent(bytes(self._data[:-1]), self._kind or b"message")
        if self._id is not None:  # not before: an event that is cut off must come again
            self.last_id = self._id
        self._data, self._kind, self._size, self._id = bytearray(), b"", 0, None
        return event

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data += value + b"\n"
        elif name == b"event":
            self._kind = value
        elif name == b"id" and b"\0" not in value:
            self._id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit():
            self.retry = min(int(value[:_DIGITS]), _LONGEST_RETRY) / 1000

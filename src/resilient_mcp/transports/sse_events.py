"""Inspect server-sent events as they pass (sans-I/O): which are complete, and whether one answers a request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from pydantic_core import from_json, to_json

_BOUNDARY = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_BOUNDARY_LENGTH = 4


class Unusable(Exception):  # noqa: N818 - a signal between two modules, never seen by users
    """Raised for an event that cannot be passed on, with the reason."""


class EventScanner:
    """Splits a stream of bytes into complete events, and watches for event ids and the answer to one request.

    Answers to other requests are dropped from that request's stream, since the SDK would take them for its answer.

    Args:
        request_id: JSON-RPC id of the request whose response ends the stream, or None.
        max_bytes: Maximum length of an event.
        preview: Turns data that cannot be passed on into one line.

    Attributes:
        answered: Whether the response to `request_id` has passed.
        stray: Preview of an answer to another request, or None.
        last_id: Last event id seen, with which the SDK can resume the stream, or None.
    """

    def __init__(self, request_id: object, max_bytes: int, preview: Callable[[bytes], str]) -> None:
        self._request_id = request_id
        self._max = max_bytes
        self._preview = preview
        self._buffer = bytearray()
        self._searched = 0
        self.answered = False
        self.stray: str | None = None
        self.last_id: str | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The events that `chunk` completes, each with the blank line that ends it.

        Raises:
            Unusable: An event is not JSON-RPC, or the unfinished one exceeds `max_bytes`.
        """
        self._buffer += chunk
        start = 0
        for boundary in _BOUNDARY.finditer(self._buffer, max(0, self._searched - _BOUNDARY_LENGTH)):
            event = bytes(self._buffer[start : boundary.end()])
            start = boundary.end()
            if (passed := self._passed(event)) is not None:
                yield passed
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if self._searched > self._max:
            raise Unusable(f"an event over the limit of {self._max} bytes (Policy.max_message_bytes)")

    def _passed(self, event: bytes) -> bytes | None:
        """`event` in the form to pass to the SDK; None to drop it."""
        kind, event_id, text = _fields(event)
        if kind == b"message" and text:
            message = parse(text)
            if not is_well_formed(message):
                raise Unusable(f"an event that is not JSON-RPC: {self._preview(text)}")
            assert isinstance(message, dict)
            if is_response(message, self._request_id):
                self.answered = True
                if message.get("id") is None:  # mcp 1.x cannot read it, and the call would never end
                    event = b"data: " + to_json({**message, "id": self._request_id}) + b"\n\n"
            elif self._request_id is not None and "method" not in message:
                self.stray = self._preview(text)
                return None
        if event_id:
            self.last_id = event_id.decode("utf-8", "replace")
        return event


def _fields(event: bytes) -> tuple[bytes, bytes, bytes]:
    """The type of an event, its id and its data."""
    data: list[bytes] = []
    kind, event_id = b"message", b""
    for line in event.splitlines():
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            kind = line[6:].strip()
        elif line.startswith(b"id:"):
            event_id = line[3:].strip() or event_id
    return kind, event_id, b"\n".join(data)


def parse(data: bytes) -> object:
    """`data` parsed as JSON, or None if it is not JSON."""
    try:
        return from_json(data)
    except ValueError:
        return None


def is_response(message: object, request_id: object) -> bool:
    """Whether `message` is a JSON-RPC response or error to `request_id`.

    An id echoed as a string matches, as it does for the SDK. So does an error with `"id": null`, which JSON-RPC 2.0
    prescribes if the server could not read the id.
    """
    if not is_well_formed(message):
        return False
    assert isinstance(message, dict)
    if "error" in message and message.get("id") is None:
        return True
    return "method" not in message and str(message.get("id")) == str(request_id)


def is_well_formed(message: object) -> bool:
    """Whether `message` has the shape of a JSON-RPC message that the SDK can read."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        return False
    if "method" in message:
        return isinstance(message["method"], str) and "error" not in message
    if "error" in message:
        error = message["error"]
        code = error.get("code") if isinstance(error, dict) else None
        return isinstance(code, int) and not isinstance(code, bool) and isinstance(error.get("message"), str)
    return isinstance(message.get("result"), dict)

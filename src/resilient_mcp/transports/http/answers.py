"""What an HTTP server answers to one request (sans-I/O): the messages in it, and which of them is the response."""

from __future__ import annotations

import re
from typing import Any

from mcp.shared.message import SessionMessage

from ..._sdk.messages import Hints, decode, message_from_json, method_and_id, result_id
from ...text.redact import Redactor
from ..jsonrpc import Unusable, is_response, parse
from .evidence import preview
from .sse_events import SseEvent, SseParser

# Bytes at both ends of a damaged answer in which its id is looked for.
_LOOKED_AT = 4096


class AnswerEvents:
    """The answer to one request, as it comes in server-sent events.

    Attributes:
        request_id: The JSON-RPC id of the request.
        parser: Splits its streams into events.
        hints: What the SDK attached to the request.
        is_complete: Whether the response has come.
        stray: Why an event could not be used, or empty.
    """

    def __init__(self, request_id: Any, parser: SseParser, hints: Hints, redactor: Redactor) -> None:
        self.request_id = request_id
        self.parser = parser
        self.hints = hints
        self._redactor = redactor
        self.is_complete = False
        self.stray = ""

    def take(self, event: SseEvent) -> SessionMessage | None:
        """The message in an event, or None if it has none that belongs here.

        Raises:
            Unusable: It is the response, and damaged.
        """
        if event.kind != b"message" or not event.data:
            return None
        message = message_in(event.data)
        if message is not None and method_and_id(message)[0] is not None:
            return message
        answer = response_in(message, event.data, self.request_id, any_id=self.hints.token is not None)
        if answer is not None:
            self.is_complete = True
            return answer
        quoted = preview(event.data, self._redactor)
        if _names(event.data, self.request_id):
            raise Unusable(f"an event that is not JSON-RPC: {quoted}")
        kind = "an event that is not JSON-RPC"
        if message is not None:
            kind = "an answer that is not the JSON-RPC response to this request"
        self.stray = f"{kind}: {quoted}"
        return None


def message_in(data: bytes) -> SessionMessage | None:
    """The message in the data of an event, whose invalid UTF-8 is replaced; None if there is none."""
    try:
        return decode(data)
    except ValueError:
        pass
    try:
        return decode(data.decode("utf-8", "replace").encode())
    except ValueError:
        return None


def response_in(message: SessionMessage | None, data: bytes, request_id: Any, *, any_id: bool) -> SessionMessage | None:
    """`message` if it is the response to a request; None if not.

    Args:
        message: What `data` was decoded to, or None.
        data: The message as it came.
        request_id: The id of the request.
        any_id: Whether the response may have another id, that of the request whose answer is resumed.
    """
    if message is not None and result_id(message) is not None:
        found = result_id(message)
        if found == request_id or (not any_id and str(found) == str(request_id)):
            return message
    body = parse(data)
    if any_id and isinstance(body, dict) and "method" not in body:
        body["id"] = request_id
    if not is_response(body, request_id):
        return None
    assert isinstance(body, dict)
    return message_from_json({**body, "id": request_id})


def _names(data: bytes, request_id: Any) -> bool:
    """Whether damaged data seems to be the response to a request."""
    body = parse(data)
    if isinstance(body, dict):
        return "method" not in body and str(body.get("id")) == str(request_id)
    ends = data[:_LOOKED_AT] + b" " + data[-_LOOKED_AT:]
    named = rb'"id"\s*:\s*"?' + re.escape(str(request_id).encode()) + rb'"?\s*[,}]'
    return b'"method"' not in ends and re.search(named, ends) is not None

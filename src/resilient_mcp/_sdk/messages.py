"""JSON-RPC messages of both majors of the SDK: read, written and changed on their way."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from mcp import types
from mcp.shared.message import ClientMessageMetadata, SessionMessage

from .installed import MAJOR, _types
from .results import dump


class UnencodableError(ValueError):
    """A message contains a value that cannot be sent as JSON.

    Attributes:
        path: The place of the value in the message, such as `$.params.arguments.text`.
        reason: What is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def body_of(item: SessionMessage) -> Any:
    """The JSON-RPC message itself; 1.x wraps it."""
    message: Any = item.message
    return message.root if MAJOR == 1 else message


# Distinguished by type: a failed attribute lookup on a pydantic model costs 2 µs.
_RESPONSES = (_types.JSONRPCResponse, _types.JSONRPCError)


def method_and_id(item: SessionMessage) -> tuple[str | None, Any]:
    """The (method, id) of an outgoing message; either is None if absent."""
    message = body_of(item)
    return getattr(message, "method", None), getattr(message, "id", None)


def add_meta(item: SessionMessage, meta: Mapping[str, object] | None) -> None:
    """Add `meta` to the `_meta` of an outgoing request, keeping what the caller put there."""
    if meta:
        message = body_of(item)
        params = dict(message.params or {})
        params["_meta"] = {**(params.get("_meta") or {}), **meta}
        message.params = params


def declare_capabilities(item: SessionMessage, capabilities: Mapping[str, Any]) -> None:
    """Make an outgoing `initialize` declare exactly `capabilities`."""
    message = body_of(item)
    message.params = {**(message.params or {}), "capabilities": capabilities}


def cancelled_id(item: SessionMessage) -> Any:
    """The request id that an outgoing `notifications/cancelled` names."""
    message = body_of(item)
    return (message.params or {}).get("requestId")


def response_id(item: SessionMessage) -> Any:
    """The id of an incoming response or error; None for anything else."""
    message = body_of(item)
    return message.id if isinstance(message, _RESPONSES) else None


_NOTIFICATION = _types.JSONRPCNotification


def is_notification(item: SessionMessage) -> bool:
    """Whether a message is a notification."""
    return isinstance(body_of(item), _NOTIFICATION)


def result_id(item: SessionMessage) -> Any:
    """The id of an incoming response with a result; None for anything else."""
    message = body_of(item)
    return message.id if isinstance(message, _types.JSONRPCResponse) else None


def negotiated_version(item: SessionMessage) -> str | None:
    """The protocol version in an incoming response to `initialize`; None if there is none."""
    version = getattr(body_of(item), "result", {}).get("protocolVersion")
    return version if isinstance(version, str) else None


@dataclass(frozen=True, slots=True)
class Hints:
    """What the SDK attaches to an outgoing message for a Streamable HTTP transport.

    Attributes:
        headers: Headers of this message (2.x).
        token: The event id from which to resume the answer of an earlier request, or None.
        on_token: Called with each event id of the answer, or None.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None
    on_token: Callable[[str], Awaitable[None]] | None = None


_NO_HINTS = Hints()


def hints_of(item: SessionMessage) -> Hints:
    """The hints attached to an outgoing message."""
    metadata: Any = item.metadata
    if not isinstance(metadata, ClientMessageMetadata):
        return _NO_HINTS
    headers = getattr(metadata, "headers", None) or {}
    return Hints(headers, metadata.resumption_token, metadata.on_resumption_token_update)


def clean_error_response(item: SessionMessage, clean: Callable[[Any], Any]) -> None:
    """Pass the message and the data of an incoming error response through `clean`; leave other messages alone."""
    message = body_of(item)
    if isinstance(message, _types.JSONRPCError):
        error = message.error
        error.message = clean(error.message)
        if error.data is not None:
            error.data = clean(error.data)


def encode(item: SessionMessage) -> bytes:
    """One outgoing message as one line of JSON, without the newline.

    Raises:
        UnencodableError: It cannot be encoded.
    """
    unset = MAJOR != 1
    try:
        return item.message.model_dump_json(by_alias=True, exclude_none=not unset, exclude_unset=unset).encode()
    except ValueError as exc:
        raise _unencodable(message_as_json(item)) or UnencodableError("$", str(exc)) from exc


def _unencodable(value: Any, path: str = "$") -> UnencodableError | None:
    """The first string in `value` that is not valid Unicode: models cut emoji in half."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            half = f"{value[exc.start]!r} is half of a surrogate pair: write the whole character, or leave it out"
            return UnencodableError(path, half)
    elif isinstance(value, dict):
        for key, item in value.items():
            if (found := _unencodable(key, path) or _unencodable(item, f"{path}.{key}")) is not None:
                return found
    elif isinstance(value, list):
        for n, item in enumerate(value):
            if (found := _unencodable(item, f"{path}[{n}]")) is not None:
                return found
    return None


def decode(line: bytes | str) -> SessionMessage:
    """One incoming line as a message.

    Responses are tried first: they are the most frequent and may be large, and validating the union copies the input
    once per member.

    Raises:
        ValueError: It is not a JSON-RPC message.
    """
    try:
        response = _types.JSONRPCResponse.model_validate_json(line)
    except ValueError:
        if MAJOR == 1:
            return SessionMessage(_types.JSONRPCMessage.model_validate_json(line))
        return SessionMessage(_types.jsonrpc_message_adapter.validate_json(line, by_name=False))
    return SessionMessage(_types.JSONRPCMessage.model_construct(root=response) if MAJOR == 1 else response)


def error_message(request_id: Any, code: int, text: str) -> SessionMessage:
    """An error response to `request_id`, as if it had been received."""
    error = _types.JSONRPCError(jsonrpc="2.0", id=request_id, error=types.ErrorData(code=code, message=text, data=None))
    return SessionMessage(_types.JSONRPCMessage(error) if MAJOR == 1 else error)


def notification_as_json(message: Any) -> dict[str, Any] | None:
    """A message for `message_handler` as JSON (method and params); None if it is not a notification."""
    body = getattr(message, "root", message)
    method = getattr(body, "method", None)
    return dump(body) if isinstance(method, str) and method.startswith("notifications/") else None


def message_as_json(item: SessionMessage) -> dict[str, Any]:
    """A JSON-RPC message of a stream as JSON."""
    unset = MAJOR != 1
    message = body_of(item).model_dump(by_alias=True, mode="json", exclude_none=not unset, exclude_unset=unset)
    return cast("dict[str, Any]", message)


def message_from_json(message: dict[str, Any]) -> SessionMessage:
    """A JSON-RPC message for a stream, from JSON.

    Raises:
        ValueError: It is not a JSON-RPC message.
    """
    if MAJOR == 1:
        return SessionMessage(_types.JSONRPCMessage.model_validate(message))
    return SessionMessage(_types.jsonrpc_message_adapter.validate_python(message, by_name=False))

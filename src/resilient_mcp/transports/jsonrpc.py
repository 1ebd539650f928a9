"""JSON-RPC messages as bytes and as JSON (sans-I/O): which of them the SDK can read, and what they answer."""

from __future__ import annotations

from pydantic_core import from_json


class Unusable(Exception):  # noqa: N818 - a signal between modules, never seen by users
    """Raised for an answer that cannot be used, with the reason."""


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

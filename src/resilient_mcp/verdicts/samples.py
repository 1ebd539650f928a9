"""The kinds of failures of a tool call, each with a sample, so that people can see how it is handled (sans-I/O).

The codes and statuses come from the tables that decide: those of the classifier, and those of a policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from typing import Any, TypeAlias, cast

from mcp import types
from pydantic import ValidationError

from .._sdk.installed import INVALID_PARAMS, mcp_error
from .._sdk.results import error_result, is_error_result
from ..evidence import Delivery, Evidence, ExitStatus, FailureKind
from ..policy import Policy, ToolPolicy
from ..text.printable import printable
from ..text.redact import Redactor
from .classifier import DIALECTS, ERROR_CODES, HTTP_STATUS
from .gateways import GATEWAYS
from .verdict import Failure

Sample: TypeAlias = tuple[str, Failure]
"""A kind of failure in a few words, and a failure of that kind."""

# How each failure without an HTTP status is described.
_KINDS = {
    FailureKind.NETWORK: "the network failed after it was sent",
    FailureKind.TLS: "the TLS handshake failed: an untrusted certificate, or no TLS",
    FailureKind.PROCESS: "the server process exited",
    FailureKind.CLOSED: "the connection closed",
    FailureKind.TIMEOUT: "no answer within the time limit",
    FailureKind.PROTOCOL: "an unusable answer: not JSON, wrong id, too long",
    FailureKind.AUTH: "the OAuth flow failed",
}
# What the transports know of the delivery, where it is not `UNKNOWN`.
_DELIVERIES = {FailureKind.TLS: Delivery.NOT_SENT, FailureKind.AUTH: Delivery.REJECTED}

# A response of each gateway that proves that it forwarded nothing.
_PAGES = {
    "Envoy": "no healthy upstream",
    "HAProxy": "<html><body><h1>503 Service Unavailable</h1> No server is available to handle this request. "
    "</body></html>",
}

# An `isError` text of each meaning.
_TEXTS = {"throttled": "rate limit exceeded", "transient": "temporarily unavailable", "permanent": "not found"}

_OK = range(200, 300)
_REDIRECTS = (307, 308)
_BAD_REQUEST = 400
_NOT_FOUND = 404
_RETRY_AFTER = "5"


class Samples:
    """Samples of failures.

    Args:
        policy: The server's policy, whose codes and statuses are included.
        tool: The tool that was called, or None.
    """

    def __init__(self, policy: Policy, tool: str | None = None) -> None:
        self._policy = policy
        self._tool = tool
        self._tool_policy = ToolPolicy() if tool is None else policy.tool(tool)

    def __iter__(self) -> Iterator[Sample]:
        """One of every kind: each status and each code with a rule of its own, and one for all others."""
        yield "connection refused, connect timeout", self._seen(FailureKind.NETWORK, Delivery.NOT_SENT)
        for kind, name in _KINDS.items():
            yield name, self._seen(kind, _DELIVERIES.get(kind, Delivery.UNKNOWN))
        for status in (_NOT_FOUND, _BAD_REQUEST):
            yield from self._without_session(status)
        for status in self._statuses():
            yield f"HTTP {status}", self._http(status)
        yield from self._other_statuses()
        yield "HTTP 200 with a web page instead of an answer", self._http(200)
        yield from self._gateways()
        known = self._codes()
        for name, code in known.items():
            yield f"JSON-RPC {name}", self._error(code)
        yield "any other JSON-RPC code", self._error(_first(count(1), known.values()))
        for meaning, text in _TEXTS.items():
            yield f"isError, {meaning} by its body or text", self._failure(result=error_result(text))
        yield "an exception of the SDK itself, such as for an invalid result", self._failure(RuntimeError("invalid"))

    def of_status(self, status: int) -> Iterator[Sample]:
        """An HTTP status alone, then with everything that may change how it is handled."""
        name = f"HTTP {status}"
        if status in _OK:  # reported only if the body is a web page, and then nothing else of it is used
            yield f"{name} with a web page instead of an answer", self._http(status)
            return
        if status in _REDIRECTS:
            name = f"{name} that is not followed"
        elif status == _NOT_FOUND:
            name = f"{name} to a request without a session id"
        yield name, self._http(status)
        yield from self._without_session(status)
        yield f"{name}, with Retry-After: {_RETRY_AFTER}", self._http(status, retry_after=_RETRY_AFTER)
        yield f"{name}, with a JSON-RPC error such as {INVALID_PARAMS}", self._http(status, own_error=True)
        yield from self._gateways(status)

    def of_code(self, code: int) -> Sample:
        """A JSON-RPC code."""
        return f"JSON-RPC {code}", self._error(code)

    def has_code(self, code: int) -> bool:
        """Whether a table names this JSON-RPC code."""
        return code in self._codes().values()

    # --- failures ---

    def _failure(self, error: Exception | None = None, evidence: Evidence | None = None, result: Any = None) -> Failure:
        return Failure("tools/call", self._tool, error, evidence, result)

    def _seen(self, kind: FailureKind, delivery: Delivery) -> Failure:
        status = ExitStatus(pid=0, code=1) if kind is FailureKind.PROCESS else None
        return self._failure(evidence=Evidence(kind, delivery, kind.value, exit=status))

    def _error(self, code: int) -> Failure:
        return self._failure(mcp_error(code, "an error"))

    def _http(self, status: int, said: str = "", **facts: Any) -> Failure:
        evidence = Evidence(FailureKind.HTTP, Delivery.UNKNOWN, f"HTTP {status}{said}", status, **facts)
        return self._failure(mcp_error(INVALID_PARAMS, "an error"), evidence)

    def _without_session(self, status: int) -> Iterator[Sample]:
        """The responses with this status that mean that the server no longer knows the session."""
        if status == _NOT_FOUND:
            yield f"HTTP {status} to a request with a session id", self._http(status, session_id_sent=True)
        elif status == _BAD_REQUEST:
            name = f"HTTP {status} that mentions the session, to a request with a session id"
            yield name, self._http(status, ": unknown session", session_id_sent=True)

    def _gateways(self, status: int | None = None) -> Iterator[Sample]:
        """The responses of gateways, or only those with this status, that prove that nothing was forwarded."""
        for gateway in GATEWAYS:
            if status in {None, gateway.status}:
                name = f"HTTP {gateway.status} of {gateway.product} that proves that nothing was forwarded"
                yield name, self._http(gateway.status, body=_PAGES[gateway.product])

    # --- statuses and codes with rules of their own, and all others ---

    def _statuses(self) -> list[int]:
        return list(dict.fromkeys([*HTTP_STATUS, *self._policy.http_statuses, *self._tool_policy.http_statuses]))

    def _other_statuses(self) -> Iterator[Sample]:
        """One status of each class. None is left of a class if a policy lists them all."""
        own = {*self._statuses(), *_REDIRECTS, _NOT_FOUND}
        if refused := _first(range(400, 500), own):
            redirects = ", ".join(map(str, _REDIRECTS))
            yield f"any other HTTP 4xx, and a redirect ({redirects}) that is not followed", self._http(refused)
            name = f"any other HTTP 4xx, with a JSON-RPC error such as {INVALID_PARAMS}"
            yield name, self._http(refused, own_error=True)
        if moved := _first(range(300, 400), own):
            yield "any other HTTP 3xx", self._http(moved)
        if failed := _first(range(500, 600), own):
            yield "any other HTTP 5xx", self._http(failed)
            name = f"any other HTTP 5xx, with Retry-After: {_RETRY_AFTER}"
            yield name, self._http(failed, retry_after=_RETRY_AFTER)

    def _codes(self) -> dict[str, int]:
        """Each code, or range of codes, and one code of it."""
        dialect = {} if self._policy.dialect is None else DIALECTS[self._policy.dialect]
        tables = [ERROR_CODES, dialect, self._policy.error_codes, self._tool_policy.error_codes]
        keys = dict.fromkeys(key for table in tables for key in cast("Mapping[int | range, str]", table))
        found = {str(key): key for key in keys if isinstance(key, int)}
        own = set(found.values())
        ranges = [key for key in keys if isinstance(key, range)]
        return found | {f"{codes[0]} to {codes[-1]}": _first(codes, own) or codes[0] for codes in ranges}


def _first(numbers: Iterable[int], taken: Iterable[int]) -> int:
    """The first number that is not in `taken`; 0 if there is none."""
    without = set(taken)
    return next((number for number in numbers if number not in without), 0)


# --- failures that a server sent ---

# Keys of a message named in an error.
_NAMED = 10


def sample_of(message: Mapping[str, Any], tool: str | None = None) -> Sample:
    """The failure in a JSON-RPC response, a JSON-RPC error object or a tool result, as the client would see it.

    Raises:
        ValueError: It is none of these, or it is not a failure.
    """
    error, result = message.get("error"), message.get("result")
    if "content" in message or "isError" in message:
        error, result = None, message
    elif "code" in message:
        error = message
    redactor = Redactor()
    if isinstance(error, Mapping):
        sent = _valid(types.ErrorData, error, "a JSON-RPC error")
        failure = Failure("tools/call", tool, mcp_error(sent.code, sent.message, sent.data))
        return f"JSON-RPC {sent.code}: {redactor.line(sent.message)}", failure
    if isinstance(result, Mapping):
        answer = _valid(types.CallToolResult, result, "a tool result")
        if not is_error_result(answer):
            raise ValueError("not a failure: isError is not true, so the caller gets this result as it is")
        text = next((block.text for block in answer.content if getattr(block, "text", None)), "no text")
        return f"isError: {redactor.line(text)}", Failure("tools/call", tool, result=answer)
    keys = printable(", ".join(map(repr, list(message)[:_NAMED]))) or "none"
    remedy = "give a JSON-RPC response, its error object, or a tool result"
    raise ValueError(f"neither an 'error' nor a 'result' is in it (its keys: {keys}): {remedy}")


def _valid(kind: Any, message: Mapping[str, Any], what: str) -> Any:
    """`message` as an SDK type.

    Raises:
        ValueError: It is not one; the message names the field.
    """
    try:
        return kind.model_validate_json(json.dumps(message))  # the JSON, since only that is read as on the wire
    except RecursionError:
        problem = "nested too deeply"
    except ValidationError as exc:
        fault = exc.errors(include_url=False)[0]
        problem = printable(": ".join(filter(None, [".".join(map(str, fault["loc"])), fault["msg"]])))
    raise ValueError(f"not {what} ({problem}): give it as the server sent it")

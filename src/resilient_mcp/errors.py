"""The errors that this library raises. Each is an `MCPError` of the installed SDK, so `except MCPError` keeps working.

    ResilienceError(MCPError)
    ├── ConnectionLost        sent, not answered, not safe to repeat: it may still be running
    ├── DeadlineExceeded      also a TimeoutError; reports elapsed time, attempts and the last failure
    ├── ServerUnavailable     no connection; has the exit status, the end of stderr and the next attempt's delay
    │   └── ServerFailed      no restart will help: command not found, wrong path, 401/403, version mismatch
    ├── CircuitOpen           the server failed too often: calls are refused until it shows a sign of life
    ├── RateLimitExceeded     the client's or the server's rate limit does not admit the call before its deadline
    ├── Overloaded            the queue of the concurrency limit is full
    └── InvalidArguments      not valid JSON, or against the tool's inputSchema; path and reason per problem

An error that the server itself sent is raised as the SDK raised it, with a note on the attempts.
"""

from __future__ import annotations

from typing import Any

from mcp.types import CallToolResult

from ._sdk.installed import CONNECTION_CLOSED, INVALID_PARAMS, REQUEST_TIMEOUT, ErrorBase
from ._sdk.results import error_result
from .text.printable import printable
from .verdicts.verdict import Verdict


class ResilienceError(ErrorBase):
    """Base class of every error that this library raises at run time. No message is empty or contains a secret.

    Raised itself when an HTTP server rejected a request permanently (400, 405, 413, a redirect elsewhere) without a
    JSON-RPC error of its own.

    Attributes:
        server: The name of the server, as given to `ResilientClient`.
        operation: The request, as `method` or `method target`; empty if it was not a call.
        attempts: How often it was sent to the server.
        verdict: The classifier's verdict on the last failure, or None if there was none. Its `delivery` is that of the
            whole call: `UNKNOWN` once any attempt may have run.
        repeatable: Whether running it twice is known to have the same effect as running it once.
        advice: A few sentences that a model can act on: what happened, whether it may have run, what to try and when,
            and what the `data` of the server's error says about it.
        retry_in: Seconds after which a retry may help, or None if unknown.
        data: The `data` of the underlying server error, without secrets, or None.
    """

    _code = CONNECTION_CLOSED

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        server: str = "",
        operation: str = "",
        attempts: int = 0,
        verdict: Verdict | None = None,
        repeatable: bool = False,
        retry_in: float | None = None,
        data: Any = None,
    ) -> None:
        message = message or advice or type(self).__name__
        super().__init__(self._code, message, data)
        said = hints(data)
        advice = advice or message
        self.advice = f"{advice} The server says: {said}." if said else advice
        self.retry_in = retry_in
        self.server = server
        self.operation = operation
        self.attempts = attempts
        self.verdict = verdict
        self.repeatable = repeatable

    @property
    def may_have_run(self) -> bool:
        """Whether the server may have run it, in any attempt."""
        return self.verdict is not None and not self.verdict.safe

    def to_tool_result(self) -> CallToolResult:
        """Return the error as a tool result with `isError` set and `advice` as its text, for a model to read."""
        return error_result(self.advice)


class ConnectionLost(ResilienceError):  # noqa: N818 - public name without the suffix Error
    """Raised when a request was sent, no answer came, and sending it again is not safe.

    The server may have run it, and may still be running it.
    """


class DeadlineExceeded(ResilienceError, TimeoutError):  # noqa: N818 - public name without the suffix Error
    """Raised when an operation's attempt or total deadline passed. Also a `TimeoutError`.

    Attributes:
        elapsed: Seconds from the start of the call until it was given up.
    """

    _code = REQUEST_TIMEOUT

    def __init__(self, message: str, *, elapsed: float, advice: str = "", **context: object) -> None:
        super().__init__(message, advice=advice, **context)  # type: ignore[arg-type]
        self.elapsed = elapsed


class ServerUnavailable(ResilienceError):  # noqa: N818 - public name without the suffix Error
    """Raised when there was no connection to send the request on, or the server refuses it for now.

    This attempt did not run; `may_have_run` says whether an earlier one of a repeatable call may have.

    Attributes:
        exit_status: The server process's exit status (negative: the signal that ended it), or None.
        stderr: The end of what the process wrote to stderr; untrusted text.
        reason: What happened, in brief, without server and state.
        remedy: What a person can check; empty if unknown.
    """

    def __init__(
        self,
        message: str,
        *,
        advice: str = "",
        exit_status: int | None = None,
        stderr: str = "",
        reason: str = "",
        remedy: str = "",
        **context: object,
    ) -> None:
        super().__init__(message, advice=advice, **context)  # type: ignore[arg-type]
        self.exit_status = exit_status
        self.stderr = stderr
        self.reason = reason or message
        self.remedy = remedy


class ServerFailed(ServerUnavailable):
    """Raised when no restart will help: command not found, wrong path, 401 or 403, no common protocol version.

    A client that was refused over HTTP reconnects by itself after 30 s, then at growing intervals up to 300 s;
    `restart()` tries immediately.
    """


class CircuitOpen(ResilienceError):  # noqa: N818 - public name without the suffix Error
    """Raised when a call was refused because the server failed too often recently. This attempt was not sent."""


class RateLimitExceeded(ResilienceError):  # noqa: N818 - public name without the suffix Error
    """Raised when a rate limit does not admit the call before its deadline, or the server keeps pushing back.

    This attempt did not run.
    """


class Overloaded(ResilienceError):  # noqa: N818 - public name without the suffix Error
    """Raised when the concurrency limit is reached and its queue is full. This attempt was not sent."""


class InvalidArguments(ResilienceError):  # noqa: N818 - public name without the suffix Error
    """Raised when arguments cannot be encoded as JSON, or do not conform to a tool's `inputSchema`. Nothing was sent.

    The schema is checked only with `ToolPolicy(validate_arguments=True)`.

    Attributes:
        problems: What is wrong, as (JSON path, reason); at most ten.
    """

    _code = INVALID_PARAMS

    def __init__(self, message: str, *, problems: list[tuple[str, str]], advice: str = "", **context: object) -> None:
        super().__init__(message, advice=advice, **context)  # type: ignore[arg-type]
        self.problems = problems


# Hints taken from one `data`, and characters of each.
_HINTS = 5

_HINT_LENGTH = 120
# Keys that servers and validation libraries use in `data`: lists of issues, an issue's path and reason, and advice.
_ISSUES = ("issues", "errors", "details", "violations")

_PATHS = ("path", "loc", "field", "pointer", "instancePath", "param")

_REASONS = ("message", "msg", "reason", "detail", "description")

_ADVISING = ("hint", "suggestion", "retryAfter", "retry_after", "retryAfterMs", "retry_after_ms", "retryable", "docs")


def hints(data: Any) -> str:
    """The helpful parts of a server error's `data`: issues with their paths, retry hints; "" if there are none.

    Untrusted text: printable, and a few hundred characters at most.
    """
    if isinstance(data, str):
        return printable(data, _HINT_LENGTH)
    if isinstance(data, list):
        data = {"issues": data}
    if not isinstance(data, dict):
        return ""
    found = [f"{key}: {_short(data[key])}" for key in _ADVISING if isinstance(data.get(key), str | int | float)]
    for key in _ISSUES:
        issues = data.get(key)
        found += [_issue(issue) for issue in (issues[:_HINTS] if isinstance(issues, list) else [])]
    return "; ".join([hint for hint in found if hint][:_HINTS])


def _issue(issue: Any) -> str:
    if not isinstance(issue, dict):
        return _short(issue) if isinstance(issue, str) else ""
    path = next((issue[key] for key in _PATHS if issue.get(key)), "")
    where = ".".join(_short(step) for step in path[:_HINTS]) if isinstance(path, list) else _short(path)
    reason = next((_short(issue[key]) for key in _REASONS if isinstance(issue.get(key), str)), "")
    return f"{where}: {reason}" if where and reason else where or reason


def _short(value: Any) -> str:
    return printable(str(value)[: 4 * _HINT_LENGTH], _HINT_LENGTH).rstrip(".")

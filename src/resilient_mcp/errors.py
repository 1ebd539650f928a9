"""The errors of this library. Each is an `MCPError` of the installed SDK, so `except MCPError` keeps working.

    ResilienceError(MCPError)
    ├── ConnectionLost        sent, never answered, not safe to repeat ("it may still be running")
    ├── DeadlineExceeded      also a TimeoutError; says how long, how many attempts, and the last failure
    └── ServerUnavailable     no connection: exit status, stderr tail, when the next try is due
        └── ServerFailed      no restart will help: command not found, version mismatch, 401/403

An error that the server itself sent is raised as the SDK raised it, with a note on the attempts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from mcp.types import CallToolResult

from . import _sdk
from .evidence import printable

if TYPE_CHECKING:
    from .classifier import Verdict


class ResilienceError(_sdk.ErrorBase):
    """Base of all errors that this library raises while it works.

    Raised as itself when an HTTP server refused a request for good (400, 405, 413, a redirect elsewhere) without a
    JSON-RPC error of its own.

    Attributes:
        server: The name of the server, as given to `ResilientClient`.
        operation: What was asked, as `method` or `method target`; empty when it was no call.
        attempts: How often it was sent to the server.
        verdict: The classifier's verdict on the last failure, or None when there was none.
        advice: One or two sentences that a model can act on: what happened, whether it may have run, what to try.
    """

    _code = _sdk.CONNECTION_CLOSED

    def __init__(
        self,
        message: str,
        *,
        advice: str,
        server: str = "",
        operation: str = "",
        attempts: int = 0,
        verdict: Verdict | None = None,
    ) -> None:
        super().__init__(self._code, message)
        self.advice = advice
        self.server = server
        self.operation = operation
        self.attempts = attempts
        self.verdict = verdict

    def to_tool_result(self) -> CallToolResult:
        """The error as a tool result with `isError` set and `advice` as its text, for a model to read."""
        return _sdk.error_result(self.advice)


class ConnectionLost(ResilienceError):  # noqa: N818 - the design's public name
    """Raised when a request was sent, no answer came, and it is not safe to send it again.

    The server may have run it, and may still be running it.
    """


class DeadlineExceeded(ResilienceError, TimeoutError):  # noqa: N818 - the design's public name
    """Raised when an operation's attempt or total deadline passed. Also a `TimeoutError`.

    Attributes:
        elapsed: Seconds from the call until it was given up.
    """

    _code = _sdk.REQUEST_TIMEOUT

    def __init__(self, message: str, *, elapsed: float, advice: str, **context: object) -> None:
        super().__init__(message, advice=advice, **context)  # type: ignore[arg-type]
        self.elapsed = elapsed


class ServerUnavailable(ResilienceError):  # noqa: N818 - the design's public name
    """Raised when there was no connection to send the request on. Nothing was sent.

    Attributes:
        exit_status: The server process's exit status (negative: the signal that ended it), or None.
        stderr: The last of what the process wrote to stderr; untrusted text.
        retry_in: Seconds until the next try to connect is due, or None when none is planned.
        reason: What happened, in a few words, without server and state.
    """

    def __init__(
        self,
        message: str,
        *,
        advice: str,
        exit_status: int | None = None,
        stderr: str = "",
        retry_in: float | None = None,
        reason: str = "",
        **context: object,
    ) -> None:
        super().__init__(message, advice=advice, **context)  # type: ignore[arg-type]
        self.exit_status = exit_status
        self.stderr = stderr
        self.retry_in = retry_in
        self.reason = reason or message


class ServerFailed(ServerUnavailable):
    """Raised when no restart will help: command not found, no shared protocol version, 401 or 403."""


def describe(exc: BaseException) -> str:
    """What an exception says in one printable line, never empty; a group speaks through its first leaf."""
    while leaves := getattr(exc, "exceptions", None):
        exc = leaves[0]
    text = printable(str(exc))
    name = type(exc).__name__
    return f"{name}: {text}" if text else name


def add_note(exc: BaseException, note: str) -> None:
    """`BaseException.add_note`, also on Python 3.10."""
    notes: list[str] = getattr(exc, "__notes__", [])
    cast("Any", exc).__notes__ = [*notes, note]

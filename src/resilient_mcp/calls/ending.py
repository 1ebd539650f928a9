"""The end of a call without an answer: which exception its caller gets.

One rule above all: the error never says that a call was not run unless that is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._sdk.installed import data_of
from .._sdk.messages import UnencodableError
from ..errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidArguments,
    RateLimitExceeded,
    ResilienceError,
    ServerFailed,
    ServerUnavailable,
    hints,
)
from ..text.printable import add_note
from ..verdicts.verdict import AttemptError, Category, Verdict
from .operation import History

# Categories reported as a `ResilienceError` even if the server sent the JSON-RPC error itself.
_OURS = frozenset({Category.AUTH, Category.THROTTLED, Category.SESSION_LOST, Category.TRANSIENT, Category.TIMEOUT})


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of a call when its last attempt failed.

    Attributes:
        server: The name of the server.
        operation: `method` or `method target`, printable.
        verdict: The verdict on the last attempt.
        failed: Its failure.
        history: All attempts of the call.
        elapsed: Seconds since the call was made.
        expired: Whether its deadline has passed.
        credentials: How messages name the credentials, see `Wording`.
        diagnosis: What the sessions lost lately have in common, or empty.
    """

    server: str
    operation: str
    verdict: Verdict
    failed: AttemptError
    history: History
    elapsed: float = 0.0
    expired: bool = False
    credentials: str = "the credentials"
    diagnosis: str = ""


def error_of(end: Ending) -> Exception:
    """The exception to raise when no attempt is left, or a retry is not allowed.

    An error that the server sent is raised as it is, with notes; anything else becomes a `ResilienceError`.
    """
    verdict, failed, history, cause = end.verdict, end.failed, end.history, end.failed.cause
    if isinstance(cause, UnencodableError):
        return _unencodable(cause, end)
    refused = failed.evidence is not None and failed.evidence.own_error and verdict.category not in _OURS
    if cause is None or not (failed.evidence is None or refused):
        return _unanswered(end)
    if history.sent > 1:
        add_note(cause, f"{end.operation} was sent to the MCP server {end.server!r} {history.sent} times")
    if said := hints(data_of(cause)):
        add_note(cause, f"the server says: {said}")
    return cause


def _unanswered(end: Ending) -> ResilienceError:
    """The `ResilienceError` for a call that got no answer. The order of the branches matters."""
    verdict, history, server = end.verdict, end.history, end.server
    where, reason, wait = f"{end.operation} on MCP server {server!r}", verdict.reason, verdict.retry_after
    context: dict[str, Any] = {
        "server": server,
        "operation": end.operation,
        "data": data_of(end.failed.cause),
        **history.facts,
    }
    if verdict.category is Category.AUTH and verdict.safe:
        text = f"{where} was refused: {reason}. {history} Check {end.credentials}."
        advice = (
            f"The server {server!r} refused the credentials ({reason}). {history} Do not repeat the call: it cannot "
            "succeed until a person changes them."
        )
        return ServerFailed(text, advice=advice, **context)
    if verdict.category is Category.TIMEOUT or (verdict.safe and end.expired):
        how = "" if history.may_have_run else ", before it was run"
        text = f"{where} timed out after {end.elapsed:.1f} s{how}: {reason}. {history}"
        return DeadlineExceeded(text, elapsed=end.elapsed, **context)
    if not verdict.safe or (history.may_have_run and not history.repeatable):
        return ConnectionLost(f"{where} got no answer: {reason}. {history}", retry_in=wait, **context)
    if verdict.category is Category.PERMANENT:
        text = f"{where} was refused: {reason}. {history} Repeating it unchanged will not help."
        return ResilienceError(text, **context)
    if verdict.category is Category.SESSION_LOST and end.diagnosis:
        reason = f"{reason}; {end.diagnosis}"
    what = "got no answer" if history.may_have_run else "was not run"
    when = "Try again later." if wait is None else f"Try again in {wait:.0f} s; do not call it sooner."
    kind = RateLimitExceeded if verdict.category is Category.THROTTLED else ServerUnavailable
    return kind(f"{where} {what}: {reason}. {history} {when}", retry_in=wait, **context)


def _unencodable(cause: UnencodableError, end: Ending) -> InvalidArguments:
    """The error for arguments that JSON cannot represent."""
    path = cause.path.replace("$.params.arguments", "$", 1)
    text = f"{end.operation} cannot be sent: {path}: {cause.reason}. {end.history}"
    problems = [(path, cause.reason)]
    return InvalidArguments(text, problems=problems, server=end.server, operation=end.operation, **end.history.facts)

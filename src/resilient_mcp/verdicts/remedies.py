"""Explains why a server cannot be reached and what a person can do about it, in the errors for missing connections.

A remedy refers to what the user wrote: Python code, a file of servers, or a command line. Sans-I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..evidence import Evidence, FailureKind
from ..text.last_words import last_words
from ..text.printable import describe, printable
from .classifier import is_version_conflict
from .verdict import AttemptError

_STDERR_LINES = 3

_REDIRECTS = range(300, 400)

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND, _NOT_ALLOWED, _MISDIRECTED = 400, 401, 403, 404, 405, 421


@dataclass(frozen=True, slots=True)
class Wording:
    """How messages refer to the place where the user configured a server.

    Attributes:
        server: Where its address or its command is configured.
        credentials: Where its credentials are configured.
        restart: How to apply a change; empty if that cannot be done while the client runs.
    """

    server: str
    credentials: str
    restart: str = ""


def in_python(configured_by: str) -> Wording:
    """The wording for arguments of `ResilientClient`; `configured_by` names those that say where the server is."""
    return Wording(configured_by, "the credentials given to the HTTP client", "restart()")


def reason_of(failure: AttemptError) -> str:
    """Why there is no connection, in one line."""
    evidence, cause = failure.evidence, failure.cause
    if evidence is not None:
        words = [] if evidence.exit is None else last_words(evidence.exit.stderr, _STDERR_LINES)
        return f"{evidence.detail}; its stderr: {'; '.join(words)}" if words else evidence.detail
    if isinstance(cause, OSError) and cause.filename is not None:
        return f"cannot start: {cause.strerror}: {printable(str(cause.filename))}"
    return describe(cause) if cause is not None else "the connection was lost"


def remedy_of(failure: AttemptError, wording: Wording) -> str:
    """What a person can do about a failed connection attempt: the likely cause as a question, and where to look."""
    evidence, where = failure.evidence, wording.server
    if is_version_conflict(failure.cause):
        question, where = (
            "Do client and server support a common MCP version?",
            "both, and the client's mode= (mcp 2.x)",
        )
    elif evidence is None:
        question = _ask_about_error(failure.cause)
    elif evidence.kind is FailureKind.AUTH or evidence.http_status in {_UNAUTHORIZED, _FORBIDDEN}:
        question, where = "Are the credentials correct and still valid?", wording.credentials
    elif evidence.http_status is not None:
        question = _ask_about_status(evidence.http_status, evidence)
    else:
        question = _ask_about_connection(evidence)
    return f"{question} Check {where}."


def _ask_about_error(cause: Exception | None) -> str:
    if isinstance(cause, FileNotFoundError | NotADirectoryError):
        return "Is it installed and on PATH?"
    if isinstance(cause, OSError):
        return "Can it be run from a terminal?"
    return "Are client and server compatible?"


def _ask_about_status(status: int, evidence: Evidence) -> str:
    if "HTTPS" in evidence.body:  # how nginx and Go answer plain HTTP on a TLS port
        return "Should the URL start with https://?"
    if status in _REDIRECTS:
        return "Is that the server's new address?"
    if status == _NOT_ALLOWED:
        return "Is the path right? A server that speaks HTTP+SSE (2024-11-05) needs SseServerParameters."
    if status == _MISDIRECTED:
        return "Does the server allow this host name? SDK servers check it against allowed_hosts."
    if status == _NOT_FOUND:
        return "Is the path right? Most servers are at /mcp."
    return "Is the path right, and is an MCP server there?"


def _ask_about_connection(evidence: Evidence) -> str:
    if evidence.kind is FailureKind.PROCESS:
        return "Does it run in a terminal?"
    if evidence.kind is FailureKind.PROTOCOL:
        return "Is an MCP server there?"
    if evidence.kind is FailureKind.TLS and "CERTIFICATE_VERIFY_FAILED" in evidence.detail:
        return "Who signed its certificate? SSL_CERT_FILE names a file of trusted certificate authorities."
    if evidence.kind is FailureKind.TLS:
        return "Do client and server agree on http:// or https://?"
    return "Is the server running, and are scheme, host and port right?"

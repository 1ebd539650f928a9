"""Checks the outcome that a caller got against the server's journal.

A call is identified by its key, which begins with its tool: `REPEATABLE` or `ONCE`. Its server counts how often it took
the key (received it and did not provably refuse it) and how often it executed it. An outcome is true if:

    outcome                               executed (a call of ONCE)    executed (a repeatable call)
    answered, with its own key            once                         at least once
    a tool's error (`isError`)            once                         at least once: on a connection whose list of
                                                                       tools has not arrived it is not repeated
    an error that the server sent         at most once                 never true: it is repeated
    not run (never sent, or refused)      never                        never true: it is waited for and repeated
    unknown: it may have run              at most once                 never true: it is repeated
    none: its caller cancelled it         at most once                 any number of times
    no outcome within its deadline        never true                   never true
    another exception, another answer     never true                   never true

A call of ONCE that was taken twice is a broken promise, even if it was executed only once.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from resilient_mcp import ResilienceError, ServerUnavailable
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp._sdk.results import is_error_result

from .servers.counting_server import BUSY, REPEATABLE
from .support import text_of

# The JSON-RPC errors that the servers send: any other error that a caller gets must be one of the library's.
SERVERS_OWN = (-32603, -32602)


class Kind(str, enum.Enum):
    """The kind of outcome that a caller got."""

    ANSWER = "answered"
    TOOL_ERROR = "a tool's error"
    SERVER_ERROR = "a server's error"
    NOT_RUN = "not run"
    UNKNOWN = "may have run"
    CANCELLED = "cancelled"
    NOTHING = "no outcome"
    STRANGE = "strange"


@dataclass(frozen=True)
class Outcome:
    """The outcome that one caller got, with its text."""

    kind: Kind
    text: str = ""

    @classmethod
    def of(cls, outcome: Any) -> Outcome:
        """Build from a result, an exception, or None if there was neither."""
        if outcome is None:
            return cls(Kind.NOTHING)
        if not isinstance(outcome, BaseException):
            return cls(Kind.TOOL_ERROR if is_error_result(outcome) else Kind.ANSWER, text_of(outcome))
        text = f"{type(outcome).__name__}: {outcome}"
        if isinstance(outcome, ResilienceError):
            safe = isinstance(outcome, ServerUnavailable) or (outcome.verdict is not None and outcome.verdict.safe)
            return cls(Kind.NOT_RUN if safe else Kind.UNKNOWN, text)
        if isinstance(outcome, MCPError) and outcome.error.code in SERVERS_OWN:
            return cls(Kind.SERVER_ERROR, text)
        return cls(Kind.STRANGE, text)


def broken_promise(key: str, outcome: Outcome, ran: int, taken: int) -> str | None:
    """What is wrong with the outcome that the caller of `key` got, or None.

    Args:
        key: Identifies the call.
        outcome: The outcome that its caller got.
        ran: How often its server executed it.
        taken: How often its server took it.
    """
    if outcome.kind is Kind.NOTHING:
        return "had no outcome"
    if outcome.kind is Kind.STRANGE:
        return "ended in what neither the server nor this library says"
    if outcome.kind is Kind.ANSWER and outcome.text != key:
        return "was answered wrong"
    if key.startswith(REPEATABLE):
        if outcome.kind is Kind.CANCELLED:
            return None
        busy = outcome.kind is Kind.TOOL_ERROR and BUSY in outcome.text
        return None if (outcome.kind is Kind.ANSWER or busy) and ran else "is repeatable, and was lost"
    if ran > 1 or taken > 1:
        return f"was taken {taken} times and executed {ran} times"
    if outcome.kind is Kind.TOOL_ERROR and BUSY not in outcome.text:
        return "was answered wrong"
    if outcome.kind in (Kind.ANSWER, Kind.TOOL_ERROR) and not ran:
        return "was answered, and not executed"
    if outcome.kind is Kind.NOT_RUN and ran:
        return "was executed, and its caller got an error that says it was not"
    return None

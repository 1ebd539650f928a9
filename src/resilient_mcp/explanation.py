"""Explains how failures are judged and handled, for people who debug a policy.

`explain` gives the verdict on one failure. `Explainer` adds what follows from it: which calls are sent again, when, and
what their callers get. The classifier gives the verdicts, and `calls.ending` the errors.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from ._sdk.installed import MCPError
from .calls.ending import Ending, error_of
from .calls.operation import History
from .errors import ResilienceError
from .evidence import Delivery, FailureKind
from .policy import Policy, ToolPolicy
from .text.printable import printable
from .verdicts.classifier import Classifier
from .verdicts.samples import Sample, Samples, sample_of
from .verdicts.verdict import AttemptError, Category, Failure, Verdict


def explain(failure: object, *, policy: Policy | None = None, tool: str | None = None) -> Verdict:
    """Explain how a failure is judged, and by which rule, to help debug a policy.

    Args:
        failure: An error raised by a call, or an `isError` result.
        policy: The policy to judge it by; the default policy if None.
        tool: The tool that was called, for its `ToolPolicy`.

    Returns:
        The verdict; `str()` makes it readable. For an error of this library, the verdict it was raised for.

    Raises:
        TypeError: `failure` is neither an exception nor a tool result, or it is an error without a verdict.

    Example:
        >>> from mcp.types import CallToolResult, TextContent
        >>> text = TextContent(type="text", text="rate limit: try again in 30 seconds")
        >>> print(explain(CallToolResult(content=[text], isError=True)))
        throttled (a retry may help, in 30 s); answered; isError: rate limit: try again in 30 seconds \
[its text says 'rate limit']
    """
    if isinstance(failure, ResilienceError):
        if failure.verdict is None:
            raise TypeError(f"{type(failure).__name__} has no verdict: it was not raised because an attempt failed")
        return failure.verdict
    classifier = Classifier(policy or Policy())
    if isinstance(failure, BaseException):
        return classifier.judge(Failure("tools/call", tool, failure), now=time.time())
    if not hasattr(failure, "content"):
        raise TypeError(f"explain() takes an exception or a tool result, not {type(failure).__name__}")
    return classifier.judge(Failure("tools/call", tool, result=failure), now=time.time())


NEVER = "never"
EVERY = "every call"
REPEATABLE = "repeatable calls"

_RUN = {
    Delivery.NOT_SENT: "no: never sent",
    Delivery.REJECTED: "no: rejected",
    Delivery.UNKNOWN: "perhaps",
    Delivery.ANSWERED: "yes: answered",
}

_HTTP = range(100, 600)


@dataclass(frozen=True, slots=True)
class Handling:
    """How one failure of a tool call is handled.

    Attributes:
        failure: The failure in a few words, such as `HTTP 503`.
        verdict: The verdict on it.
        again: Which calls are sent again: `NEVER`, `EVERY` or `REPEATABLE`, possibly with a condition after a comma.
        how: When and how often they are, or why none is; may be empty.
        end: What the caller gets if no attempt succeeds.
    """

    failure: str
    verdict: Verdict
    again: str
    how: str
    end: str

    @property
    def may_have_run(self) -> str:
        """Whether the server may have run the call, in a few words."""
        return _RUN[self.verdict.delivery]

    @property
    def outcome(self) -> tuple[object, ...]:
        """All that matters to a caller: what has the same outcome is handled alike."""
        return self.verdict.category, self.verdict.delivery, self.again, self.how, self.end

    def to_json(self) -> dict[str, object]:
        """All of it as JSON."""
        return {
            "failure": self.failure,
            "category": self.verdict.category.value,
            "retryable": self.verdict.retryable,
            "delivery": self.verdict.delivery.value,
            "may_have_run": not self.verdict.safe,
            "sent_again": self.again,
            "how": self.how,
            "retry_after": self.verdict.retry_after,
            "caller_gets": self.end,
            "rule": self.verdict.rule,
        }


class Explainer:
    """Explains how the failures of tool calls are handled under a policy.

    Args:
        policy: The server's policy.
        tool: The tool that is called, for its `ToolPolicy`; None for any tool.
    """

    def __init__(self, policy: Policy, tool: str | None = None) -> None:
        self._policy = policy
        self._tool = tool
        self._tool_policy = ToolPolicy() if tool is None else policy.tool(tool)
        self._retry = self._tool_policy.retry or policy.retry
        self._retries = self._retry.attempts - 1
        self._classifier = Classifier(policy)
        self._samples = Samples(policy, tool)

    def number(self, number: int) -> list[Handling]:
        """How an HTTP status (100 to 599) or a JSON-RPC code is handled; 408, for example, is both.

        A status comes first alone, then with each header, body or session that changes how it is handled.
        """
        rows: list[Handling] = []
        if number in _HTTP:
            alone, *others = map(self.handling, self._samples.of_status(number))
            rows = [alone, *(row for row in others if row.outcome != alone.outcome)]
        if not rows or self._samples.has_code(number):
            rows.append(self.handling(self._samples.of_code(number)))
        return rows

    def message(self, message: Mapping[str, Any], *, now: float) -> Handling:
        """How a JSON-RPC response, a JSON-RPC error object or a tool result is handled.

        Args:
            message: The message, from JSON.
            now: Wall-clock time in seconds since the epoch, since a server may name a date.

        Raises:
            ValueError: It is none of these, or it is not a failure.
        """
        return self.handling(sample_of(message, self._tool), now=now)

    def table(self) -> list[Handling]:
        """How each kind of failure is handled."""
        return list(map(self.handling, self._samples))

    def repeatable(self) -> str:
        """Which calls are repeatable, as a sentence."""
        trust = self._policy.trust_annotations
        hints = "readOnlyHint" if trust == "read_only" else "readOnlyHint or idempotentHint"
        if self._tool is None:
            listed = f", or that the server lists with {hints}" if trust else ""
            tools = f"tools whose ToolPolicy says so{listed}"
            return f"All requests but tools/call are repeatable; so are calls of {tools}."
        calls = f"Calls of {printable(self._tool, 100)!r} are"
        if self._tool_policy.repeatable is not None:
            return f"{calls} {'' if self._tool_policy.repeatable else 'not '}repeatable: its ToolPolicy says so."
        if not trust:
            return f"{calls} not repeatable: no ToolPolicy says so, and the policy ignores annotations."
        return f"{calls} repeatable if the server lists it with {hints}."

    def limits(self) -> str:
        """What else ends the retries of a call, as a sentence; empty if nothing does."""
        ends = {
            f"timeout.total ({self._policy.timeout.total:g} s) is over": not math.isinf(self._policy.timeout.total),
            "the retry budget is spent": self._policy.budget is not None,
            "the circuit opens": self._policy.breaker is not None,
        }
        *others, last = ["", *(end for end, is_on in ends.items() if is_on)]
        return f"Retries end earlier if {' or '.join(filter(None, [', '.join(others[1:]), last]))}." if last else ""

    def handling(self, sample: Sample, *, now: float = 0.0) -> Handling:
        """How one failure is handled."""
        name, failure = sample
        verdict = self._classifier.judge(failure, now=now)
        if verdict.category is Category.SESSION_LOST:
            again, how = EVERY, "immediately, in a new session"
        elif verdict.delivery is Delivery.NOT_SENT:
            again, how = EVERY, f"as soon as the server can be reached{_within(self._policy.timeout.ready)}"
        elif (why_not := self._why_never(failure, verdict)) is not None:
            again, how = NEVER, why_not
        else:
            again, how = self._who(failure, verdict), self._how(failure, verdict)
        return Handling(name, verdict, again, how, self._end(failure, verdict))

    # --- what the executor does, in words ---

    def _why_never(self, failure: Failure, verdict: Verdict) -> str | None:
        """Why no call is sent again, empty if that is obvious; None if some are."""
        retry, wait = self._retry, verdict.retry_after
        if not verdict.retryable:
            return ""
        if not self._retries:
            return "the policy allows one attempt (retry.attempts)"
        if _crashed(failure) and retry.crashes == 1:
            return "the policy allows one crash (retry.crashes)"
        if wait is not None and wait > retry.max_retry_after:
            return (
                f"the server asks for {wait:g} s, more than the policy's {retry.max_retry_after:g} s (max_retry_after)"
            )
        return "it may have run, and must not run twice" if self._repeating(verdict) == NEVER else None

    def _repeating(self, verdict: Verdict) -> str:
        """Which calls may be sent again after this verdict."""
        if verdict.safe:
            return EVERY
        if self._tool is None:
            return REPEATABLE
        repeatable = self._tool_policy.repeatable
        if repeatable is None:
            return REPEATABLE if self._policy.trust_annotations else NEVER
        return EVERY if repeatable else NEVER

    def _who(self, failure: Failure, verdict: Verdict) -> str:
        who = self._repeating(verdict)
        limited = self._tool_policy.attempt_timeout is not None or "attempt" in self._policy.timeout.model_fields_set
        if failure.evidence is not None and failure.evidence.kind is FailureKind.TIMEOUT and not limited:
            who += ", if you set the limit"  # not "never": a call may bring a limit of its own
        return f"{who}, once" if self._is_once(verdict) else who

    def _is_once(self, verdict: Verdict) -> bool:
        return verdict.once or self._retries == 1

    def _how(self, failure: Failure, verdict: Verdict) -> str:
        retry, once = self._retry, self._is_once(verdict)
        if verdict.retry_after is not None:
            how = f"after the {verdict.retry_after:g} s that the server asks for"
        elif verdict.reconnect:
            how = "on a new connection"
        else:
            base = retry.throttled_base if verdict.category is Category.THROTTLED else retry.base
            how = _back_off(base, retry.max_delay, once=once)
        if not once:
            how = f"up to {self._retries} times, {how}"
        return f"{how}, until {retry.crashes} processes have exited during the call" if _crashed(failure) else how

    def _end(self, failure: Failure, verdict: Verdict) -> str:
        """What the caller gets if no attempt succeeds."""
        if failure.result is not None:
            return "the result, unchanged"
        history = History()
        history.add(verdict)
        cause = cast("Exception | None", failure.error)
        error = error_of(Ending("", "tools/call", verdict, AttemptError(cause, failure.evidence), history))
        if error is cause:
            return f"the server's {MCPError.__name__}" if isinstance(error, MCPError) else "that exception"
        name = type(error).__name__
        return name if self._policy.on_unavailable == "raise" else f"an isError result with the advice of {name}"


def _crashed(failure: Failure) -> bool:
    return failure.evidence is not None and failure.evidence.exit is not None


def _within(seconds: float) -> str:
    return "" if math.isinf(seconds) else f", within {seconds:g} s"


def _back_off(base: float, cap: float, *, once: bool) -> str:
    """The delay before a retry, in words."""
    first = min(base, cap)
    if first == 0:
        return "without a delay"
    text = f"after a random back-off of up to {first:g} s"
    if once or first == cap:
        return text
    return f"{text}, doubling" + ("" if math.isinf(cap) else f" to at most {cap:g} s")


# --- the table in fewer rows ---

# A row for one status, one code or one range of codes, without anything else.
_NUMBER = re.compile(r"(HTTP|JSON-RPC) (-?\d+(?: to -?\d+)?)")
# The rule of a meaning that a policy sets.
_BY_POLICY = re.compile(r"^(?:Tool)?Policy\.| in the dialect ")


def grouped(rows: Iterable[Handling]) -> list[Handling]:
    """The rows of a table, with one row for all codes and one for all statuses that are handled alike.

    Those whose meaning the policy sets have rows of their own, which say so.
    """
    groups: dict[tuple[object, ...], list[Handling]] = {}
    for row in rows:
        match = _NUMBER.fullmatch(row.failure)
        key = (row.failure,) if match is None else (match[1], _by_policy(row), *row.outcome)
        groups.setdefault(key, []).append(row)
    return [replace(group[0], failure=_name_of(group)) for group in groups.values()]


def _name_of(group: list[Handling]) -> str:
    first, *others = (row.failure for row in group)
    return ", ".join([first, *(name.partition(" ")[2] for name in others)]) + _by_policy(group[0])


def _by_policy(row: Handling) -> str:
    is_by_policy = _NUMBER.fullmatch(row.failure) and _BY_POLICY.search(row.verdict.rule)
    return ", by the policy" if is_by_policy else ""

"""What is known of a failed attempt, and the verdict on it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

from ..evidence import Delivery, Evidence


class Category(enum.Enum):
    """What sort of failure it was, for policies, statistics and people."""

    TRANSIENT = "transient"
    THROTTLED = "throttled"
    TIMEOUT = "timeout"
    SESSION_LOST = "session lost"
    CONNECTION_LOST = "connection lost"
    AUTH = "auth"
    PERMANENT = "permanent"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


RETRYABLE = frozenset(
    {
        Category.TRANSIENT,
        Category.THROTTLED,
        Category.TIMEOUT,
        Category.SESSION_LOST,
        Category.CONNECTION_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier says of one failure.

    Attributes:
        category: What sort of failure it was.
        retryable: Whether another try could help.
        delivery: Whether the server may have run it.
        reason: The failure in one printable line.
        rule: The rule that decided, in one line.
        retry_after: Seconds the server asked to wait, or None.
        reconnect: Whether the session is lost, so that another try needs the next generation.
        once: Whether a single retry tells as much as many would.
    """

    category: Category
    retryable: bool
    delivery: Delivery
    reason: str
    rule: str = ""
    retry_after: float | None = None
    reconnect: bool = False
    once: bool = False

    @property
    def safe(self) -> bool:
        """Whether the request was provably not run."""
        return self.delivery in {Delivery.NOT_SENT, Delivery.REJECTED}

    @property
    def counts_for_breaker(self) -> bool:
        """Whether it says that the server is unwell: not a tool's own error, a refusal or a cancellation."""
        return self.retryable and self.delivery is not Delivery.ANSWERED

    def __str__(self) -> str:
        again = "another try could help" if self.retryable else "another try cannot help"
        wait = "" if self.retry_after is None else f", in {self.retry_after:g} s"
        return f"{self.category.value} ({again}{wait}); {self.delivery.value}; {self.reason} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a user's own classifier sees of one failed attempt.

    Attributes:
        method: The JSON-RPC method, such as `tools/call`.
        target: The tool, prompt or resource, or None.
        error: What the SDK raised, or None.
        evidence: What an edge saw, or None when the server itself answered.
        result: The `isError` result of a tool, or None.
        delivery: How far the request got, as the transport knows it.
        earlier: Whether the same call had sent other requests before the one that failed: those were delivered.
    """

    method: str
    target: str | None = None
    error: BaseException | None = None
    evidence: Evidence | None = None
    result: Any = None
    delivery: Delivery = Delivery.UNKNOWN
    earlier: bool = False

    @property
    def tool(self) -> str | None:
        """The tool that was called, if it was one."""
        return self.target if self.method == "tools/call" else None


_UNAVAILABLE = 503


class AttemptError(Exception):  # a signal between modules, never seen by users
    """A try failed.

    Attributes:
        cause: What the SDK raised, or None.
        evidence: What an edge saw, or None when the server's own answer, or its caller, is behind the failure.
        delivery: How far the last request got.
        silent: Whether nothing was heard from the server meanwhile.
        lively: Whether the server itself said something just now, to whomever.
        premature: Whether a connection was only given up too early: the same may be tried at once.
        earlier: Whether other requests went before the one that failed, and were delivered.
    """

    def __init__(
        self,
        cause: Exception | None,
        evidence: Evidence | None,
        *,
        delivery: Delivery = Delivery.UNKNOWN,
        silent: bool = False,
        lively: bool = False,
        premature: bool = False,
        earlier: bool = False,
    ) -> None:
        super().__init__(cause, evidence)
        self.cause = cause
        self.evidence = evidence
        self.delivery = delivery if evidence is None else evidence.delivery
        self.silent = silent
        self.lively = lively
        self.premature = premature
        self.earlier = earlier

    @property
    def is_shed(self) -> bool:
        """Whether it was a 503 of a server that answers others: it sheds load, as nginx's `limit_req` does."""
        return self.lively and self.evidence is not None and self.evidence.http_status == _UNAVAILABLE

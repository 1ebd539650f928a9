"""What is known of a failed attempt, and the verdict on it."""

import enum
from dataclasses import dataclass
from typing import Any

from ..evidence import Delivery, Evidence


class Category(enum.Enum):
    """The kind of a failure, for policies, statistics and people."""

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
    """The classifier's judgement of one failure.

    Attributes:
        category: The kind of failure.
        retryable: Whether a retry may help.
        delivery: Whether the server may have run it.
        reason: The failure in one printable line.
        rule: The rule that decided, in one line.
        retry_after: Seconds the server asked to wait, or None.
        reconnect: Whether the session is lost, so that a retry needs the next generation.
        once: Whether more than one retry is pointless.
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
        """Whether it suggests that the server is unhealthy; a tool's own error, a refusal and a cancellation do not."""
        return self.retryable and self.delivery is not Delivery.ANSWERED

    def __str__(self) -> str:
        again = "a retry may help" if self.retryable else "a retry cannot help"
        wait = "" if self.retry_after is None else f", in {self.retry_after:g} s"
        return f"{self.category.value} ({again}{wait}); {self.delivery.value}; {self.reason} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Failure:
    """What a user's own classifier sees of one failed attempt.

    Attributes:
        method: The JSON-RPC method, such as `tools/call`.
        target: The tool, prompt or resource, or None.
        error: What the SDK raised, or None.
        evidence: What the transport saw, or None when the server itself answered.
        result: The `isError` result of a tool, or None.
        delivery: How far the request got, as the transport knows it.
        earlier: Whether the same call sent other requests before the one that failed: those were delivered.
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
    """An attempt failed.

    Attributes:
        cause: What the SDK raised, or None.
        evidence: What the transport saw, or None if the server's own answer or the caller's code caused the failure.
        delivery: How far the last request got.
        silent: Whether nothing was heard from the server during the attempt.
        lively: Whether the server itself sent a JSON-RPC message, on any call, within the last second.
        premature: Whether a connection attempt was only abandoned too early, so it can be repeated immediately.
        earlier: Whether the attempt had sent other requests before the one that failed; those were delivered.
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
        """Whether it was a 503 from a server that answers other calls: load shedding, as by nginx's `limit_req`."""
        return self.lively and self.evidence is not None and self.evidence.http_status == _UNAVAILABLE

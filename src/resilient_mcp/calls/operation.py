"""One operation of a client, and the history of its attempts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from .._sdk.requests import Request
from .._sdk.session import Progress
from ..event_loop import loop_time
from ..evidence import Delivery
from ..text.printable import printable
from ..verdicts.verdict import Verdict

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Operation(Generic[T]):
    """One request of a caller, with its limits.

    Attributes:
        request: The request, as data.
        timeout: Time limit of one attempt in seconds, or None for the policy's.
        progress: The caller's progress callback, or None.
        clean: Turns a target into one printable line of at most the given length.
        began: When the caller made it, on the event loop's clock: the total time limit counts from then.
    """

    request: Request[T]
    timeout: float | None = None
    progress: Progress | None = None
    clean: Callable[[str, int], str] = printable
    began: float = field(default_factory=loop_time)

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return self.request.method

    @property
    def target(self) -> str | None:
        """The tool, prompt or resource, or None."""
        return self.request.target

    @property
    def arguments(self) -> Any:
        """A tool's arguments, or None."""
        return self.request.arguments

    @property
    def tool(self) -> str | None:
        """The tool, if this is a tool call, or None."""
        return self.target if self.method == "tools/call" else None

    def __str__(self) -> str:
        return self.method if self.target is None else f"{self.method} {self.clean(self.target, 100)}"


@dataclass(slots=True)
class History:
    """The failed attempts of one call so far.

    Attributes:
        sent: How many attempts were sent.
        verdict: The verdict on the last failed attempt, with the delivery of the whole call: once an attempt may have
            run, the call may have run. None before the first failure.
        repeatable: Whether running the call twice is known to have the same effect as running it once.
    """

    sent: int = 0
    verdict: Verdict | None = None
    repeatable: bool = False

    @property
    def may_have_run(self) -> bool:
        """Whether the server may have run the call in any attempt."""
        return self.verdict is not None and not self.verdict.safe

    def add(self, verdict: Verdict) -> None:
        """Add an attempt that failed, or that returned an `isError` result worth retrying."""
        self.sent += verdict.delivery is not Delivery.NOT_SENT
        self.verdict = replace(verdict, delivery=Delivery.UNKNOWN) if self.may_have_run and verdict.safe else verdict

    @property
    def facts(self) -> dict[str, Any]:
        """The history as keyword arguments of a `ResilienceError`."""
        return {"attempts": self.sent, "verdict": self.verdict, "repeatable": self.repeatable}

    def __str__(self) -> str:
        if not self.sent:
            return "Nothing was sent."
        times = "once" if self.sent == 1 else f"{self.sent} times"
        if not self.may_have_run:
            return f"It was sent {times} and was not run."
        if self.repeatable:
            return f"It was sent {times}. The server may have run it; it is safe to repeat."
        return (
            f"It was sent {times}. The server may have run it, and may still be running it: check before repeating it."
        )

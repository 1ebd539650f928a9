"""One thing asked of a server, as everything from the client down to the gate knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from .._sdk.session import Invoke
from ..event_loop import loop_time
from ..evidence import Delivery
from ..text.printable import printable
from ..verdicts.verdict import Verdict


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing asked of the server.

    Attributes:
        method: The JSON-RPC method.
        invoke: Does it, with a session and a progress callback.
        target: The tool, prompt or resource, or None.
        timeout: Seconds an attempt may take, or None for the policy's.
        progress: The caller's progress callback, or None.
        arguments: A tool's arguments, for the log's debug mode.
        began: When it was asked for, by the event loop's clock: its total time limit counts from then.
        clean: Makes one printable line of a target, at most so long.
    """

    method: str
    invoke: Invoke
    target: str | None = None
    timeout: float | None = None
    progress: Any = None
    arguments: Any = None
    clean: Callable[[str, int], str] = printable
    began: float = field(default_factory=loop_time)

    @property
    def tool(self) -> str | None:
        """The tool that is called, if it is one."""
        return self.target if self.method == "tools/call" else None

    def __str__(self) -> str:
        return self.method if self.target is None else f"{self.method} {self.clean(self.target, 100)}"


@dataclass(slots=True)
class History:
    """What became of the attempts of one call so far.

    Attributes:
        sent: How often it was sent.
        verdict: The verdict on the last failed attempt, with the delivery of the whole call: once an attempt may have
            run, the call may have run. None before the first failure.
        repeatable: Whether it is known that running it twice does no more than running it once.
    """

    sent: int = 0
    verdict: Verdict | None = None
    repeatable: bool = False

    @property
    def may_have_run(self) -> bool:
        """Whether the server may have run it, in any attempt."""
        return self.verdict is not None and not self.verdict.safe

    def add(self, verdict: Verdict) -> None:
        """An attempt failed, or was answered by an `isError` result that may be worth another."""
        self.sent += verdict.delivery is not Delivery.NOT_SENT
        self.verdict = replace(verdict, delivery=Delivery.UNKNOWN) if self.may_have_run and verdict.safe else verdict

    @property
    def facts(self) -> dict[str, Any]:
        """What an error of the call has of it."""
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

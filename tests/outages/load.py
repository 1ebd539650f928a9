"""The callers of one session, and the outcomes of their calls."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio

from ..matrix.harness import word

ANSWERED = "answered"
WRONG = "WRONG ANSWER"
HUNG = "HUNG"
"""No outcome `GRACE` seconds after the end of the situation."""
GRACE = 10.0
LATE = 2.0
"""Seconds after the end of an outage from which on no call may be refused."""
REFUSALS = frozenset({"CircuitOpen", "Overloaded", "RateLimitExceeded", "ServerUnavailable"})
"""Errors for calls that the client refused to send."""
ECHO = "echo"


@dataclass(frozen=True)
class Call:
    """A finished call.

    Attributes:
        caller: The caller's number.
        tool: The tool.
        began: When it began, in seconds of the event loop's clock.
        ended: When it had its outcome.
        word: `ANSWERED`, or what it failed with.
    """

    caller: int
    tool: str
    began: float
    ended: float
    word: str


@dataclass
class Outcome:
    """The outcome of a situation for one side.

    Attributes:
        answered: The number of answered calls.
        failed: The other calls, by error.
        first: Seconds from the end of the outage to the first answer after it; None without an outage or an answer.
        every: The same, until every caller had an answer.
        refused: Calls that were refused although the outage had been over for `LATE` seconds when they began.
        longest: Seconds that the longest call took.
        slow: The outcomes of calls that the gateway cuts off, by word; they are not counted above.
        slowest: Seconds that the longest of these took.
        runs: How often their tool ran.
        torn: The error with which the session was torn down; empty if it was not.
    """

    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    first: float | None = None
    every: float | None = None
    refused: int = 0
    longest: float = 0.0
    slow: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    runs: int = 0
    torn: str = ""


class Load:
    """The callers.

    Attributes:
        session: The session under test; it has `call_tool`.
        calls: The finished calls.
        over: Set when the callers should stop.
        left: Set when all outcomes are known and the session may be closed.
        outage: When the outage began and ended; None if there was none.
        paused_until: Until when the server asked clients to wait.
        torn: The error with which the session was torn down.
    """

    def __init__(self) -> None:
        self.session: Any = None
        self.calls: list[Call] = []
        self.over = anyio.Event()
        self.left = anyio.Event()
        self.outage: tuple[float, float] | None = None
        self.paused_until = 0.0
        self.torn = ""

    async def call(self, caller: int, tool: str, **arguments: Any) -> None:
        """Make one call, which may fail, and record its outcome."""
        began, came = anyio.current_time(), HUNG
        try:
            result = await self.session.call_tool(tool, arguments)
            wrong = tool == ECHO and result.content[0].text != arguments["text"]
            came = WRONG if wrong else ANSWERED
        except Exception as exc:
            came = word(exc)
        finally:
            self.calls.append(Call(caller, tool, began, anyio.current_time(), came))

    async def loop(self, caller: int, pause: float) -> None:
        """One caller: call after call, with a pause in between."""
        number = 0
        while not self.over.is_set():
            number += 1
            await self.call(caller, ECHO, text=f"{caller}-{number}")
            with anyio.move_on_after(pause * random.uniform(0.7, 1.3)):
                await self.over.wait()

    async def answered(self, callers: int) -> None:
        """Wait until `callers` callers have each had an answer."""
        with anyio.fail_after(15):
            while len({call.caller for call in self.calls if call.word == ANSWERED}) < callers:
                await anyio.sleep(0.02)

    @property
    def recovery(self) -> float | None:
        """When calls can be answered again: the end of the outage, or of the last pause the server asked for."""
        return None if self.outage is None else max(self.outage[1], self.paused_until)

    def outcome(self) -> Outcome:
        found = Outcome(torn=self.torn)
        back = self.recovery
        for call in self.calls:
            took = call.ended - call.began
            if call.tool != ECHO:
                found.slow[call.word] += 1
                found.slowest = max(found.slowest, took)
                continue
            found.longest = max(found.longest, took)
            if call.word == ANSWERED:
                found.answered += 1
            else:
                found.failed[call.word] += 1
            if call.word in REFUSALS and (back is None or call.began > back + LATE):
                found.refused += 1
        if back is not None:
            found.first = min(self._answers_since(back), default=None)
            found.every = max(self._answers_since(back), default=None) if self._all_are_back(back) else None
        return found

    def _answers_since(self, moment: float) -> Iterator[float]:
        """Each caller's first answer after `moment`, in seconds from then."""
        seen = set()
        for call in self.calls:
            if call.tool == ECHO and call.word == ANSWERED and call.ended > moment and call.caller not in seen:
                seen.add(call.caller)
                yield call.ended - moment

    def _all_are_back(self, moment: float) -> bool:
        callers = {call.caller for call in self.calls if call.tool == ECHO}
        return len(list(self._answers_since(moment))) == len(callers)

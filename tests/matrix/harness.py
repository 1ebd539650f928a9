"""Makes a fault happen to a side's session, and tells what came of its calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import anyio
import anyio.abc

from resilient_mcp._sdk.installed import MAJOR, MCPError

from .faults import Fault, nothing
from .sides import Side
from .stages import BESIDE, Place, Stage, stage

ANSWERED = "answered"
WRONG = "WRONG ANSWER"
HUNG = "HUNG"
TORN = "TORN"
"""The task that opened the session was cancelled, whatever it did; only the exception group on leaving says why."""
_GRACE = 3.0
"""Seconds in which processes that were killed have to be gone."""


@dataclass
class Outcome:
    """What came of a fault: words for each call, and what was left behind.

    Attributes:
        calls: By tool, what the call that the fault struck came to.
        seen: By tool, how often the server saw that call.
        bystander: What a call of another task came to, which was in flight.
        next: What the call after it came to; None where the fault leaves none to make.
        leaving: What leaving the session raised, or that it hung; empty if nothing.
        processes: How many processes of the server were still there after that.
    """

    calls: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    bystander: str = ANSWERED
    next: str | None = None
    leaving: str = ""
    processes: int = 0


async def outcome(side: Side, fault: Fault, place: Place) -> tuple[Outcome, Stage]:
    """What becomes of a side's calls, and the stage after it."""
    found = Outcome()
    at = stage(fault, place)
    async with at.running(), anyio.create_task_group() as others:
        scenario = _Scenario(side, fault, at, others, found)
        await (scenario.start() if fault.at_start else scenario.live())
        with anyio.move_on_after(_GRACE):
            while at.processes():
                await anyio.sleep(0.01)
        found.processes = len(at.processes())
        others.cancel_scope.cancel()
    return found, at


class _Scenario:
    """One fault, one session."""

    def __init__(self, side: Side, fault: Fault, at: Stage, others: anyio.abc.TaskGroup, found: Outcome) -> None:
        self.side = side
        self.fault = fault
        self.at = at
        self.others = others
        self.found = found
        self.bystanders: list[anyio.Event] = []

    async def start(self) -> None:
        """The fault is there when the session is opened; what becomes of a first call in it is the outcome."""
        over, mended = anyio.Event(), anyio.Event()
        await self.fault.before(self.at)
        self.others.start_soon(self._beside, over, mended)
        self.found.calls["echo"] = await self._word(self._open_and_call)
        self.at.noticed.set()
        over.set()
        if self.fault.mend is not nothing:
            await mended.wait()
            self.found.next = await self._word(self._open_and_call)

    async def _open_and_call(self) -> str:
        async with self.side.open(self.at) as session:
            return await self._call(session, "echo", "echo")

    async def live(self) -> None:
        """The fault strikes a session that has answered before, once for each of the side's tools."""
        found = self.found
        try:
            with anyio.CancelScope() as scope:
                async with self.side.open(self.at) as session:
                    assert await self._call(session, "echo", "before") == ANSWERED
                    for tool in self.side.tools if self.fault.act is None else ("echo",):
                        await self._strike(session, tool)
                    found.leaving = HUNG
                    scope.deadline = anyio.current_time() + self.side.patience
                found.leaving = ""
        except Exception as exc:
            found.leaving = word(exc)
        self.at.noticed.set()
        for done in self.bystanders:
            await done.wait()

    async def _strike(self, session: Any, tool: str) -> None:
        found, fault, at = self.found, self.fault, self.at
        found.calls[tool] = found.next = TORN
        at.noticed, over, mended, done = anyio.Event(), anyio.Event(), anyio.Event(), anyio.Event()
        at.arm()
        await fault.before(at)
        self.bystanders.append(done)
        self.others.start_soon(self._bystander, session, done)
        if fault.before is nothing:
            await at.server.received(BESIDE, len(self.bystanders))
        self.others.start_soon(self._beside, over, mended)
        if fault.act is not None:
            found.calls[tool] = await self._word(fault.act, session, at)
        else:
            found.calls[tool] = await self._call(session, tool, tool, fault.answer, **fault.arguments)
        at.noticed.set()
        await done.wait()
        over.set()
        await mended.wait()
        found.next = await self._call(session, "echo", f"after {tool}")
        if fault.act is None:
            found.seen[tool] = at.seen(tool)

    async def _beside(self, over: anyio.Event, mended: anyio.Event) -> None:
        """Whatever happens to the server while the call is under way."""
        await self.fault.during(self.at)
        await (over if self.fault.stays else self.at.noticed).wait()
        await self.fault.mend(self.at)
        mended.set()

    async def _bystander(self, session: Any, done: anyio.Event) -> None:
        async def ask() -> str:
            listed = await session.list_resources()
            return ANSWERED if [item.name for item in listed.resources] == ["note"] else WRONG

        if (came := await self._word(ask)) != ANSWERED:
            self.found.bystander = came
        done.set()

    async def _call(self, session: Any, tool: str, text: str, answer: str | None = None, **arguments: Any) -> str:
        options = {}
        if self.fault.read_timeout is not None:
            seconds = self.fault.read_timeout
            options["read_timeout_seconds"] = timedelta(seconds=seconds) if MAJOR == 1 else seconds

        async def call() -> str:
            result = await session.call_tool(tool, {"text": text, **arguments}, **options)
            return ANSWERED if result.content[0].text == (answer or text) else WRONG

        return await self._word(call)

    async def _word(self, act: Any, *arguments: Any) -> str:
        with anyio.move_on_after(self.side.patience):
            try:
                return str(await act(*arguments))
            except Exception as exc:
                return word(exc)
        return HUNG


def word(exc: BaseException) -> str:
    """An error in one word: its code if the server or the SDK gave it one, else its class."""
    if hasattr(exc, "exceptions"):
        return f"ExceptionGroup[{', '.join(sorted(set(map(word, leaves(exc)))))}]"
    if type(exc) is MCPError:
        return str(exc.error.code)
    return type(exc).__name__


def leaves(exc: BaseException) -> list[BaseException]:
    """The errors in an exception group, however deep."""
    inner = getattr(exc, "exceptions", None)
    return [exc] if inner is None else [leaf for each in inner for leaf in leaves(each)]

"""Injects a fault into a side's session and reports how its calls end."""

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
"""The task that opened the session was cancelled; only the exception group raised on exit says why."""
# Seconds within which killed processes must be gone.
_GRACE = 3.0


@dataclass
class Outcome:
    """The outcome of a fault: one word per call, and what was left behind.

    Attributes:
        calls: By tool, the outcome of the call that the fault hit.
        seen: By tool, how often the server saw that call.
        bystander: The outcome of another task's call that was in flight.
        next: The outcome of the next call; None if the fault leaves none to make.
        leaving: What closing the session raised, or that it hung; empty if neither.
        processes: How many server processes were left after that.
    """

    calls: dict[str, str] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)
    bystander: str = ANSWERED
    next: str | None = None
    leaving: str = ""
    processes: int = 0


async def outcome(side: Side, fault: Fault, place: Place) -> tuple[Outcome, Stage]:
    """Run a fault for one side; returns the outcome and the stage as the fault left it."""
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
        """The fault is present when the session is opened; the outcome is that of opening it and a first call."""
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
        """The fault hits a session that has worked before, once for each of the side's tools."""
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
        """What happens to the server while the call is in flight."""
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
    """An error in one word: its JSON-RPC code if it is a plain `MCPError`, else its class name."""
    if hasattr(exc, "exceptions"):
        return f"ExceptionGroup[{', '.join(sorted(set(map(word, leaves(exc)))))}]"
    if type(exc) is MCPError:
        return str(exc.error.code)
    return type(exc).__name__


def leaves(exc: BaseException) -> list[BaseException]:
    """The errors in an exception group, at any depth."""
    inner = getattr(exc, "exceptions", None)
    return [exc] if inner is None else [leaf for each in inner for leaf in leaves(each)]

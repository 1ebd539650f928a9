"""Plays one scene twice, on real servers: once through a plain `ClientSession`, once through a `ResilientClient`.

Each side's outcomes are recorded as they happen and are not judged here. A call that does not end is given up after a
while; a session that is torn down ends its own side only.
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from resilient_mcp.client import ResilientClient
from resilient_mcp.errors import ResilienceError
from resilient_mcp.events import Connected, Event, RetryScheduled
from resilient_mcp.policy import Policy, RetryPolicy, TimeoutPolicy
from resilient_mcp.text.printable import describe, first_leaf

from .._sdk.results import is_error_result
from .._sdk.transports import timeout_argument
from .processes import HttpServer, stdio_server

GIVE_UP = {"plain": 4.0, "resilient": 15.0}
"""Seconds after which the demo stops waiting for a call. The plain side may hang; `ResilientClient` must not."""
_SCENE_LIMIT = 40.0
_STOP_LIMIT = 5.0
# Characters of a message that are shown.
_SHOWN = 240


@dataclass(frozen=True)
class Outcome:
    """How one call ended.

    Attributes:
        call: The call's name on the screen.
        seconds: How long it took.
        answer: The text of the result, or None.
        error: The exception raised, or None. If both are None, the call hung.
        torn: Whether the session was torn down around the call, rather than the call itself raising the error.
    """

    call: str
    seconds: float
    answer: str | None = None
    error: BaseException | None = None
    torn: bool = False

    @property
    def text(self) -> str:
        """The outcome as text; an error is cut to `_SHOWN` characters."""
        if self.answer is not None:
            return self.answer
        if self.error is None:
            return f"hung (gave up after {self.seconds:.0f}s)"
        return ("session torn down: " if self.torn else "") + describe(self.error)[:_SHOWN]

    @property
    def timed(self) -> str:
        """The seconds it took, in parentheses; empty if the call hung."""
        hung = self.answer is None and self.error is None
        return "" if hung else f" ({self.seconds:.1f}s)"  # no space before the unit: a line could break there


@dataclass(frozen=True)
class Line:
    """One line of a side's log."""

    kind: Literal["call", "note", "answer", "advice", "error"]
    text: str


@dataclass
class Side:
    """One of the two sides of a scene, and what has happened on it.

    Attributes:
        kind: Which client it uses.
        lines: What happened, in order.
        outcomes: The outcomes of its calls, in order, except for those made by `ask` before the fault.
        pending: The call in flight and its start time, or None.
        facts: Other findings of the scene, shown with the outcomes.
        orders: A file for this side only.
        session: The session that its calls go through.
        http: Its server, if the scene runs over HTTP.
        finished: Whether the side has ended.
    """

    kind: Literal["plain", "resilient"]
    lines: list[Line] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    pending: tuple[str, float] | None = None
    facts: list[str] = field(default_factory=list)
    orders: Path = Path()
    session: Any = None
    http: HttpServer | None = None
    finished: bool = False

    def note(self, text: str) -> None:
        """Record something other than a call."""
        self.lines.append(Line("note", text))

    async def ask(self, tool: str, **arguments: Any) -> str:
        """Call a tool before the fault and return its text."""
        text = _text(await self.session.call_tool(tool, arguments))
        self.note(f"{_words(tool, arguments)} -> {text}")
        return text

    async def call(self, name: str, tool: str, **arguments: Any) -> None:
        """Call a tool and record the outcome; raises only when the session is torn down."""
        self.lines.append(Line("call", f"{name}: {_words(tool, arguments)}"))
        self.pending = (name, time.monotonic())
        try:
            with anyio.move_on_after(GIVE_UP[self.kind]) as limit:
                answer = _text(await self.session.call_tool(tool, arguments))
                self._end(answer=answer)
        except Exception as exc:
            self._end(error=exc)
        if limit.cancelled_caught:
            self._end()

    def broke(self, error: BaseException) -> None:
        """Record that the session ended with `error`, and the call in flight with it."""
        if self.pending is None and not self.finished:
            self.pending = ("before the fault", time.monotonic())
        if self.pending is not None:
            self._end(error=first_leaf(error), torn=self.session is not None)
        self.finished = True

    def _end(self, *, answer: str | None = None, error: BaseException | None = None, torn: bool = False) -> None:
        assert self.pending is not None
        (name, began), self.pending = self.pending, None
        outcome = Outcome(name, time.monotonic() - began, answer, error, torn)
        self.outcomes.append(outcome)
        kind: Literal["answer", "advice", "error"] = "answer"
        if answer is None:
            kind = "advice" if isinstance(error, ResilienceError) else "error"
        self.lines.append(Line(kind, outcome.text + outcome.timed))

    def on_event(self, event: Event) -> None:
        """Record the reconnects and retries of `ResilientClient`."""
        if isinstance(event, Connected) and event.generation > 1:
            self.note(f"reconnected in {event.elapsed:.1f} s")
        elif isinstance(event, RetryScheduled):
            when = f" in {event.delay:.1f} s" if event.delay else ""
            self.note(f"{event.reason}: retrying{when}")


@dataclass(frozen=True)
class Scene:
    """One fault, and the calls that meet it.

    Attributes:
        title: A few words.
        story: What happens, in two or three sentences.
        over: The transport.
        play: Injects the fault and makes the calls, on either side.
        promise: Returns whether a side ended as `ResilientClient` promises.
        limit: Time limit of a call on both sides, in seconds, or None for each side's own default.
    """

    title: str
    story: str
    over: Literal["stdio", "HTTP"]
    play: Callable[[Side], Awaitable[None]]
    promise: Callable[[Side], bool]
    limit: float | None = None


async def perform(scene: Scene, sides: Sequence[Side]) -> None:
    """Play `scene` on all sides at the same time; each has its own server, task and file."""
    tasks = [asyncio.create_task(_perform(scene, side)) for side in sides]
    try:
        await asyncio.wait(tasks, timeout=_SCENE_LIMIT)
        for side in sides:
            side.broke(TimeoutError(f"not finished after {_SCENE_LIMIT:.0f} s"))
    finally:
        for side in sides:
            side.pending, side.finished = None, True  # errors caused by cancelling are not part of the scene
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_STOP_LIMIT)


async def _perform(scene: Scene, side: Side) -> None:
    open_session = _plain if side.kind == "plain" else _resilient
    with tempfile.TemporaryDirectory() as folder:
        side.orders = Path(folder) / "orders.txt"
        try:
            async with AsyncExitStack() as stack:
                server: Any = stdio_server(side.orders)
                if scene.over == "HTTP":
                    side.http = await stack.enter_async_context(HttpServer(side.orders))
                    server = side.http.url
                side.session = await stack.enter_async_context(open_session(server, scene.limit, side))
                await side.session.list_tools()  # as every agent does first
                await scene.play(side)
                side.finished = True
        except Exception as exc:
            side.broke(exc)


@asynccontextmanager
async def _plain(server: Any, limit: float | None, _side: Side) -> AsyncIterator[ClientSession]:
    """A session of the SDK, as in its documentation. Without a `limit` it waits forever, which is its default."""
    read_timeout = None if limit is None else timeout_argument(limit)
    quiet: Any = subprocess.DEVNULL
    if isinstance(server, StdioServerParameters):
        transport: Any = stdio_client(server, errlog=quiet)
    else:
        transport = streamable_http_client(server)
    async with (
        transport as (read, write, *_),
        ClientSession(read, write, read_timeout_seconds=read_timeout) as session,
    ):
        await session.initialize()
        yield session


@asynccontextmanager
async def _resilient(server: Any, limit: float | None, side: Side) -> AsyncIterator[ResilientClient]:
    """A `ResilientClient` with the default policy, or with one attempt of `limit` seconds, like the plain side."""
    policy = Policy()
    if limit is not None:
        policy = Policy(retry=RetryPolicy(attempts=1), timeout=TimeoutPolicy(attempt=limit, shutdown=1))
    async with ResilientClient(server, name="demo", policy=policy, on_event=side.on_event) as session:
        yield session


def _words(tool: str, arguments: dict[str, Any]) -> str:
    """A call as source code."""
    return f"{tool}({', '.join(map(repr, arguments.values()))})"


def _text(result: Any) -> str:
    """The text of a tool's result."""
    text = str(result.content[0].text)
    return f"isError: {text}" if is_error_result(result) else text

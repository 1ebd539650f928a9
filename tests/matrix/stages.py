"""Where faults happen: a scripted server in its own process, or on a socket behind a proxy, in either protocol era."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock
from uuid import uuid4

import anyio

from resilient_mcp._sdk.installed import MAJOR
from resilient_mcp.testing import FaultProxy, Reply, Request, ScriptedHttpServer, ScriptedStdioServer

from ..support import gone
from . import descriptors

if TYPE_CHECKING:
    from .faults import Fault

CALL = "tools/call"
HANDSHAKE = "handshake"
"""In a script, the first request of the handshake in either era."""
BESIDE = "resources/list"
"""The bystander's request."""
LATE = 0.05
"""Seconds until the bystander is answered, so that it is in flight when the fault hits."""
RESTARTS = 3
"""How many restarts the policy allows before the server is suspended."""
MARK = "FAULT_MATRIX"
"""The environment variable that marks the processes of a stage."""


@dataclass(frozen=True)
class Place:
    """A transport (with the form of its answers) and a protocol era."""

    transport: str
    era: str

    @property
    def modern(self) -> bool:
        return self.era == "2026"

    @property
    def http(self) -> bool:
        return self.transport != "stdio"

    def __str__(self) -> str:
        return f"{self.transport}-{self.era}"


PLACES = [Place(transport, era) for transport in ("stdio", "json", "sse") for era in ("2025", "2026")]
HERE = [place for place in PLACES if MAJOR > 1 or not place.modern]
"""The places that the installed SDK can reach."""


class Stage:
    """A server that a fault happens to.

    Attributes:
        target: What a session is opened with.
        noticed: Set when a side has noticed that something is wrong.
        heard: Set when the session was notified of a changed resource.
    """

    target: Any
    server: Any

    def __init__(self, fault: Fault, place: Place) -> None:
        self.fault = fault
        self.place = place
        self.noticed = anyio.Event()
        self.heard = anyio.Event()
        self.give_back_descriptors: Callable[[], None] = lambda: None
        self._clock: Any = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with self._serving():
                yield
        finally:
            self.give_back_descriptors()
            self.right_clock()

    def _serving(self) -> AbstractAsyncContextManager[None]:
        raise NotImplementedError

    async def hear(self, message: Any) -> None:
        """The session's `message_handler`."""
        if "ResourceUpdated" in type(getattr(message, "root", message)).__name__:
            self.heard.set()

    def _script(self) -> dict[str, list[Reply]]:
        handshake = "server/discover" if self.place.modern else "initialize"
        script = {BESIDE: [Reply().after(LATE)] * 3, **self.fault.script}
        return {handshake if method == HANDSHAKE else method: list(replies) for method, replies in script.items()}

    def arm(self) -> None:
        """Make the fault's reply the reply to the next call."""
        self._before = len(self.server.requests.of(CALL))
        reply = self.fault.reply
        self._arm([] if reply is None else [reply(self) if callable(reply) else reply])

    def _arm(self, replies: list[Reply]) -> None:
        raise NotImplementedError

    async def call_received(self) -> None:
        """Wait until the server has received the call for which the stage was armed."""
        await self.server.received(CALL, self._before + 1)

    def seen(self, text: str) -> int:
        """How often the server has received a call, except with a forgotten session id."""
        return sum(request.arguments.get("text") == text for request in self.server.requests.of(CALL))

    def processes(self) -> list[int]:
        """The live processes of this stage."""
        return []

    async def restart(self) -> None:
        """Kill the server and bring it back immediately."""
        raise NotImplementedError

    # --- what happens to the client's own process ---

    def take_descriptors(self) -> None:
        """Make it impossible to open another file, pipe or socket until the descriptors are given back."""
        self.give_back_descriptors = descriptors.take()

    def jump(self, seconds: float) -> None:
        """Move the wall clock, of this process only."""
        real = time.time
        self._clock = mock.patch("time.time", lambda: real() + seconds)
        self._clock.start()

    def right_clock(self) -> None:
        if self._clock is not None:
            self._clock.stop()
            self._clock = None


class StdioStage(Stage):
    """A scripted stdio server; every process that the client starts."""

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        fault = self.fault
        self._mark = uuid4().hex
        self.server = ScriptedStdioServer(self._script(), stubborn=fault.stubborn, modern=self.place.modern)
        async with self.server:
            parameters = self.server.parameters
            changes: dict[str, Any] = {"env": {MARK: self._mark}}
            if fault.wrapped:
                arguments = ["-c", '"$@"; exit 1', "sh", parameters.command, *parameters.args]
                changes |= {"command": "/bin/sh", "args": arguments}
            if fault.target is not None:
                changes["command"] = fault.target(self)
            self.target = parameters.model_copy(update=changes)
            try:
                yield
            finally:
                for pid in self.processes():
                    os.kill(pid, signal.SIGKILL)

    def _arm(self, replies: list[Reply]) -> None:
        self.server.then(*replies)

    @property
    def pid(self) -> int:
        return self.server.requests.of("start")[-1].pid

    def processes(self) -> list[int]:
        mark = f"{MARK}={self._mark}".encode()
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if mark in _environment(pid)]

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    async def restart(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        await gone(self.pid)

    def kill_wrapper(self) -> None:
        status = Path(f"/proc/{self.pid}/status").read_text()
        os.kill(int(status.split("PPid:")[1].split()[0]), signal.SIGKILL)


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()  # empty if the process has ended
    except (OSError, PermissionError):
        return b""


class HttpStage(Stage):
    """A server on a socket, behind a proxy that can cut it off; `elsewhere` is a proxy at another origin."""

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        self._replies = self._script()
        self._sessions: set[str] = set()
        self._forgotten: set[str] = set()
        self._ran: Counter[str] = Counter()
        self.call_id: Any = None
        self.hook_fails = False
        self.server = ScriptedHttpServer(self._reply, sse=self.place.transport == "sse", modern=self.place.modern)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.server)
            self.proxy = await stack.enter_async_context(FaultProxy(self.server.url, seed=1))
            self.elsewhere = await stack.enter_async_context(FaultProxy(self.server.url, seed=1))
            self.target = self.proxy.url
            if self.fault.target is not None:
                self.target = self.fault.target(self)
            yield

    def _reply(self, request: Request) -> Reply | None:
        session = request.headers.get("mcp-session-id", "")
        self._sessions.add(session)
        if request.method == CALL and session not in self._forgotten:
            self.call_id = request.id
            self._ran[str(request.arguments.get("text"))] += 1
        if request.method == "GET" and "last-event-id" in request.headers and self.fault.resumption is not None:
            return self.fault.resumption(self)
        waiting = self._replies.get(request.method)
        return waiting.pop(0) if waiting else None

    def _arm(self, replies: list[Reply]) -> None:
        self._replies[CALL] = replies

    def seen(self, text: str) -> int:
        return self._ran[text]

    def forget_sessions(self) -> None:
        self.server.forget_sessions()
        self._forgotten |= self._sessions - {""}

    async def down(self) -> None:
        self.proxy.down(reset=True)
        self.forget_sessions()
        while self.proxy.open_connections:
            await anyio.sleep(0.001)

    async def restart(self) -> None:
        await self.down()
        self.proxy.up()


def stage(fault: Fault, place: Place) -> Stage:
    """The stage for a fault at a place."""
    return (HttpStage if place.http else StdioStage)(fault, place)

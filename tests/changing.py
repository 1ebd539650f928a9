"""`tests.servers.changing_server` over each transport and protocol era, killed on demand."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from resilient_mcp import Change, Connected, Policy, ResilientClient
from resilient_mcp._sdk.installed import MAJOR

from .support import LEGACY, QUICK, HttpServer, Recorder, _stdio, text_of

MODULE = "tests.servers.changing_server"
PLACES = [f"{transport} {era}" for transport in ("stdio", "http") for era in ("legacy", "modern")[:MAJOR]]


class Place:
    """A server, its client, and the client's events."""

    def __init__(self, client: ResilientClient, server: HttpServer | None, events: Recorder, legacy: bool) -> None:
        self.client = client
        self.server = server
        self.events = events
        self.legacy = legacy

    async def ask(self, tool: str, **arguments: Any) -> str:
        return text_of(await self.client.call_tool(tool, arguments))

    async def kill(self) -> None:
        """Replace the server by a new process."""
        if self.server is not None:
            self.server.kill()
            self.server.start()
        else:
            generation = self.client.generation
            os.kill(int(await self.ask("pid")), signal.SIGKILL)
            await self.events.wait_for(Connected, generation=generation + 1)

    async def subscribed(self, *uris: str) -> None:
        """Wait until the server has exactly these subscriptions."""
        expected = " ".join(sorted(uris))
        with anyio.fail_after(10):
            while await self.ask("subscribed") != expected:
                await anyio.sleep(0.01)


async def next_of(changes: AsyncIterator[Change]) -> Change:
    with anyio.fail_after(10):
        return await anext(changes)


@asynccontextmanager
async def place(where: str, policy: Policy = QUICK, tools: Path | None = None, **options: Any) -> AsyncIterator[Place]:
    transport, era = where.split()
    arguments = [] if tools is None else ["--tools", str(tools)]
    options = {**(LEGACY if era == "legacy" else {}), **options}
    events = Recorder()
    server: HttpServer | None = None
    if transport == "http":
        server = HttpServer()
        server._command = [sys.executable, "-m", MODULE, "http", str(server.port), *arguments]
        server.start()
        await server.listening()
    target = server.url if server is not None else _stdio(MODULE, ("stdio", *arguments), None)
    try:
        async with ResilientClient(target, policy=policy, on_event=events, **options) as client:
            assert (client.protocol_version == "2026-07-28") is (era == "modern")
            yield Place(client, server, events, era == "legacy")
    finally:
        if server is not None:
            server.kill()

"""One server of the fleet, its client, and the faults that can be injected."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import anyio

from resilient_mcp import ResilientClient
from resilient_mcp.testing import (
    Bandwidth,
    FaultProxy,
    Latency,
    LimitData,
    ResetPeer,
    Slicer,
    SlowClose,
    Timeout,
    Toxic,
)

from ..support import LEGACY, HttpServer, children, text_of
from ..support import _stdio as stdio_server
from .book import Book
from .plan import Fault, Spec

MODULE = "tests.servers.soak_server"
# Runs in its own process, so that the server is resumed, and can end with its stdin, whatever happens to this one.
_FREEZE = 'kill -STOP "$1"; sleep "$2"; kill -CONT "$1"'


def toxic(kind: str, seconds: float) -> Toxic:
    """A toxic of the given kind, whose strength follows from its duration."""
    strength = seconds / 3
    if kind == "latency":
        return Latency(0.5 * strength, jitter=0.2 * strength)
    if kind == "reset_peer":
        return ResetPeer(timeout=0.2 * strength)
    if kind == "timeout":
        return Timeout(timeout=2 * strength)
    if kind == "slow_close":
        return SlowClose(delay=strength)
    if kind == "limit_data":
        return LimitData(bytes=200 + int(4000 * strength))
    if kind == "bandwidth":
        return Bandwidth(rate=4000 + int(40_000 * strength))
    if kind == "slicer":
        return Slicer(average_size=64, size_variation=32, delay=0.001 * strength)
    raise ValueError(f"no such fault: {kind}")


class Place:
    """A server and its client.

    Attributes:
        spec: Its specification.
        server: The server's process, unless the client starts it.
        proxy: The proxy in between, or None.
        journal: The server's journal.
        wanted: How many subscribers each resource has now.
        happened: The faults injected so far, counted.
    """

    def __init__(self, spec: Spec, seed: int, book: Book, sabotages: Sequence[str]) -> None:
        self.spec = spec
        self._listener = book.listener(spec.name)
        self.journal = book.folder / f"{spec.name}.journal"
        self.server: HttpServer | None = None
        self._client: ResilientClient | None = None
        self.proxy: FaultProxy | None = None
        self.wanted: Counter[str] = Counter()
        self.happened: Counter[str] = Counter()
        self._chance = random.Random(f"{seed}/proxy/{spec.name}").getrandbits(32)
        self._arguments = ["--journal", str(self.journal), "--seed", str(seed), *spec.options]
        if sabotages:
            self._arguments += ["--sabotage", *sabotages]

    @contextmanager
    def started(self) -> Iterator[None]:
        """Start the server, unless the client does; it may not be ready yet."""
        if self.spec.is_process:
            yield
            return
        server = self.server = HttpServer()
        server._command = [sys.executable, "-m", MODULE, self.spec.kind, str(server.port), *self._arguments]
        try:
            server.start()
            yield
        finally:
            server.kill()
            self.server = None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Open the client and wait until it is ready; close it on exit."""
        spec = self.spec
        async with AsyncExitStack() as stack:
            target: Any = stdio_server(MODULE, (spec.kind, *self._arguments), None)
            if self.server is not None:
                target = self.server.url
                if spec.proxied:
                    self.proxy = await stack.enter_async_context(FaultProxy(target, seed=self._chance))
                    target = self.proxy.url
            self._client = ResilientClient(
                target,
                name=spec.name,
                policy=spec.policy,
                on_event=self._listener,
                **(LEGACY if spec.legacy else {}),
            )
            async with self.client:
                yield

    @property
    def client(self) -> ResilientClient:
        assert self._client is not None, f"{self.spec.name} did not start"
        return self._client

    def health(self) -> str:
        return "did not start" if self._client is None else str(self._client.health())

    @property
    def is_legacy(self) -> bool:
        return self.client.protocol_version != "2026-07-28"

    async def ask(self, tool: str, **arguments: Any) -> str:
        return text_of(await self.client.call_tool(tool, arguments))

    # --- faults ---

    async def suffer(self, fault: Fault) -> None:
        """Inject one fault, from beginning to end."""
        self.happened[fault.kind] += 1
        if fault.kind == "freeze":
            await self._freeze(fault.seconds)
        elif self.server is None:
            if (pid := self._pid()) is not None:
                os.kill(pid, signal.SIGKILL)
        elif fault.kind in ("kill", "away"):
            self.server.kill()
            await anyio.sleep(fault.seconds)
            self.server.start()
            with suppress(TimeoutError):  # never kill it faster than it starts, even on a busy machine
                await self.server.listening()
        else:
            assert self.proxy is not None
            await self._cut(self.proxy, fault)

    async def _freeze(self, seconds: float) -> None:
        pid = self._pid()
        if pid is not None:
            command = ["sh", "-c", _FREEZE, "freeze", str(pid), f"{seconds:.2f}"]
            await anyio.run_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, check=False)

    async def _cut(self, proxy: FaultProxy, fault: Fault) -> None:
        if fault.kind in ("cut", "reset"):
            proxy.disconnect(reset=fault.kind == "reset")
        elif fault.kind == "down":
            proxy.down(reset=fault.seconds > 1)
            await anyio.sleep(fault.seconds)
            proxy.up()
        else:
            added = proxy.add(toxic(fault.kind, fault.seconds))
            await anyio.sleep(fault.seconds)
            proxy.remove(added)

    async def keep_running(self) -> None:
        """Start the server again when a key's fate ended it, as a process manager would."""
        while self.server is not None:
            if self.server.process is not None and self.server.process.poll() is not None:
                self.server.kill()
                self.server.start()
            await anyio.sleep(0.1)

    def _pid(self) -> int | None:
        """The pid of the server, if it is running."""
        if self.server is not None:
            return None if self.server.process is None else self.server.process.pid
        for pid in children():
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if str(self.journal).encode() in command:
                return pid
        return None

    # --- its ledger ---

    async def held(self) -> set[str]:
        """The subscriptions that the server reports."""
        return set((await self.ask("held")).split())

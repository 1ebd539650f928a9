"""An HTTP server that counts calls; by a seed it refuses, loses, cuts and delays, forgets sessions and crashes."""

from __future__ import annotations

import json
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import anyio
import anyio.abc

from ..support import Faults, ScriptedHttp, reply, reset
from .counting_server import BUSY, fate

# Answered without being executed.
REFUSALS = {"429": 0.05, "forget": 0.01}
# Each happens before or after the key is executed.
LOSSES = (
    "500",
    "502",
    "503",
    "503 bare",
    "504",
    "-32603",
    "reset",
    "close",
    "JSON cut",
    "SSE cut",
    "SSE primed",
    "crash",
    "slow",
)
HTTP_FATES = {
    **REFUSALS,
    **{
        f"{loss} {when}": 0.003 if loss in ("slow", "crash") else 0.008
        for loss in LOSSES
        for when in ("before", "after")
    },
    "bad answer": 0.02,
    "refused": 0.02,
    "busy": 0.02,
    "answer and reset": 0.02,
}


class Notes(Protocol):
    """Where a server records what it does."""

    def note(self, word: str, key: str) -> int:
        """Write `word key`, and return how many times it has been written."""


class Memory:
    """An in-memory journal."""

    def __init__(self) -> None:
        self.ran: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def note(self, word: str, key: str) -> int:
        count: Counter[str] = getattr(self, word)
        count[key] += 1
        return count[key]


class CountingHttp(ScriptedHttp):
    """Executes and counts keys; the fate of each key is drawn from the seed. A crash resets every connection.

    Args:
        seed: The seed of the fates.
        journal: Records the keys it `received`, those of them that it has `taken` and not refused, and those
            that `ran`.
        sse: Whether it answers with server-sent events.
        late: Delay of a slow answer, in seconds.
        retry_after: The `Retry-After` header of refusals, in seconds.
        fates: What may happen to a key, and its probability.
    """

    def __init__(
        self,
        seed: int,
        journal: Notes,
        *,
        sse: bool,
        late: float,
        retry_after: str = "0",
        fates: Mapping[str, float] = HTTP_FATES,
    ) -> None:
        super().__init__(sse=sse)
        self.seed = seed
        self.journal = journal
        self.late = late
        self.retry_after = retry_after
        self.fates = fates
        self.happened: Counter[str] = Counter()
        self.busy = 0
        self._streams: set[Any] = set()
        self._crash = anyio.Event()

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator[CountingHttp]:
        async with anyio.create_task_group() as tg:
            await tg.start(self._lives, port)
            yield self
            with anyio.fail_after(5):  # calls delayed beyond their caller's time limit still run
                while self.busy:
                    await anyio.sleep(0.01)
            tg.cancel_scope.cancel()

    async def _lives(self, port: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        while True:
            self._crash = anyio.Event()
            with socket.create_server(("127.0.0.1", port), backlog=100) as listener:
                listener.setblocking(False)
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._accept, listener, tg)
                    if not self.url:
                        port = listener.getsockname()[1]
                        self.url = f"http://127.0.0.1:{port}/mcp"
                        task_status.started()
                    await self._crash.wait()
                    for stream in self._streams:
                        with suppress(OSError):  # already being closed
                            reset(stream)
                    tg.cancel_scope.cancel()
            self.forget_sessions()
            await anyio.sleep(0.03)  # connections are refused

    async def _accept(self, listener: socket.socket, tg: anyio.abc.TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            with suppress(BlockingIOError):
                accepted, _ = listener.accept()
                tg.start_soon(self._connection, await anyio.abc.SocketStream.from_socket(accepted))

    async def _connection(self, stream: Any) -> None:
        self._streams.add(stream)
        try:
            await super()._connection(stream)
        finally:
            self._streams.discard(stream)

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        message = json.loads(body) if verb == "POST" else {}
        session = headers.get("mcp-session-id")
        if message.get("method") != "tools/call" or session != f"session-{self.session}":
            return await super()._exchange(stream, verb, path, headers, body)
        self.busy += 1
        try:
            return await self._serve_call(stream, message["id"], message["params"]["arguments"]["text"])
        finally:
            self.busy -= 1

    async def _serve_call(self, stream: Any, request_id: Any, key: str) -> bool:
        happens = fate(self.seed, key, self.journal.note("received", key), self.fates)
        self.happened[happens] += 1
        if happens in REFUSALS:
            return await self._refuse(stream, request_id, happens)
        self.journal.note("taken", key)
        result = {"content": [{"type": "text", "text": key}], "isError": False}
        if happens == "refused":
            return await Faults.error(200, -32602, "no such key")(stream, request_id)
        if happens == "slow before":
            await anyio.sleep(self.late)
        if not happens.endswith("before"):
            self.journal.note("ran", key)
        if happens == "slow after":
            await anyio.sleep(self.late)
        if happens == "busy":
            result = {"content": [{"type": "text", "text": BUSY}], "isError": True}
        answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
        loss = happens.rpartition(" ")[0]
        if loss in LOSSES and loss != "slow":
            return await self._lose(stream, request_id, loss, answer)
        if happens == "slow before":
            return False
        if happens == "bad answer":
            kind = random.Random(f"{self.seed}/{key}").choice(["application/json", "text/html", "text/event-stream"])
            return await Faults.body(b"event: message\ndata: {nope\n\n", kind)(stream, request_id)
        if self.sse:
            await reply(stream, 200, b"data: " + answer + b"\n\n", {"content-type": "text/event-stream"})
        else:
            await reply(stream, 200, answer)
        if happens == "answer and reset":
            reset(stream)
            return False
        return True

    async def _refuse(self, stream: Any, request_id: Any, how: str) -> bool:
        if how == "forget":
            self.forget_sessions()
            return await Faults.error(404, -32600, "Session not found")(stream, request_id)
        return await Faults.status(int(how), b"not now", retry_after=self.retry_after)(stream, request_id)

    async def _lose(self, stream: Any, request_id: Any, how: str, answer: bytes) -> bool:
        if how == "503":
            return await Faults.status(503, b"not now", retry_after=self.retry_after)(stream, request_id)
        if how[:3].isdecimal():
            return await Faults.status(int(how[:3]))(stream, request_id)
        if how == "-32603":
            return await Faults.error(200, -32603, "out of order")(stream, request_id)
        if how == "JSON cut":
            return await Faults.cut(answer[:-9], "application/json", len(answer))(stream, request_id)
        if how == "SSE cut":
            return await Faults.cut(b"data: " + answer[:-9], "text/event-stream", len(answer))(stream, request_id)
        if how == "SSE primed":  # the SDK tries to resume it, which this server does not support
            body = b"id: 1\nretry: 5\ndata:\n\n"
            return await Faults.cut(body, "text/event-stream", len(body) + 1)(stream, request_id)
        if how == "reset":
            reset(stream)
        elif how == "crash":
            self._crash.set()
        return False

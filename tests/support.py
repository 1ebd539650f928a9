"""Shared by the tests: servers as real processes, a scripted HTTP server on a real socket, a check for leftovers."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
import sniffio
from mcp import StdioServerParameters

from resilient_mcp import Event, Policy, ResilientClient, RestartPolicy, RetryPolicy, TimeoutPolicy
from resilient_mcp._sdk.installed import MAJOR

ROOT = Path(__file__).parent.parent
# Session options for a server up to 2025-11-25.
LEGACY: dict[str, Any] = {} if MAJOR == 1 else {"mode": "legacy"}

QUICK = Policy(
    retry=RetryPolicy(base=0.01),
    restart=RestartPolicy(base=0.01),
    timeout=TimeoutPolicy(attempt=10, ready=10, connect=10, shutdown=2),
)


LIBRARIES = ("asyncio", "trio")


def every_pair(name: str, values: list[Any]) -> pytest.MarkDecorator:
    """Run a test with each of `values` as its argument `name`, half of them on asyncio and half on trio.

    With the other major of mcp the halves swap: every pair of value, library and major is covered by half the servers
    that all combinations would start. For slow tests.
    """
    sides = [(LIBRARIES[(n + n // 2 + MAJOR) % 2], value) for n, value in enumerate(values)]
    return pytest.mark.parametrize(("anyio_backend", name), sides, ids=[f"{side}-{value}" for side, value in sides])


# Runs a slow test on asyncio with one major of mcp, and on trio with the other.
in_turn = pytest.mark.parametrize("anyio_backend", [LIBRARIES[MAJOR % 2]])


def raw_server(*arguments: str, env: dict[str, str] | None = None) -> StdioServerParameters:
    return _stdio("tests.servers.raw_server", arguments, env)


def sdk_server(*arguments: str, env: dict[str, str] | None = None) -> StdioServerParameters:
    return _stdio("tests.servers.sdk_server", ("stdio", *arguments), env)


def _stdio(module: str, arguments: tuple[str, ...], env: dict[str, str] | None) -> StdioServerParameters:
    return StdioServerParameters(command=sys.executable, args=["-m", module, *arguments], cwd=ROOT, env=env)


async def listed(client: ResilientClient) -> None:
    """Wait until the client has its connection's list of tools: before that, annotations make no call repeatable."""
    connection = client._supervisor.ready
    assert connection is not None
    await client._catalog.wait_listed(connection, anyio.current_time() + 5)


def is_repeatable(client: ResilientClient, tool: str) -> bool | None:
    """Whether the tool list of the client's connection allows a repeat; None if that is unknown."""
    connection = client._supervisor.ready
    assert connection is not None
    return client._catalog.is_repeatable(tool, connection, trust=True)


def text_of(result: Any) -> str:
    return result.content[0].text


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class HttpServer:
    """A server process on a fixed loopback port that can be killed and started again."""

    def __init__(
        self,
        *arguments: str,
        transport: str = "http",
        journal: Path | None = None,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/mcp"
        self.journal = journal
        notes = [] if journal is None else ["--journal", str(journal)]
        self._command = command or [
            sys.executable, "-m", "tests.servers.sdk_server", transport, str(self.port), *notes, *arguments,
        ]  # fmt: skip
        # Coverage is not measured in servers: it would halve their start-up speed.
        unmeasured = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
        self._env = {**unmeasured, "PORT": str(self.port), **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env=self._env,
        )

    def kill(self) -> None:
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.kill()
            self.process.wait()
            self.process.stdin.close()
            self.process = None

    async def listening(self) -> None:
        with anyio.fail_after(15):
            while True:
                try:
                    await (await anyio.connect_tcp("127.0.0.1", self.port)).aclose()
                except OSError:
                    await anyio.sleep(0.02)
                else:
                    return

    def negotiations(self) -> Counter[str]:
        assert self.journal is not None
        return Counter(self.journal.read_text().split() if self.journal.exists() else [])


@asynccontextmanager
async def http_server(*arguments: str, **options: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer(*arguments, **options)
    server.start()
    try:
        await server.listening()
        yield server
    finally:
        server.kill()


class Recorder:
    """Records a client's events, and waits for events of a kind."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._new = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._new.set()
        self._new = anyio.Event()

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[Event], count: int = 1, **facts: Any) -> Any:
        def matching() -> list[Any]:
            return [e for e in self.of(kind) if all(getattr(e, name) == value for name, value in facts.items())]

        with anyio.fail_after(15):
            while len(matching()) < count:
                await self._new.wait()
        return matching()[count - 1]


def _descriptors() -> list[str]:
    names = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return [name for name in names if not name.startswith("anon_inode:[pidfd]")]


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has just ended
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def _tasks() -> int:
    if sniffio.current_async_library() == "asyncio":
        return len(asyncio.all_tasks())
    import trio

    return trio.lowlevel.current_statistics().tasks_living


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Check that the body leaves no child process, task or file descriptor behind."""
    if not Path("/proc/self/fd").exists():
        yield
        return
    await anyio.sleep(0)
    gc.collect()
    before = (sorted(children()), _tasks(), len(_descriptors()))
    yield
    after = None
    with anyio.move_on_after(3):  # a closed socket leaves the event loop a moment later
        while after != before:
            await anyio.sleep(0.01)
            after = (sorted(children()), _tasks(), len(_descriptors()))
    assert after == before, _descriptors()


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


async def gone(pid: int) -> None:
    with anyio.fail_after(5):
        while is_alive(pid):
            await anyio.sleep(0.01)


@contextmanager
def measured() -> Iterator[list[float]]:
    took = [0.0]
    began = time.monotonic()
    yield took
    took[0] = time.monotonic() - began


class ScriptedHttp:
    """An MCP server up to 2025-11-25 on a real socket, whose answers to `tools/call` are written by the test.

    Each `tools/call` consumes one of `faults`; when none is left it echoes. `calls` has the text of each call received.
    """

    def __init__(self, *, sessions: bool = True, sse: bool = False) -> None:
        self.faults: list[Any] = []
        self.handshake_faults: list[Any] = []
        self.initialized_faults: list[Any] = []
        self.farewell_faults: list[Any] = []
        self.listing_faults: list[Any] = []
        self.ping_faults: list[Any] = []
        self.calls: list[str] = []
        self.arrivals: list[float] = []
        self.metas: list[dict[str, Any]] = []
        self.requests: Counter[str] = Counter()
        self.notifications: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.sessions = sessions
        self.sse = sse
        self.session = 0
        self.received = anyio.Event()
        self.seen_cancel = anyio.Event()
        self.release = anyio.Event()
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[ScriptedHttp]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            self.url = f"http://127.0.0.1:{port}/mcp"
            async with anyio.create_task_group() as tg:
                tg.start_soon(listener.serve, self._connection)
                yield self
                tg.cancel_scope.cancel()

    async def _connection(self, stream: Any) -> None:
        try:
            async with stream:
                data = b""
                while True:
                    while b"\r\n\r\n" not in data:
                        data += await stream.receive()
                    head, data = data.split(b"\r\n\r\n", 1)
                    verb, *lines = head.decode().split("\r\n")
                    headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
                    length = int(headers.get("content-length", 0))
                    while len(data) < length:
                        data += await stream.receive()
                    body, data = data[:length], data[length:]
                    if not await self._exchange(stream, verb.split()[0], verb.split()[1], headers, body):
                        return
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
            return

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        self.headers.append(headers)
        if verb != "POST":
            self.requests[verb] += 1
            if verb == "DELETE" and self.farewell_faults:
                return await self.farewell_faults.pop(0)(stream, None)
            await reply(stream, 405 if verb == "GET" else 200)
            return True
        message = json.loads(body)
        method, request_id = message.get("method"), message.get("id")
        self.requests[method] += 1
        if request_id is None or method is None:
            self.notifications.append(message)
            if method == "notifications/cancelled":
                self.seen_cancel.set()
            if method == "notifications/initialized" and self.initialized_faults:
                return await self.initialized_faults.pop(0)(stream, None)
            await reply(stream, 202)
            return True
        session = f"session-{self.session}"
        if method in ("initialize", "server/discover") and self.handshake_faults:
            return await self.handshake_faults.pop(0)(stream, request_id)
        if self.sessions and method != "initialize" and headers.get("mcp-session-id", session) != session:
            await reply(stream, 404, b"", {})
            return True
        extra = {}
        if method == "initialize":
            self.session += 1
            if self.sessions:
                extra["mcp-session-id"] = f"session-{self.session}"
            info = {"name": "scripted", "version": "1"}
            result: dict[str, Any] = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": info,
            }
        elif method == "tools/list" and self.listing_faults:
            return await self.listing_faults.pop(0)(stream, request_id)
        elif method == "tools/list":
            echo = {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
            result = {"tools": [echo, {"name": "unsafe", "inputSchema": {"type": "object"}}]}
        elif method == "tools/call":
            text = message["params"].get("arguments", {}).get("text", "")
            self.calls.append(text)
            self.arrivals.append(anyio.current_time())
            self.metas.append(message["params"].get("_meta", {}))
            self.received.set()
            if self.faults:
                return await self.faults.pop(0)(stream, request_id)
            result = {"content": [{"type": "text", "text": text}]}
        elif method == "ping" and self.ping_faults:
            return await self.ping_faults.pop(0)(stream, request_id)
        elif method == "ping":
            result = {}
        else:
            error = {"jsonrpc": "2.0", "id": request_id, "error": {"code": -32601, "message": "Method not found"}}
            await reply(stream, 200, json.dumps(error).encode(), extra)
            return True
        answer = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
        if self.sse:
            answer = b"event: message\r\ndata: " + answer + b"\r\n\r\n"
        kind = "text/event-stream" if self.sse else "application/json"
        await reply(stream, 200, answer, {**extra, "content-type": kind})
        return True

    def forget_sessions(self) -> None:
        self.session += 100


async def reply(stream: Any, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
    headers = {"content-type": "application/json", "content-length": str(len(body)), **(headers or {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    await stream.send(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)


def reset(stream: Any) -> None:
    """Make closing the socket send a RST instead of a FIN."""
    sock = stream.extra(anyio.abc.SocketAttribute.raw_socket)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Faults:
    """Makes faults: coroutine functions of stream and request id that return False to end the connection."""

    @staticmethod
    def status(status: int, body: bytes = b"", **headers: str) -> Any:
        async def fault(stream: Any, request_id: Any) -> bool:
            await reply(stream, status, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return True

        return fault

    @staticmethod
    def error(status: int, code: int, message: str, data: Any = None, **headers: str) -> Any:
        async def fault(stream: Any, request_id: Any) -> bool:
            error = {"code": code, "message": message, "data": data}
            body = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()
            await reply(stream, status, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return True

        return fault

    @staticmethod
    def body(body: bytes, content_type: str = "application/json", status: int = 200) -> Any:
        return Faults.status(status, body, content_type=content_type)

    @staticmethod
    def reset() -> Any:
        async def fault(stream: Any, request_id: Any) -> bool:
            reset(stream)
            return False

        return fault

    @staticmethod
    def close() -> Any:
        async def fault(stream: Any, request_id: Any) -> bool:
            return False

        return fault

    @staticmethod
    def cut(body: bytes, content_type: str, announced: int) -> Any:
        async def fault(stream: Any, request_id: Any) -> bool:
            headers = {"content-type": content_type, "content-length": str(announced)}
            await reply(stream, 200, body, headers)
            return False

        return fault

    @staticmethod
    def hang(server: ScriptedHttp) -> Any:
        async def fault(stream: Any, request_id: Any) -> bool:
            await server.release.wait()
            return False

        return fault


@asynccontextmanager
async def client_of(server: Any, policy: Policy = QUICK, **options: Any) -> AsyncIterator[ResilientClient]:
    """A client up to 2025-11-25 with short waits."""
    async with ResilientClient(server, policy=policy, **{**LEGACY, **options}) as client:
        yield client

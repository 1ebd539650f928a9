"""Every fault in the two tables of what breaks a bare SDK session, and what a caller of this library sees instead.

A row is data: the fault, and the outcome of a call of a read-only tool and of a tool that must not run twice. Each is
its own test, on asyncio and trio; the servers are real processes, or a scripted one on a real socket.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import StdioServerParameters

from resilient_mcp import (
    Category,
    ConnectionLost,
    DeadlineExceeded,
    Delivery,
    Failure,
    Policy,
    ResilienceError,
    RestartPolicy,
    RestartScheduled,
    RetryPolicy,
    ServerFailed,
    ServerUnavailable,
    State,
    StateChanged,
    TimeoutPolicy,
    Verdict,
)
from resilient_mcp._sdk.installed import MCPError
from resilient_mcp.verdicts.classifier import Classifier

from .support import ROOT, Faults, Recorder, ScriptedHttp, client_of, free_port, gone, reply, reset, text_of

pytestmark = pytest.mark.anyio

Hook = Callable[[Any], Awaitable[None]]


async def nothing(_: World) -> None:
    return


@dataclass(frozen=True)
class Outcome:
    """How a call ends: how often the server saw it, the verdict on its first failure, and the error if it fails."""

    seen: int
    category: Category | None = None
    delivery: Delivery | None = None
    error: type[Exception] | None = None


@dataclass(frozen=True)
class Row:
    """A fault: `fault` is the server's reaction when it first sees the call; the hooks act from outside."""

    name: str
    world: type[World]
    outcomes: tuple[Outcome, Outcome]
    fault: Any = None
    on_resume: Any = None
    on_get: Any = None
    arguments: dict[str, Any] = field(default_factory=dict)
    before: Hook = nothing
    beside: Hook = nothing
    after: Hook = nothing
    calls: int = 1
    late: bool = False
    timeout: dict[str, float] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        limits = {"attempt": 10, "ready": 10, "connect": 10, "shutdown": 1, **self.timeout}
        return Policy(
            retry=RetryPolicy(base=0.01, throttled_base=0.01),
            restart=RestartPolicy(base=0.01, intensity=1),
            timeout=TimeoutPolicy(**limits),
        )


class World:
    """A server that suffers a row's fault, and the client in front of it."""

    target: Any
    serving: Any

    def __init__(self, row: Row, folder: Path) -> None:
        self.row = row
        self.folder = folder
        self.events = Recorder()
        self.verdicts: list[Verdict] = []
        self.raised: list[Any] = []
        self.failed = anyio.Event()

    def witness(self, failure: Failure) -> None:
        """Take the place of a user's classifier: record each failed attempt and leave the verdict to the tables."""
        self.verdicts.append(Classifier(self.row.policy).judge(failure, now=0))
        self.failed.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.serving():
            options: Any = {"on_event": self.events, "classifier": self.witness}
            async with client_of(self.target, self.row.policy, **options) as self.client:
                yield

    async def has_a_verdict(self) -> None:
        assert all(isinstance(error, ResilienceError) for error in self.raised), self.raised

    async def in_flight(self) -> None:
        while not all(self.seen(f"call-{n}") for n in range(self.row.calls)):
            await anyio.sleep(0.01)


# --- stdio -----------------------------------------------------------------------------------------------------------

SERVER = """
import os, pathlib, signal, subprocess, sys
from tests.servers import raw_server

pids, journal = map(pathlib.Path, sys.argv[1:])
plain = raw_server.call

def note(file, line):
    with file.open("a") as lines:
        lines.write(f"{line}\\n")

def call(request_id, tool, arguments):
    key, fault = arguments["text"], arguments.get("fault")
    note(journal, key)
    if journal.read_text().split().count(key) > 1 or not fault:
        plain(request_id, "echo", arguments)
    elif fault == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
        plain(request_id, "echo", arguments)
    elif fault == "die, leaving a child":
        note(pids, subprocess.Popen(["sleep", "30"]).pid)
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        plain(request_id, fault, arguments)

raw_server.call = call
note(pids, os.getpid())
raw_server.main()
"""


class Stdio(World):
    """The raw server behind a shell script, which can be broken and repaired; it records its processes and calls."""

    start = "exec"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self.program, self.pids, self.journal = (self.folder / name for name in ("server", "pids", "journal"))
        self.started = self.folder / "started"
        (self.folder / "server.py").write_text(SERVER)
        self.journal.touch()
        self.good = f'echo $$ > {self.started}; {self.start} {sys.executable} "$@"; exit 1'
        self.write(self.good)
        arguments = [str(path) for path in (self.folder / "server.py", self.pids, self.journal)]
        env = {"PYTHONPATH": str(ROOT)}
        self.target = StdioServerParameters(command=str(self.program), args=arguments, env=env, cwd=ROOT)
        yield
        for pid in self.pids.read_text().split():
            await gone(int(pid))

    def write(self, script: str) -> None:
        fresh = self.program.with_suffix(".new")  # a script that is open for writing cannot be executed
        fresh.write_text(f"#!/bin/sh\n{script}\n")
        fresh.chmod(0o755)
        fresh.rename(self.program)

    async def call(self, tool: str, key: str, fault: Any = None) -> None:
        arguments = {"text": key, **({"fault": fault, **self.row.arguments} if fault or key == "call-0" else {})}
        if tool == "unsafe":
            arguments["do"] = "echo"
        result = text_of(await self.client.call_tool(tool, arguments))
        assert result in (key, "x" * arguments.get("size", 0))

    def seen(self, key: str) -> int:
        return self.journal.read_text().split().count(key)

    def signal(self, number: int) -> int:
        os.kill(pid := int(self.started.read_text()), number)
        return pid

    async def kill(self) -> None:
        await gone(self.signal(signal.SIGKILL))

    async def kill_in_flight(self) -> None:
        await self.in_flight()
        await self.kill()

    async def stop(self) -> None:
        self.signal(signal.SIGSTOP)

    async def go_on_after_the_failure(self) -> None:
        await self.failed.wait()
        self.signal(signal.SIGCONT)

    async def fail_to_start(self) -> None:
        self.write("echo no licence >&2; exit 1")
        self.signal(signal.SIGKILL)
        await self.events.wait_for(RestartScheduled, suspended=True)

    async def vanish(self) -> None:
        self.program.unlink()
        self.signal(signal.SIGKILL)
        await self.events.wait_for(StateChanged, new=State.FAILED)

    async def mend(self) -> None:
        self.write(self.good)
        await self.client.restart()


class Wrapped(Stdio):
    """The script stays alive with the server as its child, as with `npx` and `uvx`."""

    start = ""


LOST = Category.CONNECTION_LOST, Delivery.UNKNOWN
SLOW = Category.TIMEOUT, Delivery.UNKNOWN
NETWORK = Category.TRANSIENT, Delivery.UNKNOWN
REFUSED = Category.TRANSIENT, Delivery.NOT_SENT
NO_SESSION = Category.SESSION_LOST, Delivery.REJECTED


def both(*outcome: Any) -> tuple[Outcome, Outcome]:
    return Outcome(*outcome), Outcome(*outcome)


UNHARMED = both(1)
CRASHED = Outcome(2, *LOST), Outcome(1, *LOST, ConnectionLost)
TIMED_OUT = Outcome(2, *SLOW), Outcome(1, *SLOW, DeadlineExceeded)
BROKEN = Outcome(2, *NETWORK), Outcome(1, *NETWORK, ConnectionLost)
RUBBISH = both(1, Category.PERMANENT, Delivery.UNKNOWN, ConnectionLost)
PERMANENT = both(1, Category.PERMANENT, Delivery.REJECTED, ResilienceError)
FORBIDDEN = both(1, Category.AUTH, Delivery.REJECTED, ServerFailed)
THROTTLED = both(2, Category.THROTTLED, Delivery.REJECTED)
PUSHED_BACK = (
    Outcome(2, Category.THROTTLED, Delivery.UNKNOWN),
    Outcome(1, Category.THROTTLED, Delivery.UNKNOWN, ConnectionLost),
)
SHORT = {"attempt": 0.8}
FROZEN: Any = {"beside": Stdio.go_on_after_the_failure, "timeout": SHORT}

STDIO = [
    Row("killed while idle, then a call", Stdio, UNHARMED, before=Stdio.kill),
    Row("killed, 5 calls in flight", Stdio, CRASHED, "no_answer", beside=Stdio.kill_in_flight, calls=5),
    Row("killed in the middle of an answer", Stdio, CRASHED, "partial"),
    Row(
        "exits 1 at start", Stdio, both(0, None, None, ServerUnavailable), before=Stdio.fail_to_start, after=Stdio.mend
    ),
    Row("command not found", Stdio, both(0, None, None, ServerFailed), before=Stdio.vanish, after=Stdio.mend),
    Row("garbage lines on stdout", Stdio, UNHARMED, "garbage"),
    Row("text without newline before an answer", Stdio, UNHARMED, "prefixed"),
    Row("a byte that is not UTF-8", Stdio, RUBBISH, "bad_utf8"),
    Row("wrapper killed, real server lives on", Wrapped, CRASHED, "no_answer", beside=Stdio.kill_in_flight),
    Row("server killed, a child of it holds stdout", Stdio, CRASHED, "die, leaving a child"),
    Row("SIGSTOP", Stdio, TIMED_OUT, "stop", **FROZEN),
    Row("SIGSTOP and a 1 MB argument", Stdio, TIMED_OUT, before=Stdio.stop, arguments={"pad": "x" * 10**6}, **FROZEN),
    *(Row(f"{n} MB in one line", Stdio, UNHARMED, "big", arguments={"size": n * 10**6}) for n in (1, 5, 20, 50)),
]

# --- HTTP ------------------------------------------------------------------------------------------------------------

SSE = "text/event-stream"
EVENT_WITH_ID = b"id: 1\nretry: 10\ndata: \n\n"


class GetHttp(ScriptedHttp):
    """The scripted server with answers to GET: one for a request that resumes an answer, one for any other."""

    on_get: Any = None
    on_resume: Any = None
    last_call: Any = None

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        if b'"tools/call"' in body:
            self.last_call = json.loads(body)["id"]
        resumes = verb == "GET" and "last-event-id" in headers
        self.requests["resume"] += resumes
        answer = self.on_resume if resumes else self.on_get
        if verb == "GET" and answer is not None:
            self.requests["GET"] += 1
            return await answer(stream, self.last_call)
        return await super()._exchange(stream, verb, path, headers, body)


class Scripted(World):
    """A server on its own port that goes down and up; its first answer to the call is the row's fault."""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        self.server = GetHttp()
        self.server.on_get, self.server.on_resume = self.row.on_get, self.row.on_resume
        self.port = free_port()
        self.target = f"http://127.0.0.1:{self.port}/mcp"
        async with anyio.create_task_group() as self.tasks:
            if self.row.late:
                self.tasks.start_soon(self.up_when_missed)
            else:
                await self.up()
            yield
            self.tasks.cancel_scope.cancel()

    async def life(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self.death, self.dead = anyio.CancelScope(), anyio.Event()
        with self.death:
            async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port) as listener:
                async with anyio.create_task_group() as connections:
                    connections.start_soon(listener.serve, self.server._connection)
                    task_status.started()
        self.dead.set()

    async def up(self) -> None:
        await self.tasks.start(self.life)

    async def down(self) -> None:
        self.death.cancel()
        await self.dead.wait()
        self.server.forget_sessions()

    async def restart(self) -> None:
        await self.down()
        await self.up()

    async def restart_in_flight(self) -> None:
        await self.in_flight()
        await self.restart()

    async def up_when_missed(self) -> None:
        await self.events.wait_for(RestartScheduled)
        await self.up()

    async def up_after_the_failure(self) -> None:
        await self.failed.wait()
        await self.up()

    async def call(self, tool: str, key: str, fault: Any = None) -> None:
        self.server.faults = [] if fault is None else [Faults.hang(self.server) if fault == "hang" else fault]
        assert text_of(await self.client.call_tool(tool, {"text": key})) == key

    def seen(self, key: str) -> int:
        return self.server.calls.count(key)

    async def no_more_resumptions(self) -> None:
        await anyio.sleep(0.1)
        count = self.server.requests["resume"]
        await anyio.sleep(0.3)
        assert self.server.requests["resume"] == count, "the SDK keeps resuming an answer that is no longer awaited"

    async def two_streams_dropped(self) -> None:
        while self.server.requests["GET"] < 2:
            await anyio.sleep(0.01)


def torn(body: bytes, kind: str) -> Any:
    """The beginning of an answer, then a reset."""

    async def fault(stream: Any, request_id: Any) -> bool:
        await reply(stream, 200, body, {"content-type": kind, "content-length": "999"})
        reset(stream)
        return False

    return fault


async def resume(stream: Any, request_id: Any) -> bool:
    """The answer that the call's own stream failed to deliver."""
    result = {"content": [{"type": "text", "text": "call-0"}]}
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
    return await Faults.body(b"id: 2\ndata: " + body + b"\n\n", SSE)(stream, request_id)


CUT = Faults.cut(EVENT_WITH_ID, SSE, 999)
EXPIRED = Faults.error(400, -32000, "Bad Request: No valid session ID provided")
ELSEWHERE = Faults.status(307, location="http://127.0.0.1:1/mcp")
DROPPED = torn(EVENT_WITH_ID, SSE)
ENDLESS = "response SSE cut, event ids, every resumption cut"
DOWN: Any = {"before": Scripted.down}
HTTP = [
    Row("refused at connect", Scripted, UNHARMED, late=True),
    Row("server killed in mid-call", Scripted, BROKEN, "hang", beside=Scripted.restart_in_flight),
    Row("one call while the server is down", Scripted, both(1, *REFUSED), **DOWN, beside=Scripted.up_after_the_failure),
    Row(
        "one call while the server stays down",
        Scripted,
        both(0, *REFUSED, ServerUnavailable),
        **DOWN,
        after=Scripted.up,
        timeout={"ready": 0.5},
    ),
    Row("session gone (404) after a restart", Scripted, both(1, *NO_SESSION), before=Scripted.restart),
    Row("400 of server-everything restarted", Scripted, both(2, *NO_SESSION), EXPIRED),
    Row("307", Scripted, PERMANENT, ELSEWHERE),
    Row("307 within the origin", Scripted, both(2), Faults.status(307, location="/elsewhere")),
    Row("400", Scripted, PERMANENT, Faults.status(400)),
    *(
        Row(f"{n}; the error says what it is", Scripted, PERMANENT, fault, after=World.has_a_verdict)
        for n, fault in {"307": ELSEWHERE, "400": Faults.status(400)}.items()
    ),
    Row("401", Scripted, FORBIDDEN, Faults.status(401)),
    Row("403", Scripted, FORBIDDEN, Faults.status(403)),
    Row("429", Scripted, THROTTLED, Faults.status(429)),
    Row("500", Scripted, BROKEN, Faults.status(500)),
    Row("502", Scripted, BROKEN, Faults.status(502)),
    Row("503", Scripted, BROKEN, Faults.status(503)),
    Row("503 with Retry-After", Scripted, PUSHED_BACK, Faults.status(503, retry_after="0")),
    Row("response SSE cut, no event ids", Scripted, BROKEN, Faults.cut(b'data: {"jso', SSE, 999)),
    Row("response SSE cut, event ids, resumed", Scripted, UNHARMED, CUT, resume),
    Row("response SSE cut, event ids, resumption refused", Scripted, BROKEN, CUT, Faults.status(405)),
    Row("response SSE cut, event ids, resumption reset", Scripted, BROKEN, CUT, Faults.reset()),
    Row(ENDLESS, Scripted, TIMED_OUT, CUT, CUT, timeout=SHORT),
    Row(
        f"{ENDLESS}; none after the call was given up",
        Scripted,
        TIMED_OUT,
        CUT,
        CUT,
        after=Scripted.no_more_resumptions,
        timeout=SHORT,
    ),
    Row("never answers", Scripted, TIMED_OUT, "hang", timeout=SHORT),
    Row("reset before headers", Scripted, BROKEN, Faults.reset()),
    Row("reset inside a JSON body", Scripted, BROKEN, torn(b'{"jsonrpc":', "application/json")),
    Row("cut inside a JSON body", Scripted, BROKEN, Faults.cut(b'{"jsonrpc":', "application/json", 999)),
    Row(
        "GET stream dropped twice",
        Scripted,
        UNHARMED,
        on_get=DROPPED,
        on_resume=DROPPED,
        before=Scripted.two_streams_dropped,
    ),
    Row("200 with bad JSON", Scripted, RUBBISH, Faults.body(b"{nope")),
    Row("200 with a page for people", Scripted, BROKEN, Faults.body(b"<h1>Welcome</h1>", "text/html")),
    Row("200 with a wrong content type", Scripted, RUBBISH, Faults.body(b"hello", "text/plain")),
    Row("an answer with a wrong id", Scripted, RUBBISH, Faults.body(b'{"jsonrpc":"2.0","id":999,"result":{}}')),
]
ROWS = {f"stdio: {row.name}": row for row in STDIO} | {f"http: {row.name}": row for row in HTTP}


@pytest.mark.parametrize("tool", ["echo", "unsafe"], ids=["read-only", "unsafe"])
@pytest.mark.parametrize("name", ROWS)
async def test_a_fault_has_the_designed_outcome(name: str, tool: str, tmp_path: Path):
    """Each fault ends as designed and in time, the call is seen as often as designed, and the next call succeeds."""
    row = ROWS[name]
    expected = row.outcomes[tool == "unsafe"]
    world = row.world(row, tmp_path)
    raised = world.raised

    async def caller(n: int) -> None:
        try:
            await world.call(tool, f"call-{n}", row.fault)
        except MCPError as error:
            raised.append(error)
        else:
            raised.append(None)

    with anyio.fail_after(18):
        async with world.running():
            await world.call("echo", "first")
            await row.before(world)
            with anyio.fail_after(10):
                async with anyio.create_task_group() as tg:
                    tg.start_soon(row.beside, world)
                    for n in range(row.calls):
                        tg.start_soon(caller, n)
            assert [error and type(error) for error in raised] == [expected.error] * row.calls, raised
            verdicts = world.verdicts[:1]
            for error in raised:
                if isinstance(error, ResilienceError):
                    assert error.attempts == expected.seen
                    verdicts += [error.verdict] if expected.category else []
            if expected.category is not None:
                assert {(v.category, v.delivery) for v in verdicts} == {(expected.category, expected.delivery)}
            await row.after(world)
            await world.call("echo", "last")
            assert [world.seen(f"call-{n}") for n in range(row.calls)] == [expected.seen] * row.calls
            assert world.seen("first") == world.seen("last") == 1

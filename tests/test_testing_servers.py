"""The scripted servers: what each reply looks like on a plain socket or pipe, and how a client survives it."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from resilient_mcp import ConnectionLost, ResilientClient, ServerUnavailable
from resilient_mcp._sdk.installed import MAJOR
from resilient_mcp.testing import HttpReply, Reply, ScriptedHttpServer, ScriptedStdioServer, SseEvent, StdioReply

from .support import QUICK, client_of, gone, nothing_left, text_of

pytestmark = pytest.mark.anyio

RESET = (anyio.BrokenResourceError, ConnectionResetError)


def call(request_id: int = 1, text: str = "hi", method: str = "tools/call") -> bytes:
    params = {"name": "echo", "arguments": {"text": text}}
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


class Wire:
    """An HTTP client that sees the raw bytes."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self.data = b""

    async def post(self, body: bytes | None = None) -> None:
        body = call() if body is None else body
        await self.stream.send(b"POST /mcp HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    async def until(self, end: bytes) -> bytes:
        with anyio.fail_after(10):
            while end not in self.data:
                self.data += await self.stream.receive()
        part, _, self.data = self.data.partition(end)
        return part

    async def headers(self) -> tuple[int, dict[str, str]]:
        head = (await self.until(b"\r\n\r\n")).decode()
        status, *lines = head.split("\r\n")
        return int(status.split()[1]), dict(line.split(": ", 1) for line in lines)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        status, headers = await self.headers()
        size = int(headers["content-length"])
        with anyio.fail_after(10):
            while len(self.data) < size:
                self.data += await self.stream.receive()
        body, self.data = self.data[:size], self.data[size:]
        return status, headers, body

    async def rest(self) -> tuple[bytes, bool]:
        """The bytes up to the end, and whether the end was a reset."""
        with anyio.fail_after(10):
            while True:
                try:
                    self.data += await self.stream.receive()
                except anyio.EndOfStream:
                    return self.data, False
                except RESET:
                    return self.data, True

    async def is_silent(self) -> bool:
        with anyio.move_on_after(0.1):
            self.data += await self.stream.receive()
            return False
        return True


@asynccontextmanager
async def wire(*replies: Reply, **options: Any) -> AsyncIterator[tuple[Wire, ScriptedHttpServer]]:
    async with ScriptedHttpServer(replies, **options) as server:
        port = int(server.url.split(":")[2].split("/")[0])
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            yield Wire(stream), server


def texts(body: bytes) -> list[str]:
    """The texts of the results in a stream of server-sent events."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]
    return [json.loads(line)["result"]["content"][0]["text"] for line in lines]


async def test_http_default_answers():
    """Requests without a scripted reply get one answer each, on one connection."""
    async with nothing_left():
        async with wire() as (client, server):
            await client.post()
            status, headers, body = await client.answer()
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(body)["result"]["content"][0]["text"] == "hi"
            await client.post(call(2, method="sing"))
            assert json.loads((await client.answer())[2])["error"]["code"] == -32601
            await client.post(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')
            assert (await client.answer())[0] == 202
            await client.stream.send(b"GET /mcp HTTP/1.1\r\n\r\n")
            assert (await client.answer())[0] == 405
            assert server.requests.counts() == {"tools/call": 1, "sing": 1, "notifications/initialized": 1, "GET": 1}
            assert server.requests.of()[0].arguments == {"text": "hi"}
            assert server.connections == 1


async def test_http_refusals():
    """Status, headers and bodies are as scripted, and the connection stays open."""
    replies = [
        HttpReply.refusal(503, b"busy", retry_after=1.5),
        HttpReply.refusal(429, retry_after="Fri, 31 Dec 2100 23:59:59 GMT"),
        HttpReply.html(502),
        HttpReply.redirect("http://127.0.0.1:1/other"),
        HttpReply.raw(b"{]"),
        Reply.error(-32000, "no", {"why": 1}),
        Reply.tool_error("bad"),
        Reply.wrong_id(),
    ]
    async with wire(*replies) as (client, _):
        seen = []
        for _ in replies:
            await client.post()
            seen.append(await client.answer())
        assert [status for status, _, _ in seen] == [503, 429, 502, 307, 200, 200, 200, 200]
        assert (seen[0][1]["retry-after"], seen[0][2]) == ("1.5", b"busy")
        assert seen[1][1]["retry-after"].endswith("GMT")
        assert seen[2][1]["content-type"] == "text/html"
        assert seen[3][1]["location"] == "http://127.0.0.1:1/other"
        assert seen[4][2] == b"{]"
        assert json.loads(seen[5][2])["error"] == {"code": -32000, "message": "no", "data": {"why": 1}}
        assert json.loads(seen[6][2])["result"]["isError"]
        assert json.loads(seen[7][2])["id"] != 1


@pytest.mark.parametrize("reset", [False, True])
async def test_http_ends_before_the_first_byte(reset):
    """The connection ends with a FIN or an RST before any byte."""
    async with wire(HttpReply.reset() if reset else HttpReply.close()) as (client, _):
        await client.post()
        assert await client.rest() == (b"", reset)


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("sent", [None, 7])
async def test_http_cut_in_the_body(sent, reset):
    """The full length is announced, and only part of it is sent."""
    async with wire(HttpReply.ok("hello").cut(sent, reset=reset)) as (client, _):
        await client.post()
        status, headers = await client.headers()
        body, was_reset = await client.rest()
        assert (status, was_reset) == (200, reset)
        assert len(body) == (int(headers["content-length"]) // 2 if sent is None else sent)


async def test_http_hangs_and_announces():
    """A reply is silent or promises a gigabyte; others are answered, and a client that leaves is released."""
    async with wire(Reply.hang(), HttpReply.announce(10**9), Reply().after(0.1)) as (client, server):
        await client.post()
        assert await client.is_silent()
        for expected in (True, False):
            async with await anyio.connect_tcp("127.0.0.1", int(server.url.split(":")[2].split("/")[0])) as stream:
                other = Wire(stream)
                await other.post()
                _, headers = await other.headers()
                assert (headers["content-length"] == str(10**9)) is expected
                if expected:
                    assert await other.is_silent()
        server.disconnect(reset=True)
        assert await client.rest() == (b"", True)


async def test_http_events():
    """Ids, retry, events without data and messages on the wire; complete, cut, or held open."""
    events = [SseEvent(id="0", retry=10), SseEvent.ok("a", id="1"), SseEvent(data="two\nlines", delay=0.01)]
    expected = b"id: 0\nretry: 10\n\n", b"id: 1\ndata: {", b"data: two\ndata: lines\n\n"
    async with wire(HttpReply.sse(*events), HttpReply.sse(*events).holding(), HttpReply.sse(*events).cut()) as (
        client,
        _,
    ):
        await client.post()
        status, headers = await client.headers()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        body = await client.until(b"\r\n0\r\n\r\n")
        for part in expected:
            assert part in body
        async with anyio.create_task_group() as tg:
            await client.post()
            await client.until(expected[-1] + b"\r\n")
            assert await client.is_silent()
            tg.cancel_scope.cancel()
    async with wire(HttpReply.sse(*events).cut()) as (client, _):
        await client.post()
        body, reset = await client.rest()
        assert not body.endswith(b"0\r\n\r\n")
        assert body.endswith(expected[-1] + b"\r\n")
        assert not reset


async def test_http_more_answers_than_requests():
    """Two answers with one id, and one for a request that has not been sent yet."""
    async with wire(Reply.twice("x"), Reply.ahead("y", early="z")) as (client, _):
        await client.post(call(5))
        body = await client.until(b"\r\n0\r\n\r\n")
        assert texts(body) == ["x", "x"]
        assert body.count(b'"id": 5') == 2
        await client.post(call(6))
        body = await client.until(b"\r\n0\r\n\r\n")
        assert texts(body) == ["z", "y"]
        assert body.index(b'"id": 7') < body.index(b'"id": 6')


async def test_http_script_by_method_or_function():
    """A script may be a list, a mapping by method or a function, and replies can be appended."""
    async with ScriptedHttpServer({"initialize": [HttpReply.refusal(503)]}) as server, client_of(server.url) as client:
        assert server.requests.counts()["initialize"] == 2
        server.then(Reply.ok("later"))
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "later"
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        assert (await server.received(count=2)).arguments == {"text": "x"}

    def script(request: Any) -> Reply | None:
        return Reply.ok("made") if request.arguments.get("text") == "make" else None

    async with ScriptedHttpServer(script) as server, client_of(server.url) as client:
        assert text_of(await client.call_tool("echo", {"text": "make"})) == "made"
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


@pytest.mark.parametrize("sse", [False, True])
async def test_a_client_survives_scripted_http_faults(sse):
    """After refusals, resets, cuts and a lost session, a tool that must not run twice ran once."""
    script = [
        HttpReply.refusal(503, retry_after=0),
        HttpReply.reset(),
        HttpReply.ok("half").cut(),
        Reply.ok("hello"),
    ]
    async with ScriptedHttpServer(script, sse=sse) as server, client_of(server.url) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["echo", "order"]
        assert text_of(await client.call_tool("echo", {"text": "1"})) == "hello"
        server.then(HttpReply.sse(SseEvent(retry=1)).cut())
        assert text_of(await client.call_tool("echo", {"text": "1"})) == "1"
        server.forget_sessions()
        assert text_of(await client.call_tool("order", {"text": "2"})) == "2"
        server.then(HttpReply.reset(), HttpReply.reset())
        with pytest.raises(ConnectionLost):
            await client.call_tool("order", {"text": "3"})
        assert [request.arguments["text"] for request in server.requests.of()].count("3") == 1


@pytest.mark.skipif(MAJOR == 1, reason="mcp 1.x does not support 2026-07-28")
@pytest.mark.parametrize("transport", ["http", "stdio"])
async def test_the_modern_era(transport):
    """It is found by `server/discover`; calls work, and a subscription stays open."""
    if transport == "http":
        async with ScriptedHttpServer(modern=True) as server, ResilientClient(server.url, policy=QUICK) as client:
            await modern_tour(client, server)
    else:
        async with ScriptedStdioServer(modern=True) as server:
            async with ResilientClient(server.parameters, policy=QUICK) as client:
                await modern_tour(client, server)


async def modern_tour(client: ResilientClient, server: Any) -> None:
    assert client.protocol_version == "2026-07-28"
    assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
    async with client.watch(resources=["scripted://note"]):
        await server.received("subscriptions/listen")
    assert "initialize" not in server.requests.counts()


# --- stdio ---


@asynccontextmanager
async def pipe(*replies: Reply, **options: Any) -> AsyncIterator[tuple[anyio.abc.Process, ScriptedStdioServer]]:
    async with ScriptedStdioServer(options.pop("script", replies), **options) as server:
        command = [server.parameters.command, *server.parameters.args]
        async with await anyio.open_process(command) as process:
            yield process, server
            with contextlib.suppress(ProcessLookupError):
                process.kill()


async def lines(process: anyio.abc.Process, count: int) -> list[bytes]:
    assert process.stdout is not None
    data = b""
    with anyio.fail_after(15):
        while data.count(b"\n") < count:
            data += await process.stdout.receive()
    return data.splitlines()


async def ask(process: anyio.abc.Process, *requests: bytes) -> None:
    assert process.stdin is not None
    for request in requests:
        await process.stdin.send(request + b"\n")


async def output(process: anyio.abc.Process) -> bytes:
    """All of stdout, to its end."""
    assert process.stdout is not None
    data = b""
    with anyio.fail_after(15):
        async for part in process.stdout:
            data += part
    return data


async def test_stdio_answers_out_of_order():
    """Neither a late nor a hanging answer delays the others."""
    async with nothing_left():
        async with pipe(Reply.hang(), Reply.ok("late").after(0.2)) as (process, server):
            await ask(process, call(1), call(2), call(3), call(4, method="ping"))
            answers = [json.loads(line) for line in await lines(process, 3)]
            assert [answer["id"] for answer in answers] == [3, 4, 2]
            assert server.requests.counts() == {"start": 1, "tools/call": 3, "ping": 1}
            assert (await server.received()).arguments == {"text": "hi"}
            assert {request.pid for request in server.requests} == {process.pid}
            await process.stdin.aclose()
            with anyio.fail_after(10):
                assert await process.wait() == 0


async def test_stdio_noise():
    """Garbage before an answer, an unsolicited answer, two for one request, one too early."""
    replies = StdioReply.garbage(b"\xffx\n"), Reply.wrong_id(), Reply.twice("x"), Reply.ahead("y", early="z")
    async with pipe(*replies) as (process, _):
        await ask(process, *(call(n) for n in range(1, 5)))
        garbage, *answers = await lines(process, 7)
        assert garbage == b"\xffx"
        assert [json.loads(answer)["id"] for answer in answers] == [1, 987654321, 3, 3, 5, 4]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (StdioReply.exit(3), 3),
        (StdioReply.ok("x").cut(), 1),
        pytest.param(StdioReply.exit(-9), -9, marks=pytest.mark.skipif(sys.platform == "win32", reason="no signals")),
    ],
)
async def test_stdio_exits(reply, status):
    """The process exits with the scripted status, and a line may be cut in the middle."""
    async with pipe(reply) as (process, _):
        await ask(process, call())
        data = await output(process)
        assert (len(data) > 0) is (reply.sent is not None)
        assert b"\n" not in data
        assert await process.wait() == status


async def test_stdio_the_script_continues_in_the_next_process():
    """Scripted starts do too: two fail and one works; replies can be appended."""
    script = {"start": [StdioReply.exit(2), StdioReply.exit(2)], "tools/call": [StdioReply.exit(4)]}
    async with ScriptedStdioServer(script) as server, client_of(server.parameters) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
        server.then(StdioReply.exit(4))
        with pytest.raises(ConnectionLost, match="4"):
            await client.call_tool("order", {"text": "y"})
        assert text_of(await client.call_tool("order", {"text": "z"})) == "z"
        starts = server.requests.of("start")
        assert len({start.pid for start in starts}) == len(starts) == 5
        assert [request.arguments["text"] for request in server.requests.of()] == ["x", "x", "y", "z"]


async def test_stdio_freezes_and_mutes():
    """`freeze` reads nothing more; `mute` closes stdout and keeps reading."""
    async with pipe(StdioReply.freeze()) as (process, server):
        await ask(process, call(), call())
        await server.received()
        with anyio.move_on_after(0.2):
            await lines(process, 1)
        assert len(server.requests.of()) == 1
        assert process.returncode is None
    async with pipe(StdioReply.mute()) as (process, server):
        await ask(process, call(), call(), call())
        assert await output(process) == b""
        with anyio.fail_after(10):
            await server.received(count=3)
        assert process.returncode is None


async def test_stdio_floods_stderr():
    """Ten megabytes by default, then the answer."""
    async with pipe(StdioReply.flood()) as (process, _):
        seen = 0

        async def drain() -> None:
            nonlocal seen
            async for part in process.stderr:
                seen += len(part)

        async with anyio.create_task_group() as tg:
            tg.start_soon(drain)
            await ask(process, call())
            assert await lines(process, 1)
            tg.cancel_scope.cancel()
        assert seen >= 9_000_000


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to ignore")
async def test_stdio_stubborn():
    """The server ignores SIGTERM and the end of stdin; a client still kills it within its limit."""
    async with pipe(stubborn=True) as (process, _):
        await ask(process, call())
        await lines(process, 1)
        process.send_signal(signal.SIGTERM)
        await process.stdin.aclose()
        with anyio.move_on_after(0.3) as scope:
            await process.wait()
        assert scope.cancelled_caught
    async with ScriptedStdioServer(stubborn=True) as server:
        async with client_of(server.parameters):
            pid = server.requests.of("start")[0].pid
        await gone(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="a Windows job ends with its first process")
async def test_stdio_orphan():
    """The process is gone, but its stdout has not reached its end."""
    async with pipe(StdioReply.orphan(5)) as (process, _):
        await ask(process, call())
        with anyio.fail_after(10):
            assert await process.wait() == 5
        with anyio.move_on_after(0.2) as scope:
            await process.stdout.receive()
        assert scope.cancelled_caught
        async with ScriptedStdioServer([StdioReply.orphan()]) as server, client_of(server.parameters) as client:
            assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"


async def test_a_start_that_is_slow_or_silent():
    """The handshake waits for a slow start, and a silent one raises `ServerUnavailable`."""
    script = {"start": [Reply().after(0.3)], "initialize": [StdioReply.garbage()]}
    async with ScriptedStdioServer(script) as server, client_of(server.parameters) as client:
        assert text_of(await client.call_tool("echo", {"text": "x"})) == "x"
    impatient = QUICK.model_copy(update={"timeout": QUICK.timeout.model_copy(update={"ready": 0.5, "connect": 0.5})})
    async with ScriptedStdioServer({"initialize": [Reply.hang()] * 9}) as server:
        with pytest.raises(ServerUnavailable):
            async with client_of(server.parameters, impatient):
                raise AssertionError("unreachable")


async def test_replies_of_one_transport_are_refused_by_the_other():
    """A reply for the wrong transport is rejected when the server is made."""
    with pytest.raises(TypeError, match="stdio"):
        ScriptedStdioServer([HttpReply.reset()])
    with pytest.raises(TypeError, match="HTTP"):
        ScriptedHttpServer([StdioReply.exit()])

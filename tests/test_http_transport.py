"""The Streamable HTTP transport: what waits for what, resumption, session ids, connections that are used again."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from mcp import types
from mcp.shared.message import ClientMessageMetadata

from resilient_mcp import (
    Connected,
    ConnectionLost,
    DeadlineExceeded,
    Policy,
    ResilientClient,
    RetryPolicy,
    ServerFailed,
    TimeoutPolicy,
    ToolPolicy,
)
from resilient_mcp._sdk.installed import MAJOR, MCPError, http
from resilient_mcp.transports.http.sending import request_within_origin

from .support import LEGACY, QUICK, Faults, Recorder, ScriptedHttp, client_of, measured, reply, text_of

pytestmark = pytest.mark.anyio

ONCE = QUICK.model_copy(update={"tools": {"*": ToolPolicy(repeatable=False)}})
SSE = "text/event-stream"
_HEAD = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def result(request_id: Any, text: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "result": {"content": [{"type": "text", "text": text}]}}


def event(message: Any, event_id: str | None = None) -> bytes:
    prefix = "" if event_id is None else f"id: {event_id}\n"
    return f"{prefix}data: {json.dumps(message)}\n\n".encode()


class Events:
    """An answer of several chunks of server-sent events, on a stream that stays open until it is ended."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def begin(self) -> None:
        await self._stream.send(_HEAD.encode())

    async def send(self, data: bytes) -> None:
        await self._stream.send(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self._stream.send(b"0\r\n\r\n")


def events(script: Callable[[Events, Any], Awaitable[bool]]) -> Any:
    """A fault that answers with server-sent events as `script` says; it returns whether the connection stays."""

    async def fault(stream: Any, request_id: Any) -> bool:
        answer = Events(stream)
        await answer.begin()
        return await script(answer, request_id)

    return fault


class Resumable(ScriptedHttp):
    """A server whose streams can be resumed: each GET with `Last-Event-ID` gets what a test has put into `rest`."""

    def __init__(self) -> None:
        super().__init__()
        self.rest: list[Any] = []
        self.resumed: list[str] = []
        self.replies: list[dict[str, Any]] = []
        self.accepting = anyio.Event()
        self.accepting.set()

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        if verb == "GET" and "last-event-id" in headers:
            self.resumed.append(headers["last-event-id"])
            return await self.rest.pop(0)(stream, None)
        if body and "method" not in (message := json.loads(body)):
            self.replies.append(message)
            await self.accepting.wait()
        return await super()._exchange(stream, verb, path, headers, body)


# --- nothing waits behind another message ---


async def test_a_reply_that_is_never_accepted_delays_no_call():
    """The server asks in the middle of a call and never answers the POST of the reply: that is its own problem."""
    server = Resumable()
    server.accepting = anyio.Event()
    ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}

    async def asking(answer: Events, request_id: Any) -> bool:
        for n in range(40):
            await answer.send(event({**ping, "id": f"p{n}"}))
        await server.release.wait()
        await answer.send(event(result(request_id, "asked")))
        await answer.end()
        return True

    async with server.serve(), client_of(server.url) as client:
        server.faults = [events(asking)]
        asked: list[str] = []

        async def ask() -> None:
            asked.append(text_of(await client.call_tool("unsafe")))

        async with anyio.create_task_group() as tg:
            tg.start_soon(ask)
            with anyio.fail_after(10):
                while len(server.replies) < 16:
                    await anyio.sleep(0.01)
            with measured() as took:
                for n in range(5):
                    await client.call_tool("unsafe", {"text": str(n)})
            assert took[0] < 3
            assert asked == []
            assert len(server.replies) == 16  # at a time
            server.release.set()
        assert asked == ["asked"]
        server.accepting.set()


async def test_replies_without_end_are_bounded(caplog: pytest.LogCaptureFixture):
    """A server that asks on and on, and accepts no reply, is no longer answered; its calls go on."""
    server = Resumable()
    server.accepting = anyio.Event()

    async def asking(answer: Events, request_id: Any) -> bool:
        pings = b"".join(event({"jsonrpc": "2.0", "id": f"p{n}", "method": "ping"}) for n in range(1100))
        await answer.send(pings)
        await answer.send(event(result(request_id, "asked")))
        await answer.end()
        return True

    async with server.serve(), client_of(server.url) as client:
        server.faults = [events(asking)]
        with caplog.at_level(logging.WARNING, "resilient_mcp"):
            assert text_of(await client.call_tool("unsafe")) == "asked"
            with anyio.fail_after(10):
                while "1000 unanswered requests" not in caplog.text:
                    await anyio.sleep(0.01)
        assert caplog.text.count("unanswered requests") == 1
        await client.call_tool("unsafe", {"text": "on"})


async def test_a_server_that_accepts_no_notification():
    """A notification takes `timeout.shutdown` at most, and does not hold up a call beside it."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(shutdown=0.5)})
    async with server.serve(), client_of(server.url, policy) as client:
        hanging = Faults.hang(server)
        server.initialized_faults = [hanging]
        async with anyio.create_task_group() as tg:
            tg.start_soon(client.send_progress_notification, "token", 1.0)
            with measured() as took:
                await client.call_tool("unsafe")
        assert took[0] < 3


# --- answers in events ---


async def test_connections_of_event_streams_are_used_again():
    """After its answer a stream is read to its end, so the next call needs no new connection."""
    connections = 0

    class Server(ScriptedHttp):
        async def _connection(self, stream: Any) -> None:
            nonlocal connections
            connections += 1
            await super()._connection(stream)

    async def answered(answer: Events, request_id: Any) -> bool:
        await answer.send(event(result(request_id, "x")))
        await anyio.sleep(0.01)
        await answer.end()
        return True

    server = Server()
    async with server.serve(), client_of(server.url) as client:
        await client.call_tool("unsafe")
        before = connections
        for _ in range(10):
            server.faults = [events(answered)]
            await client.call_tool("unsafe")
            await anyio.sleep(0.05)
        assert connections == before


async def test_a_stream_that_goes_on_after_its_answer_holds_nothing_up():
    """The answer is returned when it comes, whatever the server does with the stream afterwards."""
    server = ScriptedHttp()

    async def endless(answer: Events, request_id: Any) -> bool:
        await answer.send(event(result(request_id, "x")))
        while True:
            await answer.send(b": still here " + b"x" * 1000 + b"\n\n")
            await anyio.sleep(0.001)

    async def silent(answer: Events, request_id: Any) -> bool:
        await answer.send(event(result(request_id, "x")))
        await server.release.wait()
        return False

    async with server.serve(), client_of(server.url) as client:
        for fault in (endless, silent):
            server.faults = [events(fault)] * 80
            with measured() as took:
                async with anyio.create_task_group() as tg:
                    for _ in range(80):
                        tg.start_soon(client.call_tool, "unsafe")
            assert took[0] < 10
        await client.call_tool("unsafe", {"text": "on"})


async def test_rubbish_between_events_is_skipped():
    """Comments, other kinds of events, and data that is not JSON-RPC do not cost the answer."""
    server = ScriptedHttp()

    async def mixed(answer: Events, request_id: Any) -> bool:
        await answer.send(b"\xef\xbb\xbf: hello\r\rdata: {nope\r\n\r\nevent: ping\ndata: 1\n\ndata: [1]\n\n")
        data = json.dumps(result(request_id, "x"))
        await answer.send(f"event: message\rdata: {data[:18]}\rdata: {data[18:]}\r\r".encode())
        await answer.end()
        return True

    async with server.serve(), client_of(server.url) as client:
        server.faults = [events(mixed)]
        assert text_of(await client.call_tool("unsafe")) == "x"


@pytest.mark.skipif(MAJOR == 1, reason="it has no session option for progress at this level")
async def test_an_answer_on_the_servers_own_stream():
    """A server that answers there instead of on the POST is understood, and the POST ends."""
    server = Answering()
    async with server.serve(), client_of(server.url) as client:
        assert text_of(await client.call_tool("unsafe")) == "elsewhere"
        await client.send_ping()


class Answering(ScriptedHttp):
    """Answers each `tools/call` on its notification stream; the POST of the call hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: Events | None = None
        self.opened = anyio.Event()

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        if verb == "GET":
            self.stream = Events(stream)
            await self.stream.begin()
            self.opened.set()
            await anyio.sleep_forever()
        if body and (message := json.loads(body)).get("method") == "tools/call":
            await self.opened.wait()
            assert self.stream is not None
            await self.stream.send(event(result(message["id"], "elsewhere")))
            await anyio.sleep_forever()
        return await super()._exchange(stream, verb, path, headers, body)


# --- resumption ---


def broken_off(*, event_id: str = "1", retry: int = 10, rest: bytes = b"") -> Any:
    """An answer whose stream ends after an event with an id."""

    async def fault(stream: Any, _: Any) -> bool:
        data = f"id: {event_id}\nretry: {retry}\ndata:\n\n".encode() + rest
        await reply(stream, 200, data, {"content-type": SSE, "content-length": str(len(data) + 100)})
        return False

    return fault


@pytest.mark.parametrize("event_id", ["1", "a b", "\u00e9\u2192", "a\\nb", "\u00a0x\u00a0", '""'])
async def test_an_answer_is_resumed(event_id: str):
    """The stream breaks, its rest is fetched with the last id, and the call never notices; no call is repeated."""
    server = Resumable()
    async with server.serve(), client_of(server.url, ONCE) as client:
        call_id = 0

        async def first(stream: Any, request_id: Any) -> bool:
            nonlocal call_id
            call_id = request_id
            return await broken_off(event_id=event_id)(stream, request_id)

        async def again(answer: Events, _: Any) -> bool:
            await answer.send(b"id: 2\ndata:\n\n")
            return False

        async def rest(answer: Events, _: Any) -> bool:
            await answer.send(event(result(call_id, "resumed"), "3"))
            await answer.end()
            return True

        server.faults, server.rest = [first], [events(again), events(rest)]
        assert text_of(await client.call_tool("unsafe", {"text": "x"})) == "resumed"
    assert server.calls == ["x"]
    assert server.resumed == [event_id, "2"]


async def test_an_event_that_is_cut_off_comes_again():
    """Its id does not count before the event is complete."""
    server = Resumable()

    async def rest(stream: Any, _: Any) -> bool:
        return await Faults.status(405)(stream, None)

    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults, server.rest = [broken_off(rest=b"id: 2\ndata: {")], [rest]
        with pytest.raises(ConnectionLost, match="stream broke and could not be resumed: HTTP 405"):
            await client.call_tool("unsafe", {"text": "x"})
    assert server.resumed == ["1"]


@pytest.mark.parametrize("event_id", ["a\x01b", "a\x0bX-Evil: 1", "x" * 5000])
async def test_an_id_that_no_header_can_carry(event_id: str):
    """The answer cannot be resumed, and its call ends at once."""
    server = Resumable()
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults = [broken_off(event_id=event_id)]
        with measured() as took, pytest.raises(ConnectionLost, match="may have run"):
            await client.call_tool("unsafe", {"text": "x"})
        assert took[0] < 3
        assert server.resumed == []
        await client.call_tool("unsafe", {"text": "on"})


async def test_a_server_that_cannot_be_reached_to_resume():
    """After two tries the call fails; nothing says that it did not run."""
    server = Resumable()
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.faults, server.rest = [broken_off()], [Faults.reset(), Faults.reset()]
        with pytest.raises(ConnectionLost, match="could not be resumed") as caught:
            await client.call_tool("unsafe", {"text": "x"})
        assert caught.value.may_have_run
    assert server.resumed == ["1", "1"]


async def test_a_stream_that_is_resumed_for_ever_ends_with_its_call():
    """The time limit of the call ends it, and no further GET follows."""
    server = Resumable()
    policy = ONCE.model_copy(update={"timeout": TimeoutPolicy(attempt=0.5)})

    async def again(answer: Events, _: Any) -> bool:
        await answer.send(b"id: 2\ndata:\n\n")
        return False

    async with server.serve(), client_of(server.url, policy) as client:
        server.faults, server.rest = [broken_off()], [events(again)] * 1000
        with pytest.raises(DeadlineExceeded, match="may have run"):
            await client.call_tool("unsafe", {"text": "x"})
        count = len(server.resumed)
        assert count > 2
        await anyio.sleep(0.3)
        assert len(server.resumed) == count


async def test_a_token_resumes_the_answer_of_an_earlier_call():
    """As in the SDK: `resumption_token` fetches the rest of an answer, and each id is reported."""
    server = Resumable()
    tokens: list[str] = []

    async def keep(token: str) -> None:
        tokens.append(token)

    async def rest(answer: Events, _: Any) -> bool:
        await answer.send(event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}, "8"))
        await answer.send(event(result(4711, "of an earlier call"), "9"))
        await answer.end()
        return True

    request: Any = types.CallToolRequest(method="tools/call", params=types.CallToolRequestParams(name="unsafe"))
    if MAJOR == 1:
        request = types.ClientRequest(request)
    async with server.serve(), client_of(server.url, ONCE) as client:
        server.rest = [events(rest)]
        hints = ClientMessageMetadata(resumption_token="7", on_resumption_token_update=keep)
        answer = await client.send_request(request, types.CallToolResult, metadata=hints)
        assert text_of(answer) == "of an earlier call"
    assert server.resumed == ["7"]
    assert tokens == ["8", "9"]
    assert server.calls == []


# --- sessions ---


@pytest.mark.parametrize("session", ["caf\u00e9", "a\x01b", "a\tb"])
async def test_a_session_id_that_cannot_be_sent(session: str):
    """The handshake fails and names it, instead of every later request."""
    server = ScriptedHttp()

    async def welcome(stream: Any, request_id: Any) -> bool:
        body = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "x", "version": "1"}}
        data = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": body}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nmcp-session-id: {session}\r\n"
        await stream.send(f"{head}content-length: {len(data)}\r\n\r\n".encode("latin-1") + data)
        return True

    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(ready=1, reach=1)})
    async with server.serve():
        server.handshake_faults = [welcome] * 100
        client = ResilientClient(server.url, policy=policy, **LEGACY)
        with pytest.raises(MCPError) as caught:
            await client.start()
        assert "Mcp-Session-Id" in str(caught.value) or "illegal header" in str(caught.value).lower()


async def test_the_negotiated_version_is_sent_with_every_later_request():
    """Also with replies, notifications, the stream and the end of the session, and never with `initialize`."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        await client.call_tool("echo")
        server.forget_sessions()
        await client.call_tool("echo")
    versions = [headers.get("mcp-protocol-version") for headers in server.headers]
    assert versions[0] is None
    assert versions.count(None) == server.requests["initialize"] == 2
    assert set(versions) == {None, "2025-11-25"}


async def test_calls_in_flight_end_with_their_connection():
    """When a session is replaced, a call that still waits for the old one is not left behind."""
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"timeout": TimeoutPolicy(shutdown=0.2), "retry": RetryPolicy(attempts=1)})
    recorded = Recorder()
    async with server.serve(), client_of(server.url, policy, on_event=recorded) as client:
        server.faults = [Faults.hang(server)]
        async with anyio.create_task_group() as tg:

            async def waiting() -> None:
                with pytest.raises(ConnectionLost, match="may have run"):
                    await client.call_tool("unsafe", {"text": "waits"})

            tg.start_soon(waiting)
            await server.received.wait()
            await client.restart()
        await recorded.wait_for(Connected, 2)
        await client.call_tool("unsafe", {"text": "on"})
    assert server.calls == ["waits", "on"]


async def test_a_refused_login_is_final():
    """A 401 without anything that could change it fails the start."""
    server = ScriptedHttp()
    async with server.serve():
        server.handshake_faults = [Faults.status(401)]
        with pytest.raises(ServerFailed):
            await ResilientClient(server.url, policy=Policy(), headers={"x": "y"}, **LEGACY).start()


# --- redirects ---


async def test_redirects_without_end():
    """After twenty the redirect itself is the answer, and its call fails with it."""
    server = ScriptedHttp()
    async with server.serve(), client_of(server.url) as client:
        server.faults = [Faults.status(307, location="/mcp")] * 100
        with pytest.raises(MCPError, match=r"HTTP 307: a redirect to /mcp, which was not followed"):
            await client.call_tool("unsafe")
        assert len(server.calls) == 21
        server.faults = []
        await client.call_tool("unsafe")


@pytest.mark.parametrize(
    ("status", "sent", "location", "followed"),
    [
        (307, "http://a.invalid/mcp", "/mcp/", True),
        (308, "http://a.invalid/mcp", "http://a.invalid/x?y=1", True),
        (307, "http://a.invalid/mcp", "http://A.invalid:80/x", True),
        (307, "http://a.invalid/mcp", "https://a.invalid/mcp", True),
        (307, "http://me:pw@a.invalid/mcp", "/x", True),
        (301, "http://a.invalid/mcp", "/x", False),
        (302, "http://a.invalid/mcp", "/x", False),
        (303, "http://a.invalid/mcp", "/x", False),
        (307, "http://a.invalid/mcp", "http://b.invalid/mcp", False),
        (307, "http://a.invalid/mcp", "http://a.invalid:81/mcp", False),
        (307, "https://a.invalid/mcp", "http://a.invalid/mcp", False),
        (307, "http://a.invalid:8080/mcp", "https://a.invalid/mcp", False),
        (307, "http://a.invalid/mcp", "http://me:pw@a.invalid/mcp", False),
        (200, "http://a.invalid/mcp", None, False),
    ],
)
async def test_which_redirects_are_followed(status: int, sent: str, location: str | None, followed: bool):
    """Those within the origin that keep the method; what a request carries was meant for its origin."""

    async def redirect(_: Any) -> Any:
        return http.Response(status, headers={} if location is None else {"location": location})

    async with http.AsyncClient(transport=http.MockTransport(redirect)) as client:
        response = await client.send(client.build_request("POST", sent, content=b"{}"), follow_redirects=False)
        following = request_within_origin(response)
    assert (following is not None) is followed

"""The server's notification stream (GET) up to 2025-11-25 is opened, and opened again whenever it ends."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import anyio
import pytest

from resilient_mcp import Change, Connected, Disconnected, Restored
from resilient_mcp._sdk.installed import http

from .support import Recorder, ScriptedHttp, client_of, in_turn, reply, reset

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]  # servers are started and killed on a busy machine

URI = "test://a"


class Streaming(ScriptedHttp):
    """A scripted server whose GET answers a test controls: a status, or a stream that ends on command."""

    def __init__(self) -> None:
        super().__init__(sessions=True)
        self.statuses: list[int] = []
        self.opened = 0
        self._news = anyio.Event()
        self._orders: deque[bytes | str] = deque()

    async def _exchange(self, stream: Any, verb: str, path: str, headers: dict[str, str], body: bytes) -> bool:
        message = json.loads(body) if body else {}
        if verb == "GET":
            self.requests[verb] += 1
            return await self._stream(stream, headers)
        if message.get("method") == "initialize":
            self.session += 1
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"resources": {"subscribe": True}},
                "serverInfo": {"name": "streaming", "version": "1"},
            }
            body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
            await reply(stream, 200, body, {"mcp-session-id": f"session-{self.session}"})
            return True
        if message.get("method") in ("resources/subscribe", "resources/unsubscribe"):
            self.requests[message["method"]] += 1
            await reply(stream, 200, json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {}}).encode())
            return True
        return await super()._exchange(stream, verb, path, headers, body)

    async def _stream(self, stream: Any, headers: dict[str, str]) -> bool:
        if self.statuses:
            await reply(stream, self.statuses.pop(0))
            return True
        if headers["mcp-session-id"] != f"session-{self.session}":
            await reply(stream, 404)
            return True
        self.opened += 1
        self._tell()
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        await stream.send(head.encode())
        while True:
            while not self._orders:
                await self._news.wait()
            order = self._orders.popleft()
            if isinstance(order, bytes):
                await stream.send(b"%x\r\n%s\r\n" % (len(order), order))
            elif order == "reset":
                reset(stream)
                return False
            else:
                await stream.send(b"0\r\n\r\n")
                return True

    def _tell(self) -> None:
        news, self._news = self._news, anyio.Event()
        news.set()

    def order(self, what: bytes | str) -> None:
        """Send these bytes on the stream, or end it in this way."""
        self._orders.append(what)
        self._tell()

    def update(self) -> None:
        """Send an update of the resource."""
        body = {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": URI}}
        self.order(b"event: message\r\ndata: " + json.dumps(body).encode() + b"\r\n\r\n")

    async def opened_times(self, count: int) -> None:
        with anyio.fail_after(15):
            while self.opened < count:
                await self._news.wait()


async def next_of(changes: Any) -> Change:
    with anyio.fail_after(15):
        return await anext(changes)


@in_turn
async def test_the_stream_is_reopened_after_every_break():
    """Reset, closed, cut in the middle of an event, four in a row: each time `missed`, then the next update."""
    server, events = Streaming(), Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client, client.watch([URI]) as changes:
        server.update()
        assert await next_of(changes) == Change("resource", URI)
        for n, how in enumerate(("reset", "end", "half", "reset"), start=2):
            if how == "half":
                server.order(b'data: {"jsonrpc": "2.0", "meth')
            server.order("reset" if how == "half" else how)
            await server.opened_times(n)
            assert await next_of(changes) == Change("resource", URI, missed=True)
            server.update()
            assert await next_of(changes) == Change("resource", URI)
        assert len(events.of(Connected)) == 1
        assert server.requests["resources/subscribe"] == 1


@in_turn
async def test_an_outage_is_waited_for():
    """A 503 and a gateway's 502 are waited out, however many it takes."""
    server = Streaming()
    server.statuses = [503, 502, 503, 429, 500]
    async with server.serve(), client_of(server.url) as client, client.watch([URI]) as changes:
        await server.opened_times(1)
        server.update()
        while (await next_of(changes)).missed:
            pass
        assert server.requests["GET"] == 6


@in_turn
async def test_a_409_for_a_stream_that_just_ended_is_retried():
    """The server may notice the end of a stream later than the client, and answers 409 Conflict until then."""
    server = Streaming()
    async with server.serve(), client_of(server.url) as client, client.watch([URI]) as changes:
        await server.opened_times(1)
        server.statuses = [409] * 3
        server.order("reset")
        await server.opened_times(2)
        assert await next_of(changes) == Change("resource", URI, missed=True)


async def test_the_stream_notices_a_lost_session():
    """After a 404 for a stream that was open before, a new session is made with the same subscriptions."""
    server, events = Streaming(), Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client, client.watch([URI]) as changes:
        await server.opened_times(1)
        server.session += 100
        server.order("end")
        await events.wait_for(Disconnected)
        assert (await events.wait_for(Restored)).restored == (f"resources/subscribe {URI}",)
        assert await next_of(changes) == Change("resource", URI, missed=True)
        server.update()
        assert await next_of(changes) == Change("resource", URI)


@pytest.mark.parametrize("status", [404, 405, 400])
async def test_a_server_without_the_stream_keeps_its_session(status: int):
    """The answer to the first GET does not affect the session."""
    server, events = Streaming(), Recorder()
    server.statuses = [status] * 10
    async with server.serve(), client_of(server.url, on_event=events) as client:
        async with client.watch([URI]):
            await client.send_ping()
        with anyio.fail_after(10):
            while not server.requests["GET"]:
                await anyio.sleep(0.01)
        await client.send_ping()
        assert server.requests["GET"] == 1
        assert len(events.of(Connected)) == 1


async def test_invalid_data_on_the_stream_is_skipped():
    """Data that is not JSON-RPC ends neither the stream nor the session."""
    server, events = Streaming(), Recorder()
    async with server.serve(), client_of(server.url, on_event=events) as client, client.watch([URI]) as changes:
        await server.opened_times(1)
        server.order(b"data: rubbish\n\n")
        server.update()
        assert await next_of(changes) == Change("resource", URI)
        assert server.opened == len(events.of(Connected)) == 1


@in_turn
async def test_a_hook_that_raises_once_does_not_cost_the_stream():
    """An error of the user's HTTP client is one failed attempt to open the stream, and the next one opens it."""
    server, raised = Streaming(), []

    async def hook(request: Any) -> None:
        if request.method == "GET" and not raised:
            raised.append(request)
            raise RuntimeError

    mine = http.AsyncClient(event_hooks={"request": [hook]})
    async with mine, server.serve(), client_of(server.url, http_client=mine) as client, client.watch([URI]) as changes:
        await server.opened_times(1)
        server.update()
        while (await next_of(changes)).missed:
            pass
        assert raised

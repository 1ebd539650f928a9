"""The connections of the client that this library makes: reused last in, first out, and never once they are stale."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest

from resilient_mcp._sdk.installed import http, httpcore
from resilient_mcp.transports.http import one_origin
from resilient_mcp.transports.http.client import create_http_client

from .support import nothing_left

pytestmark = pytest.mark.anyio


class Counting:
    """A server that numbers its connections and answers with the number."""

    def __init__(self) -> None:
        self.connections = 0
        self.closed = 0
        self.url = ""
        self.hold: anyio.Event | None = None
        self.arrived = 0
        self.changed = anyio.Event()

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Counting]:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
            async with anyio.create_task_group() as tg:
                tg.start_soon(listener.serve, self._connected)
                yield self
                tg.cancel_scope.cancel()

    async def _connected(self, stream: anyio.abc.SocketStream) -> None:
        self.connections += 1
        number = self.connections
        try:
            async with stream:
                while True:
                    head = await stream.receive()
                    while b"\r\n\r\n" not in head:
                        head += await stream.receive()
                    self.arrived += 1
                    self._tell()
                    if self.hold is not None:
                        await self.hold.wait()
                    body = str(number).encode()
                    close = b"connection: close\r\n" if b"/close" in head.split(b"\r\n")[0] else b""
                    await stream.send(b"HTTP/1.1 200 OK\r\n%scontent-length: %d\r\n\r\n%s" % (close, len(body), body))
                    if b"/drop" in head.split(b"\r\n")[0]:
                        return
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return
        finally:
            self.closed += 1
            self._tell()

    def _tell(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    async def until(self, condition: Any) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self.changed.wait()


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[Counting, Any]]:
    async with nothing_left(), Counting().serve() as server:
        async with create_http_client(server.url, None, connect=5) as client:
            yield server, client


async def number(client: Any, url: str) -> int:
    """The number of the connection that a request used."""
    return int((await client.get(url)).text)


async def test_a_connection_is_used_again():
    """Sequential requests share one connection, and closing the client closes it."""
    async with serving() as (server, client):
        assert [await number(client, server.url) for _ in range(5)] == [1] * 5
    assert server.connections == 1


async def test_the_last_one_that_became_idle_is_used_first():
    """As many connections as there are requests at once; afterwards the warmest is used."""
    async with serving() as (server, client):
        server.hold = anyio.Event()
        async with anyio.create_task_group() as tg:
            for _ in range(64):
                tg.start_soon(number, client, server.url)
            await server.until(lambda: server.arrived == 64)
            server.hold.set()
        server.hold = None
        assert server.connections == 64
        last = await number(client, server.url)
        assert [await number(client, server.url) for _ in range(5)] == [last] * 5
    assert server.connections == 64


@pytest.mark.parametrize("how", ["close", "drop"])
async def test_a_connection_that_the_server_closed_is_not_used(how: str):
    """Whether it said so or not."""
    async with serving() as (server, client):
        assert await number(client, server.url + how) == 1
        await server.until(lambda: server.closed == 1)
        assert await number(client, server.url) == 2


async def test_a_connection_that_was_idle_for_long_is_not_used(monkeypatch: pytest.MonkeyPatch):
    """Servers drop idle connections, and a request that crosses the drop may have run. Others are closed meanwhile."""
    monkeypatch.setattr(one_origin, "IDLE", 0.05)
    async with serving() as (server, client):
        server.hold = anyio.Event()
        async with anyio.create_task_group() as tg:
            for _ in range(3):
                tg.start_soon(number, client, server.url)
            await server.until(lambda: server.arrived == 3)
            server.hold.set()
        await anyio.sleep(0.1)
        assert await number(client, server.url) == 4
        await server.until(lambda: server.closed == 3)
    assert one_origin.IDLE == 0.05


async def test_a_client_without_calls_keeps_no_connection(monkeypatch: pytest.MonkeyPatch):
    """Idle connections are closed, not only left unused; and again after later calls."""
    monkeypatch.setattr(one_origin, "IDLE", 0.05)
    async with serving() as (server, client):
        for wanted in (1, 2):
            assert await number(client, server.url) == wanted
            await server.until(lambda wanted=wanted: server.closed == wanted)


async def test_a_connection_that_fails_to_close_hurts_nothing(monkeypatch: pytest.MonkeyPatch):
    """Closing idle connections runs beside the client, and must not end it."""
    monkeypatch.setattr(one_origin, "IDLE", 0.05)
    closed = anyio.Event()
    close = httpcore.AsyncHTTPConnection.aclose

    async def closing(connection: Any) -> None:
        await close(connection)
        closed.set()
        raise OSError("the socket is in a bad way")

    async with serving() as (server, client):
        with monkeypatch.context() as patched, anyio.fail_after(10):
            patched.setattr(httpcore.AsyncHTTPConnection, "aclose", closing)
            assert await number(client, server.url) == 1
            await closed.wait()
            await anyio.sleep(0)
        assert await number(client, server.url) == 2


async def test_a_cancelled_request_leaves_nothing():
    """Its connection is closed, and the next request has another."""
    async with serving() as (server, client):
        server.hold = anyio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(number, client, server.url)
            await server.until(lambda: server.arrived == 1)
            tg.cancel_scope.cancel()
        server.hold.set()
        await server.until(lambda: server.closed == 1)
        assert await number(client, server.url) == 2


async def test_a_body_that_is_not_read_closes_its_connection():
    """What is left of it would be taken for the next answer."""
    async with serving() as (server, client):
        async with client.stream("GET", server.url):
            pass
        await server.until(lambda: server.closed == 1)
        assert await number(client, server.url) == 2


async def test_other_origins_have_connections_of_their_own():
    """An auth flow may ask another server."""
    async with nothing_left(), Counting().serve() as other, Counting().serve() as server:
        async with create_http_client(server.url, None, connect=5) as client:
            assert [await number(client, url) for url in (server.url, other.url) * 3] == [1] * 6
        assert (server.connections, other.connections) == (1, 1)


async def test_a_server_that_is_not_there():
    """The error is that of the HTTP library, and nothing is left."""
    async with nothing_left(), create_http_client("http://127.0.0.1:9/", None, connect=5) as client:
        for _ in range(3):
            with pytest.raises(http.ConnectError):
                await client.get("http://127.0.0.1:9/")


async def test_a_url_that_is_not_ascii():
    """A path or a name in any script is one that the HTTP library encodes."""
    async with Counting().serve() as server, create_http_client(f"{server.url}\u00e9", None, connect=5) as client:
        assert [await number(client, f"{server.url}\u00e9") for _ in range(2)] == [1, 1]
    async with create_http_client("http://b\u00fccher.invalid/mcp", None, connect=5) as client:
        with pytest.raises(http.ConnectError):
            await client.get("http://b\u00fccher.invalid/mcp")

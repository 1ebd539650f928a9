"""The connections of the client that this library makes: what a request consists of leaves in one piece."""

from __future__ import annotations

import ssl
from typing import Any

import anyio
import anyio.abc
import pytest
import trustme
from anyio.streams.tls import TLSListener

from resilient_mcp._sdk.installed import http
from resilient_mcp.transports.http import client as clients
from resilient_mcp.transports.http.client import create_http_client

from .support import nothing_left

pytestmark = pytest.mark.anyio

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Pieces:
    """A server that writes down what each `receive` returned, and answers once a request is complete."""

    def __init__(self) -> None:
        self.requests: list[list[bytes]] = []

    async def handle(self, stream: anyio.abc.ByteStream) -> None:
        async with stream:
            while True:
                pieces: list[bytes] = []
                while not complete(b"".join(pieces)):
                    try:
                        pieces.append(await stream.receive(1_000_000))
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        return
                self.requests.append(pieces)
                await stream.send(ANSWER)


def complete(data: bytes) -> bool:
    head, found, body = data.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return bool(found) and len(body) >= sum(lengths)


async def exchange(listener: Any, url: str, requests: list[tuple[str, bytes | None]]) -> list[list[bytes]]:
    """Send requests one after the other; return the pieces in which each arrived."""
    server = Pieces()
    async with nothing_left(), anyio.create_task_group() as tg:
        tg.start_soon(listener.serve, server.handle)
        async with create_http_client(url, None, connect=5) as client:
            for method, body in requests:
                with anyio.fail_after(10):
                    response = await client.request(method, url, content=body)
                    assert response.text == "hi"
        tg.cancel_scope.cancel()
    return server.requests


async def test_headers_and_body_arrive_together():
    """The server reads a whole request at a time, also the second one on a connection, and one without a body."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
    async with listener:
        sent = await exchange(listener, url, [("POST", b"one"), ("POST", b"two"), ("GET", None), ("DELETE", None)])
    assert [len(pieces) for pieces in sent] == [1, 1, 1, 1]
    assert [pieces[0].endswith(body) for pieces, body in zip(sent[:2], (b"one", b"two"), strict=True)] == [True, True]


async def test_a_large_body_is_not_copied_and_arrives_whole():
    """Headers first, then the body."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"
    body = bytes(range(256)) * 8_000
    async with listener:
        (pieces, after) = await exchange(listener, url, [("POST", body), ("POST", b"small")])
    assert b"".join(pieces).endswith(body)
    assert len(after) == 1


async def test_the_same_over_tls(monkeypatch: pytest.MonkeyPatch):
    """An encrypted connection joins them too."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    monkeypatch.setattr(clients, "_trust", lambda *_where: trusting)
    plain = await anyio.create_tcp_listener(local_host="127.0.0.1")
    url = f"https://127.0.0.1:{plain.extra(anyio.abc.SocketAttribute.local_port)}/"
    async with TLSListener(plain, context, standard_compatible=False) as listener:
        sent = await exchange(listener, url, [("POST", b"one"), ("POST", b"two")])
    assert [len(pieces) for pieces in sent] == [1, 1]


async def test_a_server_that_has_gone_fails_the_write_or_the_read():
    """A connection that breaks while a request is held back fails that request, with an error of the HTTP library."""
    async with nothing_left(), await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        url = f"http://127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}/"

        async def drop(stream: anyio.abc.ByteStream) -> None:
            await stream.aclose()

        async with anyio.create_task_group() as tg:
            tg.start_soon(listener.serve, drop)
            async with create_http_client(url, None, connect=5) as client:
                with pytest.raises(http.TransportError):
                    await client.post(url, content=b"x")
            tg.cancel_scope.cancel()

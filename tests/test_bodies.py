"""Bodies of HTTP responses: decompressed piece by piece, so that a limit holds whatever a server sends."""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import Any

import anyio
import pytest

from resilient_mcp import ConnectionLost, ResilientClient
from resilient_mcp._sdk.installed import MCPError, http
from resilient_mcp.transports.http.bodies import pieces, read
from resilient_mcp.transports.jsonrpc import Unusable

from .support import QUICK, ScriptedHttp, client_of, reply

pytestmark = pytest.mark.anyio

TEXT = json.dumps({"numbers": list(range(20_000))}).encode()
GZIP, ZLIB, BARE = 31, 15, -15


def packed(data: bytes, form: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, form)
    return packer.compress(data) + packer.flush()


@lru_cache
def spaces(megabytes: int) -> bytes:
    """That many megabytes of spaces, compressed to a thousandth."""
    packer = zlib.compressobj(9, zlib.DEFLATED, GZIP)
    return b"".join([*(packer.compress(b" " * 1_000_000) for _ in range(megabytes)), packer.flush()])


def response(body: bytes, encoding: str = "", chunk: int = 1000) -> Any:
    class Stream(http.AsyncByteStream):
        at = 0

        def __aiter__(self) -> Stream:
            return self

        async def __anext__(self) -> bytes:
            if self.at >= len(body):
                raise StopAsyncIteration
            self.at += chunk
            return body[self.at - chunk : self.at]

    request = http.Request("POST", "http://x.invalid/")
    return http.Response(200, headers={"content-encoding": encoding}, stream=Stream(), request=request)


@pytest.mark.parametrize("chunk", [1, 997, 10**9])
@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("", TEXT[:3000]),
        ("identity", TEXT[:3000]),
        ("utf-8", TEXT[:3000]),
        ("gzip", packed(TEXT, GZIP)),
        ("X-GZip", packed(TEXT, GZIP)),
        ("deflate", packed(TEXT, ZLIB)),
        ("deflate", packed(TEXT, BARE)),
        ("gzip, deflate", packed(packed(TEXT, GZIP), ZLIB)),
        ("deflate, identity, gzip", packed(packed(TEXT, BARE), GZIP)),
        ("gzip", packed(TEXT, GZIP) + b"what follows the end"),
        ("gzip", packed(b"", GZIP)),
    ],
)
async def test_every_accepted_encoding(encoding: str, body: bytes, chunk: int):
    """However it is cut; what follows the end of a compressed body is left out."""
    expected = body if encoding in {"", "identity", "utf-8"} else b"" if body == packed(b"", GZIP) else TEXT
    assert await read(response(body, encoding, chunk), 10**6) == (expected, True)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, br", "gzip, gzip, gzip", "compress" + ", br" * 100])
async def test_other_encodings_are_refused(encoding: str):
    """They were not accepted, and each layer may inflate a thousandfold."""
    with pytest.raises(Unusable, match=r"content encoding '.{1,40}', which was not accepted"):
        await read(response(b"x", encoding), 100)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_what_is_not_compressed(encoding: str):
    """It cannot be decompressed, and says so."""
    with pytest.raises(Unusable, match="cannot be decompressed"):
        await read(response(b'{"jsonrpc": "2.0"}', encoding), 100)


async def test_a_body_that_was_read_already():
    """A user's event hook may have read it."""
    read_already = response(packed(TEXT, GZIP), "gzip")
    await read_already.aread()
    assert await read(read_already, 10**6) == (TEXT, True)


@pytest.mark.parametrize(("encoding", "layers"), [("gzip", 1), ("gzip, gzip", 2)])
async def test_the_pieces_are_small_and_others_run(encoding: str, layers: int):
    """100 MB in pieces of 256 KiB, and other tasks run in between."""
    body = spaces(100) if layers == 1 else packed(spaces(100), GZIP)
    total = turns = 0

    async def beat() -> None:
        nonlocal turns
        while True:
            await anyio.sleep(0)
            turns += 1

    async with anyio.create_task_group() as tg:
        tg.start_soon(beat)
        async for piece in pieces(response(body, encoding, 10**9)):
            assert len(piece) <= 256 * 1024
            total += len(piece)
        tg.cancel_scope.cancel()
    assert total == 100_000_000
    assert turns > 50


KINDS = ["application/json", "text/event-stream"]


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_bomb_fails_its_call_alone(kind: str, status: int):
    """100 MB in less than a kilobyte: the call fails at the limit, and the client goes on."""
    body = packed(spaces(100), GZIP)
    assert len(body) < 1000
    server = ScriptedHttp()
    policy = QUICK.model_copy(update={"max_message_bytes": 1_000_000})

    async def bomb(stream: Any, _: Any) -> bool:
        await reply(stream, status, body, {"content-type": kind, "content-encoding": "gzip, gzip"})
        return True

    async with server.serve(), client_of(server.url, policy) as client:
        server.faults = [bomb]
        with pytest.raises(ConnectionLost, match="HTTP 500" if status == 500 else "over the limit of 1000000"):
            await client.call_tool("unsafe")
        await client.call_tool("echo", {"text": "on"})
        assert server.headers[-1]["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_compressed_answer(kind: str):
    """It reaches its caller, as an error does."""
    server = ScriptedHttp()

    async def compressed(stream: Any, request_id: Any) -> bool:
        result = {"content": [{"type": "text", "text": "x" * 1000}]}
        data = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
        data = b"data: " + data + b"\n\n" if kind == KINDS[1] else data
        await reply(stream, 200, packed(data, GZIP), {"content-type": kind, "content-encoding": "gzip"})
        return True

    async def refused(stream: Any, _: Any) -> bool:
        await reply(stream, 418, packed(b"a teapot", ZLIB), {"content-encoding": "deflate"})
        return True

    async with server.serve(), client_of(server.url) as client:
        server.faults = [compressed, refused]
        assert (await client.call_tool("echo")).content[0].text == "x" * 1000
        with pytest.raises(MCPError, match="HTTP 418: a teapot"):
            await client.call_tool("echo")


async def test_an_encoding_that_was_not_accepted():
    """The call fails and names it."""
    server = ScriptedHttp()

    async def brotli(stream: Any, _: Any) -> bool:
        await reply(stream, 200, b"\x0b\x02\x80", {"content-encoding": "br"})
        return True

    async with server.serve(), ResilientClient(server.url, policy=QUICK) as client:
        server.faults = [brotli]
        with pytest.raises(ConnectionLost, match="content encoding 'br', which was not accepted"):
            await client.call_tool("unsafe")

"""The bodies of HTTP responses, with a bound that holds after decompression.

The HTTP libraries decompress a whole chunk at once: 3,477 bytes of twice compressed zeros become 4 GB. Here the
compressed bytes are read, and decompressed piece by piece.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any

from ..._sdk.installed import http
from ...event_loop import Pace
from ..jsonrpc import Unusable

ACCEPTED = "gzip, deflate"
"""The `Accept-Encoding` of every request: what can be decompressed piece by piece."""

# Bytes decompressed at a time.
_PIECE = 64 * 1024

# The encodings that mean something (RFC 9110, 7932, 8878), and those that can be decompressed piece by piece.
_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
_ENCODINGS = _DECODED | {"compress", "x-compress", "br", "zstd"}

# Bytes of the header of zlib's format.
_ZLIB_HEAD = 2

# Encodings one over the other; each may inflate a thousandfold.
_LAYERS = 2


async def pieces(response: Any) -> AsyncGenerator[bytes, None]:
    """The decoded body of `response`, in pieces of at most 64 KiB if it is compressed.

    Other tasks run now and then, also if a body comes in tiny chunks, or inflates to gigabytes.

    Raises:
        Unusable: Its `Content-Encoding` was not accepted, or its body is not what that says.
    """
    try:
        content = response.content
    except http.ResponseNotRead:
        pass
    else:  # a user's event hook has read it
        yield content
        return
    layers = _layers(response.headers.get("content-encoding", ""))
    pace = Pace()
    async with aclosing(response.aiter_raw()) as raw:
        async for chunk in raw:
            await pace.step()
            if not layers:
                yield chunk
                continue
            try:
                for piece in _through(layers, chunk):
                    yield piece
                    await pace.step(len(piece))
            except zlib.error as exc:
                raise Unusable(f"an answer that cannot be decompressed: {exc}") from None


async def read(response: Any, limit: int) -> tuple[bytes, bool]:
    """The body, and whether that is all of it; at most `limit` bytes. The response is closed.

    Raises:
        Unusable: See `pieces`.
    """
    body = bytearray()
    try:
        async with aclosing(pieces(response)) as decoded:
            async for piece in decoded:
                body += piece
                if len(body) > limit:
                    return bytes(body[:limit]), False
    finally:
        await response.aclose()
    return bytes(body), True


async def read_plain(response: Any) -> bytes:
    """The body of a response that is short and not compressed; the response is closed.

    The stream is read directly: the three generators that the HTTP library's `aread` puts over it take a tenth of a
    call.
    """
    if response.is_stream_consumed or not isinstance(response.stream, http.AsyncByteStream):
        return bytes(await response.aread())  # a user's event hook or transport has read it
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.aclose()


class _Layer:
    """One encoding of a body; "deflate" is zlib's format or, with some servers, the bare one."""

    def __init__(self, encoding: str) -> None:
        self._head: bytes | None = (
            b"" if encoding == "deflate" else None
        )  # the first bytes, which tell the formats apart
        self._inflating = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` decompresses to.

        Raises:
            zlib.error: It is not compressed data.
        """
        if self._head is not None:
            data = self._head + data
            if len(data) < _ZLIB_HEAD:
                self._head = data
                return
            self._head = None
            is_zlib = data[0] & 15 == zlib.DEFLATED and int.from_bytes(data[:_ZLIB_HEAD], "big") % 31 == 0  # RFC 1950
            self._inflating = zlib.decompressobj(zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
        more = True
        while more and not self._inflating.eof:  # what follows the end is ignored
            piece = self._inflating.decompress(data, _PIECE)
            data = self._inflating.unconsumed_tail
            more = bool(data) or len(piece) == _PIECE  # a full piece may leave output behind, without input
            if piece:
                yield piece


def _layers(encodings: str) -> list[_Layer]:
    """The layers of a body with this `Content-Encoding`, in the order in which they come off.

    Raises:
        Unusable: There are too many, or one of them was not accepted.
    """
    # Servers also send what is no encoding, such as `utf-8`: it is ignored, as by the HTTP library.
    names = [name for name in (part.strip().lower() for part in encodings.split(",")) if name in _ENCODINGS]
    if len(names) > _LAYERS or not _DECODED.issuperset(names):
        raise Unusable(f"an answer with the content encoding {encodings[:40]!r}, which was not accepted")
    return [_Layer(name) for name in reversed(names)]


def _through(layers: list[_Layer], data: bytes) -> Iterator[bytes]:
    if not layers:
        yield data
        return
    for piece in layers[0].feed(data):
        yield from _through(layers[1:], piece)

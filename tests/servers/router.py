"""A router that loses answers: `python -m tests.servers.router PORT UPSTREAM_PORT FAULT [--times N] [--tool NAME]`.

It forwards every request to the upstream and streams the response back unchanged. Only the first N responses to
`tools/call` (default: all; with `--tool`, only those of that tool) are replaced by FAULT, and not before the upstream
has sent the whole response: the tool has run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import socket
import struct
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from .lifeline import die_with_the_test

FAULTS = ("429", "500", "502", "503", "503-retry-after", "504", "reset", "cut")


class Router:
    """Forwards each request on its own connection, so that a response ends with its connection.

    Args:
        upstream: The port of the upstream.
        fault: What the client gets instead of the response.
        times: How many responses are lost.
        tool: The tool whose responses are lost; None for every tool.
    """

    def __init__(self, upstream: int, fault: str, times: float, tool: str | None) -> None:
        self._upstream = upstream
        self._fault = fault
        self._left = times
        self._tool = tool

    async def serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Serve one connection with its one request."""
        with suppress(OSError, asyncio.IncompleteReadError):
            request, body = await _read_request(client)
            upstream, forward = await asyncio.open_connection("127.0.0.1", self._upstream)
            try:
                forward.write(request + body)
                if self._loses(body):
                    answer = await upstream.read()
                    if b"\r\n\r\n" in answer:  # else the upstream died, and the tool may not have run
                        self._fail(back, answer.partition(b"\r\n\r\n")[2])
                else:
                    await _stream(upstream, client, back)
            finally:
                forward.close()
        back.close()

    def _loses(self, body: bytes) -> bool:
        message: Any = json.loads(body) if body else {}
        if self._left < 1 or message.get("method") != "tools/call":
            return False
        if self._tool not in (None, message["params"]["name"]):
            return False
        self._left -= 1
        return True

    def _fail(self, back: asyncio.StreamWriter, lost: bytes) -> None:
        if self._fault == "reset":
            linger = struct.pack("ii", 1, 0)
            back.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            back.transport.abort()
        elif self._fault == "cut":
            back.write(_head(200, "application/json", len(lost)) + lost[: len(lost) // 2])
        else:
            status, _, more = self._fault.partition("-")
            page = f"<html><h1>{status} {HTTPStatus(int(status)).phrase}</h1></html>".encode()
            header = "retry-after: 0\r\n" if more else ""
            back.write(_head(int(status), "text/html", len(page), header) + page)


async def _read_request(client: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The head of a request, rewritten to close the connection after the response, and its body."""
    head = await client.readuntil(b"\r\n\r\n")
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    headers = [line for line in lines if not line.lower().startswith(b"connection:")]
    lengths = [line.partition(b":")[2] for line in headers if line.lower().startswith(b"content-length:")]
    body = await client.readexactly(int(lengths[0])) if lengths else b""
    return b"\r\n".join([first, *headers, b"connection: close", b"", b""]), body


async def _stream(upstream: asyncio.StreamReader, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
    """Forward the response as it arrives, until it ends or the client disconnects."""

    async def pump() -> None:
        while chunk := await upstream.read(65536):
            back.write(chunk)
            await back.drain()

    tasks = {asyncio.create_task(pump()), asyncio.create_task(client.read())}
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _head(status: int, content_type: str, length: int, header: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{header}"
        f"content-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    ).encode()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("upstream", type=int)
    parser.add_argument("fault", choices=FAULTS)
    parser.add_argument("--times", type=int, default=math.inf)
    parser.add_argument("--tool")
    arguments = parser.parse_args()
    die_with_the_test()
    router = Router(arguments.upstream, arguments.fault, arguments.times, arguments.tool)
    server = await asyncio.start_server(router.serve, "127.0.0.1", arguments.port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

"""A Streamable HTTP server without the SDK: `python -m tests.benchmarks.raw_http_server json|sse 2025|2026`.

It answers as fast as Python allows, so that measurements show the client. It prints its URL, serves the tool `echo`
on 127.0.0.1, and exits when stdin closes.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from typing import Any

_INFO = {"name": "raw", "version": "1"}
_TOOLS = [{"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}]
_MODERN = {"ttlMs": 0, "cacheScope": "private", "resultType": "complete"}


def _result(method: str, params: dict[str, Any], *, modern: bool) -> dict[str, Any] | None:
    result: dict[str, Any] | None = None
    if method == "tools/call":
        content = [{"type": "text", "text": params["arguments"]["text"]}]
        return {"content": content, "resultType": "complete"} if modern else {"content": content}
    if method == "tools/list":
        result = {"tools": _TOOLS}
    elif modern and method == "server/discover":
        meta = {"io.modelcontextprotocol/serverInfo": _INFO}
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "_meta": meta}
    elif not modern and method == "initialize":
        version = min(params["protocolVersion"], "2025-11-25")
        return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": _INFO}
    elif not modern and method == "ping":
        return {}
    return None if result is None else {**result, **_MODERN} if modern else result


def _answer(body: bytes, kind: str, *, modern: bool) -> bytes:
    message = json.loads(body)
    if "id" not in message or "method" not in message:
        return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
    answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
    result = _result(message["method"], message.get("params") or {}, modern=modern)
    answer |= {"error": {"code": -32601, "message": "Method not found"}} if result is None else {"result": result}
    session = b"mcp-session-id: one\r\n" if message["method"] == "initialize" else b""
    data = json.dumps(answer).encode()
    if kind == "json":
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n"
        return head % (session, len(data)) + data
    data = b"event: message\r\ndata: " + data + b"\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%stransfer-encoding: chunked\r\n\r\n"
    return head % session + b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


async def _serve(kind: str, era: str) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                _, found, rest = head.partition(b"content-length:")
                body = await reader.readexactly(int(rest.split(b"\r\n", 1)[0])) if found else b""
                if head.startswith(b"post"):
                    writer.write(_answer(body, kind, modern=era == "2026"))
                else:
                    writer.write(b"HTTP/1.1 405 Not Allowed\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", flush=True)
    await server.serve_forever()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    asyncio.run(_serve(sys.argv[1], sys.argv[2]))

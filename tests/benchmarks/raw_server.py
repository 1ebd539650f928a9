"""A stdio server without the SDK: `python -m tests.benchmarks.raw_server [--tools N]`.

It starts and answers as fast as Python allows, so that measurements show the client. Tools: `echo`, `big` (a
one-line result of `size` bytes) and `pid`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from itertools import repeat
from typing import Any

_KNOWN = {"initialize", "tools/list", "tools/call", "ping"}
_METHOD_NOT_FOUND = -32601
_BLOCK = b"x" * 65536
_WORDS = "Does one thing, and says in a sentence or two what a model needs to know of it."
_PROPERTY = {"type": "string", "description": "One of its arguments."}
_SCHEMA = {"type": "object", "properties": {"text": _PROPERTY, "other": _PROPERTY}}
_TOOL = {"inputSchema": _SCHEMA, "annotations": {"readOnlyHint": True}}


def _text(name: str, arguments: dict[str, Any]) -> Iterator[bytes]:
    """The answer of a tool, as JSON. `big` allocates almost nothing, so that measurements show the client."""
    if name == "big":
        blocks, rest = divmod(arguments["size"], len(_BLOCK))
        yield b'"'
        yield from repeat(_BLOCK, blocks)
        yield _BLOCK[:rest] + b'"'
    else:
        yield json.dumps(str(os.getpid()) if name == "pid" else arguments["text"]).encode()


def _result(method: str, params: dict[str, Any], tools: int) -> Iterator[bytes]:
    if method == "tools/call":
        yield b'{"content":[{"type":"text","text":'
        yield from _text(params["name"], params.get("arguments") or {})
        yield b"}]}"
        return
    result: dict[str, Any] = {}
    if method == "initialize":
        result["protocolVersion"] = params["protocolVersion"]
        result["capabilities"] = {"tools": {}}
        result["serverInfo"] = {"name": "raw", "version": "1"}
    elif method == "tools/list":
        names = [*("echo", "big", "pid"), *(f"tool-{n}" for n in range(tools - 3))]
        result["tools"] = [{"name": name, "description": _WORDS, **_TOOL} for name in names]
    yield json.dumps(result).encode()


def main() -> None:
    """Answer line by line until stdin closes."""
    tools = int(sys.argv[2]) if sys.argv[1:2] == ["--tools"] else 3
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        message = json.loads(line)
        if "id" not in message or "method" not in message:
            continue
        out.write(b'{"jsonrpc":"2.0","id":%s,' % json.dumps(message["id"]).encode())
        if message["method"] in _KNOWN:
            out.write(b'"result":')
            out.writelines(_result(message["method"], message.get("params") or {}, tools))
        else:  # including `server/discover`: the client falls back to `initialize`
            out.write(b'"error":{"code":%d,"message":"Method not found"}' % _METHOD_NOT_FOUND)
        out.write(b"}\n")
        out.flush()


if __name__ == "__main__":
    main()

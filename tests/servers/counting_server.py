"""A server that counts: it records each key it receives and each it executes, and crashes if the key's fate says so.

`python -m tests.servers.counting_server raw|stdio|http [PORT] --journal FILE --seed N`; `raw` is plain Python and
starts instantly; the others are servers of the installed SDK. What happens to a key depends on the seed, the key and
how often it has arrived, so that a run can be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from .lifeline import die_with_the_test

# The tool with `readOnlyHint` and the one without; each executes its key and answers with it.
REPEATABLE, ONCE = "echo", "unsafe"

# The text of an `isError` result for a key that was executed nevertheless.
BUSY = "temporarily unavailable"

# A key that arrives more often than this is answered normally, so that every repeatable call can succeed.
FAULTY_ARRIVALS = 3

RAW_FATES = {
    "die before": 0.02,
    "die after": 0.02,
    "torn answer": 0.01,
    "answer and die": 0.02,
    "mute before": 0.002,
    "mute after": 0.002,
    "garbage": 0.02,
    "bad answer": 0.02,
    "error before": 0.02,
    "error after": 0.02,
    "busy": 0.02,
    "refused": 0.02,
}
SDK_FATES = {"busy": 0.04}
# SDK servers start slowly, so the number of crashes is fixed: one at the first arrival of each of these keys.
SDK_DEATHS = {7: "die before", 32: "die after", 57: "die before", 82: "die after"}
# Final by design, and therefore only for keys of `ONCE`.
ONLY_ONCE = {"bad answer", "refused"}


def fate(seed: int, key: str, arrival: int, fates: Mapping[str, float]) -> str:
    """What happens to `key` on its nth arrival."""
    chance = random.Random(f"{seed}/{key}/{arrival}").random()
    for name, share in fates.items():
        chance -= share
        if chance < 0:
            final = name in ONLY_ONCE and key.startswith(REPEATABLE)
            return "answer" if final or arrival > FAULTY_ARRIVALS else name
    return "answer"


class Journal:
    """One line per event, written before anything else happens; a new process reads what earlier ones wrote."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._seen = Counter(path.read_text().splitlines())

    def note(self, word: str, key: str) -> int:
        """Write `word key`, and return how many times it has been written."""
        line = f"{word} {key}"
        os.write(self._file, line.encode() + b"\n")
        self._seen[line] += 1
        return self._seen[line]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write(message: dict) -> None:
    sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    sys.stdout.buffer.flush()


def text_result(text: str, *, is_error: bool = False) -> dict:
    return {"content": [{"type": "text", "text": text}], "isError": is_error}


class RawServer:
    """A server in plain Python on stdin and stdout, up to 2025-11-25.

    Args:
        journal: Records what it does.
        seed: The seed of the fates.
        fates: What may happen to a key, and its probability.
    """

    capabilities: ClassVar[dict[str, Any]] = {"tools": {}}
    tools: ClassVar[list[dict[str, Any]]] = [
        {"name": REPEATABLE, "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
        {"name": ONCE, "inputSchema": {"type": "object"}},
    ]

    def __init__(self, journal: Journal, seed: int, fates: Mapping[str, float] = RAW_FATES) -> None:
        self.journal = journal
        self.seed = seed
        self.fates = fates

    def run(self) -> None:
        """Serve until stdin ends."""
        start = self.journal.note("started", "")
        dies_young = start > 1 and random.Random(f"{self.seed}/start/{start}").random() < 0.05
        for line in sys.stdin.buffer:
            message = json.loads(line)
            method, request_id, params = message.get("method"), message.get("id"), message.get("params", {})
            if request_id is None or method is None:
                continue
            if method == "tools/call" and params["name"] in (REPEATABLE, ONCE):
                self.count(request_id, params["arguments"]["text"])
                continue
            result = self.result(method, params)
            if result is None:
                write({"id": request_id, "error": {"code": -32601, "message": "Method not found"}})
            else:
                write({"id": request_id, "result": result})
            if method == "initialize" and dies_young:
                die()

    def result(self, method: str, params: dict) -> dict | None:
        """The result of one request, or None for an unknown method."""
        if method == "initialize":
            info = {"name": "counting", "version": "1"}
            version = params["protocolVersion"]
            return {"protocolVersion": version, "capabilities": self.capabilities, "serverInfo": info}
        if method == "tools/list":
            return {"tools": self.tools}
        return {} if method == "ping" else None

    def text(self, key: str) -> str:
        """The answer to an executed `key`."""
        return key

    def count(self, request_id: object, key: str) -> None:
        """Handle `key` according to its fate."""
        happens = fate(self.seed, key, self.journal.note("received", key), self.fates)
        failure = {"id": request_id, "error": {"code": -32603, "message": "out of order"}}
        if happens == "die before":
            die()
        elif happens == "mute before":
            return
        elif happens == "error before":
            write(failure)
            return
        elif happens == "refused":
            write({"id": request_id, "error": {"code": -32602, "message": "no such key"}})
            return
        self.journal.note("ran", key)
        answer = {"id": request_id, "result": text_result(self.text(key))}
        if happens == "die after":
            die()
        elif happens == "mute after":
            return
        elif happens == "error after":
            write(failure)
        elif happens == "busy":
            write({"id": request_id, "result": text_result(BUSY, is_error=True)})
        elif happens == "torn answer":
            sys.stdout.buffer.write(json.dumps({"jsonrpc": "2.0", **answer}).encode()[:30])
            sys.stdout.buffer.flush()
            die()
        elif happens == "bad answer":
            write({"id": request_id, "result": 7})
        else:
            if happens == "garbage":
                sys.stdout.buffer.write(b"Working...\n[1]\n50% ")
            write(answer)
            if happens == "answer and die":
                die()


def execute(journal: Journal, key: str, happens: str) -> Any:
    """Execute `key` on an SDK server according to its fate, and return the tool's result."""
    from mcp.types import CallToolResult

    if happens == "die before":
        die()
    journal.note("ran", key)
    if happens == "die after":
        die()
    busy = happens == "busy"
    return CallToolResult.model_validate(text_result(BUSY if busy else key, is_error=busy))


def add_tools(server: Any, count: Callable[[str], Awaitable[Any]]) -> None:
    """Add both tools to an SDK server; `count` executes a key."""
    from mcp.types import ToolAnnotations

    hints = ToolAnnotations.model_validate({"readOnlyHint": True})

    @server.tool(name=REPEATABLE, annotations=hints, structured_output=False)
    async def echo(text: str, ballast: str = "") -> Any:
        return await count(text)

    @server.tool(name=ONCE, structured_output=False)
    async def unsafe(text: str, ballast: str = "") -> Any:
        return await count(text)


def sdk(journal: Journal, seed: int, transport: str, port: int) -> None:
    from . import lean  # noqa: F401 - must precede the SDK

    # isort: split
    try:
        from mcp.server.mcpserver import MCPServer
    except ImportError:
        from mcp.server.fastmcp import FastMCP as MCPServer

    journal.note("started", "")
    server = MCPServer("counting", log_level="CRITICAL")

    async def count(key: str) -> Any:
        arrival = journal.note("received", key)
        happens = fate(seed, key, arrival, SDK_FATES)
        if arrival == 1:
            happens = SDK_DEATHS.get(int(key.split("-")[1]), happens)
        return execute(journal, key, happens)

    add_tools(server, count)
    if transport == "stdio":
        server.run("stdio")
        return
    import uvicorn

    die_with_the_test()
    uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=port, log_level="critical")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=["raw", "stdio", "http"])
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    arguments = parser.parse_args()
    journal = Journal(arguments.journal)
    if arguments.transport == "raw":
        RawServer(journal, arguments.seed).run()
    else:
        sdk(journal, arguments.seed, arguments.transport, arguments.port)


if __name__ == "__main__":
    main()

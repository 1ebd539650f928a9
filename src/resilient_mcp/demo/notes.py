"""A stdio server with two notes that change, for the examples: `python -m resilient_mcp.demo.notes`.

It implements JSON-RPC and `resources/subscribe` itself, so it behaves the same with every version of mcp. It ends when
its stdin closes.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from itertools import count
from typing import Any

from .processes import NOTES

# Seconds between changes.
_EVERY = 0.2
_NOT_FOUND = {"code": -32601, "message": "Method not found"}


class Server:
    """The state of one server process."""

    def __init__(self) -> None:
        self._revisions = dict.fromkeys(NOTES, 1)
        self._subscribed: set[str] = set()
        self._lock = threading.Lock()

    def answer(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """The result of one request; None if the method, or the resource to read, is unknown."""
        uri = params.get("uri", "")
        if method == "initialize":
            info = {"name": "notes", "version": "1"}
            capabilities = {"resources": {"subscribe": True}}
            return {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}
        if method == "resources/list":
            return {"resources": [{"uri": uri, "name": uri} for uri in NOTES]}
        if method == "resources/read" and uri in self._revisions:
            text = f"revision {self._revisions[uri]} (from process {os.getpid()})"
            return {"contents": [{"uri": uri, "text": text}]}
        if method == "resources/subscribe":
            self._subscribed.add(uri)
        elif method == "resources/unsubscribe":
            self._subscribed.discard(uri)
        elif method != "ping":
            return None
        return {}

    def change(self) -> None:
        """Change the notes in turn, forever, and notify the client if it is subscribed."""
        for n in count():
            time.sleep(_EVERY)
            uri = NOTES[n % len(NOTES)]
            self._revisions[uri] += 1
            if uri in self._subscribed:
                self.send({"method": "notifications/resources/updated", "params": {"uri": uri}})

    def send(self, message: dict[str, Any]) -> None:
        """Write one message."""
        with self._lock:
            print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)  # noqa: T201 - this is the wire


def main() -> None:
    """Answer requests until stdin closes."""
    server = Server()
    threading.Thread(target=server.change, daemon=True).start()
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message and "method" in message:
            result = server.answer(message["method"], message.get("params") or {})
            answer = {"error": _NOT_FOUND} if result is None else {"result": result}
            server.send({"id": message["id"], **answer})


if __name__ == "__main__":
    main()

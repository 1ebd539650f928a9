"""A stdio server in plain Python that asks its client and talks to it: `python -m tests.servers.asking_server`.

It speaks up to 2025-11-25, and reads on while it waits for an answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any

TOOLS = ["echo", "ask", "tell", "progress", "say", "fail", "hold", "release"]

held: list[Any] = []
asked: dict[str, Any] = {}  # the id of a request to the client -> that of the call which made it


def write(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(request_id: Any, text: str, **facts: Any) -> None:
    write({"id": request_id, "result": {"content": [{"type": "text", "text": text}], **facts}})


def call(request_id: Any, tool: str, arguments: dict[str, Any], meta: dict[str, Any]) -> None:
    if tool == "ask":  # sends a request, and answers with the client's response to it
        asked[f"ask-{request_id}"] = request_id
        write({"id": f"ask-{request_id}", **arguments})
        return
    if tool == "hold":  # is answered by `release`
        held.append(request_id)
        return
    if tool == "tell":
        write(arguments)
    elif tool == "progress":
        write({"method": "notifications/progress", "params": {"progressToken": meta["progressToken"], "progress": 1}})
    elif tool == "say":
        print("something on stderr", file=sys.stderr, flush=True)
    elif tool == "release":
        while held:
            answer(held.pop(), "held")
    answer(request_id, arguments.get("text", "done"), isError=tool == "fail")


def main() -> None:
    for line in sys.stdin:
        message = json.loads(line)
        method, request_id, params = message.get("method"), message.get("id"), message.get("params") or {}
        if method == "initialize":
            info = {"name": "asking", "version": "1"}
            facts = {"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}, "logging": {}}}
            write({"id": request_id, "result": {**facts, "serverInfo": info}})
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
            write({"id": request_id, "result": {"tools": tools}})
        elif method == "tools/call":
            call(request_id, params["name"], params.get("arguments") or {}, params.get("_meta") or {})
        elif method is None and request_id in asked:
            answer(asked.pop(request_id), json.dumps(message.get("result") or message.get("error")))
        elif method is not None and request_id is not None:
            write({"id": request_id, "result": {}})


if __name__ == "__main__":
    main()

"""A stdio server that repeats its secrets wherever it can: `python -m tests.servers.leaky_server ARGS`.

It repeats its arguments and every environment variable whose name begins with `CANARY`.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from . import raw_server

LEAK = " | ".join([*sys.argv[1:], *(value for name, value in os.environ.items() if name.startswith("CANARY"))])
plain = raw_server.call


def call(request_id: object, tool: str, arguments: dict[str, Any]) -> None:
    text = "x" * arguments.get("pad", 0) + LEAK
    data = {"issues": [{"path": ["a", LEAK], "message": LEAK}], "hint": LEAK, LEAK: LEAK}
    if tool == "error":
        raw_server.write({"id": request_id, "error": {"code": arguments["code"], "message": text, "data": data}})
    elif tool == "refuse":
        content = [{"type": "text", "text": f"try again in 0.01 seconds: {text}"}]
        raw_server.write({"id": request_id, "result": {"content": content, "isError": True}})
    elif tool == "misshapen":
        raw_server.write({"id": request_id, "result": {"content": text}})
    elif tool == "garbage":
        raw_server.raw(text.encode() + b"\n")
        raw_server.answer(request_id, text)
    elif tool == "unusable":
        raw_server.raw(b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (request_id, json.dumps(text).encode()))
    elif tool == "crash":
        sys.stderr.write(f"{json.dumps(text)}\n{text}\n{text!r}\n" * arguments.get("times", 1))
        sys.stderr.flush()
        os._exit(5)
    else:
        plain(request_id, tool, arguments)


if __name__ == "__main__":
    raw_server.call = call
    if "--crash-at-start" in sys.argv:
        call(0, "crash", {})
    raw_server.main()

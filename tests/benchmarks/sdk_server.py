"""A server made with the SDK: `python -m tests.benchmarks.sdk_server stdio|json|sse`.

`json` and `sse` serve Streamable HTTP on a free port of 127.0.0.1, print the URL, and exit when stdin closes.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from tests.benchmarks._plain import http_app, sdk_server


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def _serve_http(*, json_answers: bool) -> None:
    import uvicorn  # not needed by the stdio server

    # Without the protocol number asyncio does not set TCP_NODELAY, and each answer waits 40 ms for an ACK.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
        threading.Thread(target=_end_with_stdin, daemon=True).start()
        app = http_app(sdk_server(), json_answers=json_answers)
        uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False)).run(sockets=[listening])


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        sdk_server().run()
    else:
        _serve_http(json_answers=sys.argv[1] == "json")

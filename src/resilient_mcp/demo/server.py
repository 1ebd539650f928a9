"""The server for the demo and the examples: three tools, over stdio or Streamable HTTP, with faults on demand.

    python -m resilient_mcp.demo.server [--orders FILE]
    python -m resilient_mcp.demo.server --http [--port N] [--orders FILE]

With `--http` it listens on 127.0.0.1 only and prints its URL. It ends when stdin closes, so it never outlives the
process that started it; a line `overload SECONDS` on stdin makes it refuse calls for that long.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from mcp.types import ToolAnnotations

from .._sdk.installed import HighLevelServer

RETRY_AFTER = 1
"""Seconds that a refused client is asked to wait."""


def forecast_for(city: str) -> str:
    """The answer of the tool `forecast`: always the same for a city, so that answers can be checked."""
    return f"{city}: {sum(map(ord, city)) % 25 + 5} degrees"


def create_server(orders: Path | None = None) -> Any:
    """An SDK server with three tools.

    Args:
        orders: The file that `place_order` appends to; None to write nothing.
    """
    server = HighLevelServer("demo", log_level="CRITICAL")
    read_only = ToolAnnotations.model_validate({"readOnlyHint": True})

    @server.tool(annotations=read_only)  # type: ignore[untyped-decorator]
    async def forecast(city: str, seconds: float = 0) -> str:
        """Tomorrow's weather; takes `seconds` to answer."""
        await anyio.sleep(seconds)
        return forecast_for(city)

    @server.tool(annotations=read_only)  # type: ignore[untyped-decorator]
    def pid() -> str:
        """The process id of this server, for callers that want to kill it."""
        return str(os.getpid())

    @server.tool()  # type: ignore[untyped-decorator]
    def place_order(item: str) -> str:
        """Record the order, then exit before answering."""
        if orders is not None:
            with orders.open("a", encoding="utf-8") as file:
                file.write(f"{item}\n")
        os._exit(1)

    return server


class Overload:
    """ASGI middleware that answers 503 for a while after `begin()`.

    Args:
        app: The app behind it.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._seconds = 0.0
        self._until = 0.0

    def begin(self, seconds: float) -> None:
        """Refuse every POST for `seconds`, counted from the next POST, so that at least one is refused."""
        self._seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http" or scope["method"] != "POST" or not self._refuses(time.monotonic()):
            await self._app(scope, receive, send)
            return
        headers = [(b"retry-after", str(RETRY_AFTER).encode()), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"overloaded"})

    def _refuses(self, now: float) -> bool:
        if self._seconds:
            self._until, self._seconds = now + self._seconds, 0.0
        return now < self._until


def serve_http(server: Any, port: int) -> None:
    """Serve on 127.0.0.1 until stdin closes; `port` 0 picks a free port."""
    import uvicorn  # noqa: PLC0415 - the stdio mode does not need it

    listener = socket.socket()
    # A restarted server must be able to bind the port of one that was killed a moment ago.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    app = Overload(server.streamable_http_app())
    threading.Thread(target=_obey, args=[app], daemon=True).start()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)  # noqa: T201
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


def _obey(app: Overload) -> None:
    """Obey the lines on stdin and exit when it closes. Runs in a thread, so a blocked event loop does not matter."""
    for line in sys.stdin:
        _, _, seconds = line.partition("overload ")
        app.begin(float(seconds))
        print("ok", flush=True)  # noqa: T201
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the server with `arguments`; by default those of the process."""
    summary, _, usage = (__doc__ or "").partition("\n\n")
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=summary, epilog=usage, formatter_class=formatter)
    parser.add_argument("--http", action="store_true", help="Streamable HTTP on 127.0.0.1 instead of stdio")
    parser.add_argument("--port", type=int, default=0, help="the port for --http (default: a free one)")
    parser.add_argument("--orders", type=Path, help="the file that place_order appends to")
    options = parser.parse_args(arguments)
    server = create_server(options.orders)
    if options.http:
        serve_http(server, options.port)
    else:
        server.run("stdio")


if __name__ == "__main__":
    main()

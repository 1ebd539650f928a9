"""A server of the installed SDK: `python -m tests.servers.sdk_server stdio` or `http PORT`.

It appends one line per `initialize` and `server/discover` to the `--journal` file, so that a test can count those
that really reached it. It exits when its stdin closes, and so ends with its test.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio

from . import lean  # noqa: F401 - must precede the SDK

# isort: split
try:
    from mcp.server.mcpserver import Context, MCPServer
except ImportError:
    from mcp.server.fastmcp import Context
    from mcp.server.fastmcp import FastMCP as MCPServer

from mcp.types import ToolAnnotations

from .lifeline import die_with_the_test

parser = argparse.ArgumentParser()
parser.add_argument("transport", choices=["stdio", "http", "sse"])
parser.add_argument("port", type=int, nargs="?", default=0)
parser.add_argument("--journal", type=Path)
parser.add_argument("--json", action="store_true", help="answer with JSON instead of server-sent events")
parser.add_argument("--resumable", action="store_true")
parser.add_argument("--stateless", action="store_true", help="no sessions")


def build() -> MCPServer:
    server = MCPServer("test server", log_level="ERROR")
    idempotent = ToolAnnotations.model_validate({"idempotentHint": True})
    read_only = ToolAnnotations.model_validate({"readOnlyHint": True})

    @server.tool(annotations=read_only, structured_output=False)
    def echo(text: str) -> str:
        return text

    @server.tool(annotations=read_only)
    def pid() -> int:
        return os.getpid()

    @server.tool(annotations=read_only)
    async def sleep(seconds: float) -> str:
        await anyio.sleep(seconds)
        return "slept"

    @server.tool(annotations=read_only)
    async def steps(count: int, pause: float, ctx: Context) -> str:
        for step in range(count):
            await anyio.sleep(pause)
            await ctx.report_progress(step + 1, count)
        return "done"

    def append_then_die(path: str, lives: int) -> str:
        with Path(path).open("a") as file:
            file.write("ran\n")
        if len(Path(path).read_text().splitlines()) < lives:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"answered by {os.getpid()}"

    @server.tool()
    def append_once(path: str, lives: int) -> str:
        return append_then_die(path, lives)

    @server.tool(annotations=idempotent)
    def append_idempotent(path: str, lives: int) -> str:
        return append_then_die(path, lives)

    @server.tool(annotations=idempotent, structured_output=False)
    async def append_slowly(path: str, seconds: float) -> str:
        with Path(path).open("a") as file:
            file.write("ran\n")
        await anyio.sleep(seconds)
        return "slept"

    @server.tool()
    def fail(text: str) -> str:
        raise ValueError(text)

    @server.tool(annotations=read_only)
    def environment(name: str) -> str:
        return os.environ.get(name, "")

    @server.tool(annotations=read_only)
    async def count_roots(ctx: Context) -> str:
        return str(len((await ctx.session.list_roots()).roots))

    @server.resource("test://greeting")
    def greeting() -> str:
        return "hello"

    @server.prompt()
    def ask(topic: str) -> str:
        return f"What is {topic}?"

    return server


class Journal:
    """Records the handshake requests that reach an HTTP server."""

    def __init__(self, app: Any, path: Path | None) -> None:
        self.app = app
        self.path = path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or self.path is None:
            await self.app(scope, receive, send)
            return
        message = await receive()
        body = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        method = json.loads(body).get("method")
        if method in ("initialize", "server/discover"):
            with self.path.open("a") as file:
                file.write(method + "\n")
        replayed = False

        async def again() -> Any:
            nonlocal replayed
            if not replayed:
                replayed = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        await self.app(scope, again, send)


def http_app(server: MCPServer, arguments: argparse.Namespace) -> Any:
    if arguments.transport == "sse":
        return server.sse_app()
    try:
        return server.streamable_http_app(json_response=arguments.json, stateless_http=arguments.stateless)
    except TypeError:
        server.settings.json_response = arguments.json
        server.settings.stateless_http = arguments.stateless
        return server.streamable_http_app()


def main() -> None:
    arguments = parser.parse_args()
    server = build()
    if arguments.transport == "stdio":
        server.run("stdio")
        return
    import uvicorn

    die_with_the_test()
    app = Journal(http_app(server, arguments), arguments.journal)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()

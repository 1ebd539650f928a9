"""A server over stdio on the SDK that records in a journal what reaches it. It ends when its stdin closes."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import anyio
from mcp.types import ToolAnnotations

from resilient_mcp._sdk.installed import HighLevelServer
from resilient_mcp.demo.server import forecast_for

journal = Path(sys.argv[1])


def note(line: str) -> None:
    with journal.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def listen_in() -> None:
    """Record each cancellation as it arrives on stdin, because the server's exit cancels a tool too."""
    wire = os.dup(0)
    read, write = os.pipe()
    os.dup2(read, 0)
    os.close(read)

    def copy() -> None:
        with open(wire, "rb") as source, open(write, "wb", buffering=0) as copied:
            for line in source:
                if b'"notifications/cancelled"' in line:
                    note("cancel received")
                copied.write(line)

    threading.Thread(target=copy, daemon=True).start()


def main() -> None:
    server = HighLevelServer("test server", log_level="CRITICAL")
    read_only = ToolAnnotations.model_validate({"readOnlyHint": True})

    @server.tool(annotations=read_only)
    def pid() -> str:
        """The process id of this server."""
        note("pid")
        return str(os.getpid())

    @server.tool(annotations=read_only)
    def forecast(city: str) -> str:
        """Tomorrow's weather."""
        note("forecast")
        return forecast_for(city)

    @server.tool()
    def place_order(item: str) -> str:
        """Dies in the call, after it has taken the order."""
        note(f"ordered {item}")
        os._exit(1)

    @server.tool(annotations=read_only)
    async def slow() -> str:
        """Never answers."""
        note("slow began")
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            note("slow was cancelled")
            raise
        return ""

    listen_in()
    server.run("stdio")


if __name__ == "__main__":
    main()

"""The demo servers as separate processes: parameters for stdio, and an HTTP server that can be restarted.

An `HttpServer` ends with the process that started it, however that process ends: it reads a pipe that closes then.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread
from mcp import StdioServerParameters
from typing_extensions import Self

_MODULE = "resilient_mcp.demo.server"
_NOTES_MODULE = "resilient_mcp.demo.notes"
NOTES = ("notes://shopping", "notes://travel")
"""The resources of `notes_server()`."""


def stdio_server(orders: Path | None = None) -> StdioServerParameters:
    """The demo server over stdio.

    Args:
        orders: The file that its tool `place_order` appends to; None to write nothing.
    """
    return StdioServerParameters(command=sys.executable, args=["-m", _MODULE, *_orders(orders)])


def notes_server() -> StdioServerParameters:
    """A stdio server with two notes that change."""
    return StdioServerParameters(command=sys.executable, args=["-m", _NOTES_MODULE])


class HttpServer:
    """The demo server over Streamable HTTP on 127.0.0.1, in its own process; an async context manager.

    Args:
        orders: The file that its tool `place_order` appends to; None to write nothing.

    Attributes:
        url: Its URL; set when the context is entered.
    """

    url: str

    def __init__(self, orders: Path | None = None) -> None:
        self._orders = orders
        self._process: subprocess.Popen[str] | None = None

    async def __aenter__(self) -> Self:
        _bypass_proxies()
        try:
            await anyio.to_thread.run_sync(self._start, 0)
        except BaseException:  # a cancelled start may have left a process behind
            self.stop()
            raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill the process; `restart` starts it again."""
        if self._process is not None:
            self._process.kill()
            with self._process:  # closes the pipes and waits
                pass
            self._process = None

    async def restart(self) -> None:
        """Kill the process and start a new one on the same port, which does not know the old one's sessions."""
        port = int(self.url.rpartition(":")[2].partition("/")[0])
        self.stop()
        await anyio.to_thread.run_sync(self._start, port)

    async def overload(self, seconds: float) -> None:
        """Make the server answer 503 with `Retry-After: 1` for `seconds`, counted from the next POST."""
        await anyio.to_thread.run_sync(self._tell, f"overload {seconds}\n")

    def _start(self, port: int) -> None:
        # In its own session, so that Ctrl-C reaches only the owning process, whose end then ends this one.
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", _MODULE, "--http", f"--port={port}", *_orders(self._orders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.url = self._read()

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        self._read()

    def _read(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"the demo server exited: run `{sys.executable} -m {_MODULE} --http` to see why")
        return line


def _orders(orders: Path | None) -> list[str]:
    return [] if orders is None else [f"--orders={orders}"]


def _bypass_proxies() -> None:
    """Exclude 127.0.0.1 from proxies set in the environment: they cannot reach this machine's loopback address."""
    for name in ("no_proxy", "NO_PROXY"):
        hosts = os.environ.get(name, "")
        if "127.0.0.1" not in hosts:
            os.environ[name] = f"{hosts},127.0.0.1".lstrip(",")

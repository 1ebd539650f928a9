"""`resilient-mcp wrap`: an MCP server on stdin and stdout, in front of a real one.

Only protocol messages reach stdout, whatever else this process prints. It ends when stdin closes, on Ctrl-C and on
SIGTERM, and stops the real server when it ends.
"""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from mcp import StdioServerParameters

from .._sdk.installed import INVALID_REQUEST, PARSE_ERROR, StreamableHttpParameters
from ..bridge import Bridge
from ..client import ResilientClient
from ..config import expand
from ..event_loop import Signal
from ..text.printable import printable
from ..transports.framing import LineFramer, Oversize
from ..verdicts.remedies import Wording
from .narrate import narrate
from .policies import policy_of
from .run import run as run_until_signalled

_CHUNK = 256 * 1024
# Bytes queued for a host that reads slowly; beyond that, messages wait in the bridge.
_MAX_QUEUED = 8 * 1024 * 1024
# Seconds allowed for the last messages to be written.
_FLUSH = 2.0


def run(client: ResilientClient) -> int:
    """Serve `client` on stdin and stdout until stdin closes, and return the command's exit status."""
    logging.basicConfig(stream=sys.stderr, level=logging.ERROR, format="resilient-mcp: %(message)s")
    host = HostPipe(os.dup(0), os.dup(1), max_bytes=client.policy.max_message_bytes)
    os.dup2(2, 1)  # anything printed by other code goes to stderr, not into the protocol
    status = run_until_signalled(_run(client, host))
    if host.blocked:  # a thread blocked in read() would keep the process alive
        sys.stderr.flush()
        os._exit(status)
    return status


async def _run(client: ResilientClient, host: HostPipe) -> int:
    async with anyio.create_task_group() as tg:
        tg.start_soon(host.flush)
        serving = anyio.CancelScope()
        host.on_gone = serving.cancel
        with serving:
            await Bridge(client, host).serve(host.messages())
        with anyio.move_on_after(_FLUSH):
            await host.flushed()
        tg.cancel_scope.cancel()
    return 0


def client_of(command: list[str], url: str | None, headers: list[str], policy: dict[str, Any]) -> ResilientClient:
    """The client for the server given on the command line.

    Raises:
        ValueError: No server is given, or two are, or an option is invalid.
    """
    if bool(command) == bool(url):
        raise ValueError("give either a command after '--' or a --url")
    if command and headers:
        raise ValueError("--header has no effect with a command: use it with --url")
    server: Any
    if url is not None:
        known = dict(_header(text) for text in headers)
        server = StreamableHttpParameters(url=_expanded("--url", url), headers=known or None)
    else:
        # The host set this process's environment for the server; by default the SDK passes on only a few variables.
        server = StdioServerParameters(command=command[0], args=command[1:], env=dict(os.environ))
    # The server's stderr is already forwarded to this process's stderr, line by line.
    client = ResilientClient(server, policy=policy_of(policy), on_event=partial(narrate, stderr=False))
    client.reword(Wording("--url" if url is not None else "the command after 'wrap --'", "the credentials in --header"))
    return client


def _header(text: str) -> tuple[str, str]:
    """Split a header into its name and value."""
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        begin = re.split(r"[\s:=]", text, maxsplit=1)[0]  # the rest may be a credential and must not be quoted
        raise ValueError(f"--header {printable(begin)!r} has no colon after its name: write 'Name: value'")
    return name.strip(), _expanded(f"--header {name.strip()!r}", value.strip())


def _expanded(option: str, text: str) -> str:
    try:
        return expand(text)
    except ValueError as exc:
        raise ValueError(f"{option} {exc}") from None


class HostPipe:
    """The host at the other end of two file descriptors: one JSON message per line, both ways.

    Args:
        stdin: The descriptor to read from.
        stdout: The descriptor to write to.
        max_bytes: The longest message accepted, in bytes.

    Attributes:
        on_gone: Called when the host no longer reads.
        blocked: Whether a thread may be blocked in a read forever.
    """

    def __init__(self, stdin: int, stdout: int, *, max_bytes: int) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._framer = LineFramer(max_bytes)
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._wake = Signal()
        self._drained = Signal()
        kind = os.fstat(stdout).st_mode
        # Only pipes and sockets are made non-blocking. The flag belongs to the open file, so on a terminal it would
        # affect the other processes that share it; on a regular file it has no effect.
        self._at_once = os.name == "posix" and (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind))
        if self._at_once:
            os.set_blocking(stdout, False)
        self.blocked = os.name != "posix"
        self.on_gone: Any = None

    # --- in ---

    async def messages(self) -> AsyncGenerator[dict[str, Any], None]:
        """The host's messages, until its pipe closes. Input that is not a message is answered with an error."""
        while chunk := await self._read():
            for line in self._framer.feed(chunk):
                for message in _parse(line):
                    if isinstance(message, dict):
                        yield message
                    else:
                        self.send_nowait(self.encode(message.reply))  # not at all if the host does not read

    async def _read(self) -> bytes:
        if not self.blocked:
            try:
                await anyio.wait_readable(self._stdin)
                return os.read(self._stdin, _CHUNK)
            except OSError:  # a regular file: it cannot be polled
                self.blocked = True
        try:
            return await anyio.to_thread.run_sync(os.read, self._stdin, _CHUNK, abandon_on_cancel=True)
        except OSError:
            return b""

    # --- out ---

    def encode(self, message: dict[str, Any]) -> bytes:
        """One message as a line."""
        return json.dumps(message, separators=(",", ":")).encode() + b"\n"

    def send_nowait(self, item: bytes) -> bool:
        """Send a line: written immediately if nothing is queued and the pipe accepts it, queued otherwise.

        Returns:
            False if too much is queued already; then it is not sent.
        """
        if self._queued > _MAX_QUEUED:
            return False
        data = memoryview(item)
        if self._at_once and not self._queue:
            try:
                data = data[os.write(self._stdout, data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._gone()
                return True
        if data:
            self._queue.append(data)
            self._queued += len(data)
            self._wake.notify()
        return True

    async def send(self, item: bytes) -> None:
        """Send a line; while too much is queued, wait."""
        while not self.send_nowait(item):
            await self._drained.wait()

    async def flush(self) -> None:
        """Write what is queued, until cancelled."""
        while True:
            while self._queue:
                head = self._queue[0]
                try:
                    written = await self._write(head)
                except OSError:
                    self._gone()
                    return
                self._queued -= written
                if written == len(head):
                    self._queue.popleft()
                else:
                    self._queue[0] = head[written:]
            self._drained.notify()
            await self._wake.wait()

    async def _write(self, data: memoryview) -> int:
        if not self._at_once:
            return await anyio.to_thread.run_sync(os.write, self._stdout, data)
        with suppress(BlockingIOError):
            return os.write(self._stdout, data)
        await anyio.wait_writable(self._stdout)
        return 0

    async def flushed(self) -> None:
        """Wait until the queue is empty."""
        while self._queue:
            await self._drained.wait()

    def _gone(self) -> None:
        self._queue.clear()
        self._queued = 0
        self._drained.notify()
        if self.on_gone is not None:
            self.on_gone()


@dataclass(frozen=True, slots=True)
class _Refused:
    """Input that is not a message, with the error to answer."""

    reply: dict[str, Any]


def _parse(line: bytes | Oversize) -> list[dict[str, Any] | _Refused]:
    """The messages in one line: usually one, but 2025-03-26 allows batches."""
    if isinstance(line, Oversize):
        text = f"a message of {line.size} bytes exceeds the limit (max_message_bytes in the policy)"
        return [_refused(line.request_id, INVALID_REQUEST, text)]
    if not line.strip():
        return []
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return [_refused(None, PARSE_ERROR, "Parse error: not JSON")]
    batch = parsed if isinstance(parsed, list) else [parsed]
    no_object = _refused(None, INVALID_REQUEST, "Invalid request: not an object")
    return [item if isinstance(item, dict) else no_object for item in batch]


def _refused(request_id: Any, code: int, text: str) -> _Refused:
    return _Refused({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})

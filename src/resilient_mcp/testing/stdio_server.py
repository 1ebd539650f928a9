"""A scripted MCP server over stdio, in a real process."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
from mcp import StdioServerParameters
from typing_extensions import Self

from ..testing import _protocol
from .replies import HttpReply, Reply
from .script import CALL, Log, Replies, Request, by_method

# Seconds between reads of the journal: processes send no notification of what they received.
_GLANCE = 0.01


class ScriptedStdioServer:
    """A well-behaved server, except where a script says otherwise; an async context manager.

    A script is a list of replies, one per `tools/call`, or a mapping from methods to such lists; the list for "start"
    is what each process does before it reads anything: start slowly, exit, write garbage. A process that replaces
    another continues the script where that one stopped. When a list is used up, the server answers normally: a
    `tools/call` returns its argument `text`.

    Example:
        async with ScriptedStdioServer([StdioReply.exit(3), Reply.ok("hello")]) as server:
            async with ResilientClient(server.parameters) as client:
                await client.call_tool("echo")

    Args:
        replies: The script.
        stubborn: Whether the processes ignore SIGTERM and the end of their stdin; they then exit a minute after stdin
            closes.
        modern: Whether it speaks only 2026-07-28; otherwise it speaks versions up to 2025-11-25.
        tools: Its tools, as sent on the wire.

    Attributes:
        parameters: How to start it; set when the context is entered. Each start is a new process.

    Raises:
        TypeError: A reply can only be sent over HTTP.
    """

    parameters: StdioServerParameters

    def __init__(
        self,
        replies: Replies = (),
        *,
        stubborn: bool = False,
        modern: bool = False,
        tools: Sequence[Mapping[str, Any]] = _protocol.TOOLS,
    ) -> None:
        self._replies = {method: [_as_json(reply) for reply in each] for method, each in by_method(replies).items()}
        self._stubborn = stubborn
        self._known = _protocol.results(tools, modern=modern)

    async def __aenter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="scripted-", ignore_cleanup_errors=True)
        self._script = Path(self._folder.name, "script.json")
        self._journal = Path(self._folder.name, "journal.jsonl")
        self._write()
        program = [str(Path(_protocol.__file__)), str(self._script), str(self._journal)]
        self.parameters = StdioServerParameters(command=sys.executable, args=["-I", "-S", *program])
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    @property
    def requests(self) -> Log:
        """The requests that its processes received; `requests.of("start")` are their starts, each with its `pid`."""
        if not self._journal.exists():
            return Log()
        lines = self._journal.read_text(encoding="utf-8").split("\n")
        return Log(_request(json.loads(line)) for line in lines[:-1])

    def then(self, *replies: Reply, to: str = CALL) -> None:
        """Append replies to the script of a method."""
        self._replies.setdefault(to, []).extend(_as_json(reply) for reply in replies)
        self._write()

    async def received(self, method: str = CALL, count: int = 1) -> Request:
        """Wait for the `count`-th request with this method, whether or not it has been answered."""
        while len(found := self.requests.of(method)) < count:
            await anyio.sleep(_GLANCE)
        return found[count - 1]

    def _write(self) -> None:
        new = self._script.with_suffix(".new")
        script = {"replies": self._replies, "stubborn": self._stubborn, "known": self._known}
        new.write_text(json.dumps(script), encoding="utf-8")
        os.replace(new, self._script)  # noqa: PTH105 - atomic: a process may be reading it


def _as_json(reply: Reply) -> dict[str, Any]:
    if isinstance(reply, HttpReply):
        raise TypeError(f"{reply!r} cannot be sent over stdio")
    data = dataclasses.asdict(reply)
    if "before" in data:
        data["before"] = data["before"].decode("latin-1")
    return data


def _request(entry: dict[str, Any]) -> Request:
    message = entry["message"]
    return Request(message.get("method", "response"), message.get("id"), message.get("params") or {}, {}, entry["pid"])

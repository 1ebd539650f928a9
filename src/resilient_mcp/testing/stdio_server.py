"""An MCP server over stdio, in a real process, that misbehaves by script."""

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

_GLANCE = 0.01
"""Seconds between two looks into the journal: a process announces what reached it to nobody."""


class ScriptedStdioServer:
    """Answers as a good server does, but for what a script says; an async context manager.

    A script is a list of replies, one for each `tools/call`, or a mapping from methods to such lists; the list of
    "start" is for what each process does before it reads anything: start slowly, exit, write garbage. The process that
    takes the place of another goes on in the script where that one ended. When a list is used up, the server answers by
    itself: a `tools/call` with its argument `text`.

    Example:
        async with ScriptedStdioServer([StdioReply.exit(3), Reply.ok("hello")]) as server:
            async with ResilientClient(server.parameters) as client:
                await client.call_tool("echo")

    Args:
        replies: What to do.
        stubborn: Whether the processes ignore SIGTERM and the end of their stdin; they then end after a minute.
        modern: Whether it speaks 2026-07-28 and nothing before it; else up to 2025-11-25.
        tools: Its tools, as they are on the wire.

    Attributes:
        parameters: How to start it, from when it was entered; each start is a process of its own.

    Raises:
        TypeError: A reply can be sent over HTTP alone.
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
        """What has reached its processes: `requests.of("start")` are their starts, each with its `pid`."""
        if not self._journal.exists():
            return Log()
        lines = self._journal.read_text(encoding="utf-8").split("\n")
        return Log(_request(json.loads(line)) for line in lines[:-1])

    def then(self, *replies: Reply, to: str = CALL) -> None:
        """Put replies to a method behind those that are still to come."""
        self._replies.setdefault(to, []).extend(_as_json(reply) for reply in replies)
        self._write()

    async def received(self, method: str = CALL, count: int = 1) -> Request:
        """Wait for the `count`-th request with this method; it need not have been answered."""
        while len(found := self.requests.of(method)) < count:
            await anyio.sleep(_GLANCE)
        return found[count - 1]

    def _write(self) -> None:
        new = self._script.with_suffix(".new")
        script = {"replies": self._replies, "stubborn": self._stubborn, "known": self._known}
        new.write_text(json.dumps(script), encoding="utf-8")
        os.replace(new, self._script)  # noqa: PTH105 - in one step, for a process may be reading it


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

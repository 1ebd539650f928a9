"""`resilient-mcp call`: one tool call; the answer on stdout, what was retried on stderr."""

from __future__ import annotations

import difflib
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio

from .._sdk.installed import MCPError
from .._sdk.results import dump
from ..client import ResilientClient
from ..config import ServerConfig
from ..errors import ResilienceError
from ..text.printable import describe, printable
from .narrate import narrate
from .run import run as run_until_signalled
from .servers import client_of
from .tools import list_tools

_LISTING = 10.0
"""Seconds that a server has to list its tools after it failed a call."""
_NAMED = 20
"""Tools that are named at most."""
_NAME = 128
_ALIKE = 0.6
"""From this likeness on a tool is taken for the one that was meant."""


def run(name: str, server: ServerConfig, tool: str, arguments: dict[str, Any], *, as_json: bool) -> int:
    """Call `tool` and print what it answers; the command's exit status."""
    logging.getLogger().addHandler(logging.NullHandler())
    client = client_of(name, server, on_event=narrate)
    return run_until_signalled(_run(client, tool, arguments, as_json=as_json))


async def _run(client: ResilientClient, tool: str, arguments: dict[str, Any], *, as_json: bool) -> int:
    hint = ""
    try:
        async with client:
            try:
                result = dump(await client.call_tool(tool, arguments))
            except ResilienceError:
                raise
            except MCPError:
                hint = await _unlisted(client, tool)
                raise
            if result.get("isError"):
                hint = await _unlisted(client, tool)
    except Exception as exc:
        sys.stderr.write(f"resilient-mcp: {exc if isinstance(exc, ResilienceError) else describe(exc)}\n{hint}")
        return 1
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        for block in result.get("content", []):
            sys.stdout.write(_shown(block) + "\n")
    sys.stderr.write(hint)
    return 1 if result.get("isError") else 0


async def _unlisted(client: ResilientClient, tool: str) -> str:
    """What to write about a call that the server answered with an error: nothing if it lists the tool.

    Servers say in many ways that they do not know a tool, and some answer to one that they do not list. So the server
    is asked first, and its own list decides.
    """
    with anyio.move_on_after(_LISTING), suppress(Exception):  # the call's own error is what matters
        names = [listed["name"] for listed in await list_tools(client)]
        if tool not in names:
            return f"resilient-mcp: {no_such_tool(client.name, tool, names)}\n"
    return ""


def no_such_tool(server: str, tool: str, names: Sequence[str]) -> str:
    """That a server does not list `tool`, and what it lists instead, the most similar first."""
    if not names:
        return f"server {server!r} lists no tools"
    by_likeness = sorted(names, key=lambda name: _likeness(tool, name), reverse=True)
    hint = f": did you mean {printable(by_likeness[0], _NAME)!r}?" if _likeness(tool, by_likeness[0]) >= _ALIKE else "."
    first = ", ".join(printable(name, _NAME) for name in by_likeness[:_NAMED])
    more = f" and {len(names) - _NAMED} more (`resilient-mcp tools` lists them)" if len(names) > _NAMED else ""
    return f"server {server!r} does not list a tool {tool!r}{hint} It lists {first}{more}"


def _likeness(wanted: str, name: str) -> float:
    """From 0 to 1; neither case nor the kind of separators counts, and a part of a name is like it."""
    wanted, name = (text[:_NAME].lower().replace("-", "_") for text in (wanted, name))
    ratio = difflib.SequenceMatcher(None, wanted, name).ratio()
    return max(ratio, _ALIKE) if wanted in name else ratio


def _shown(block: dict[str, Any]) -> str:
    """One block of an answer; on a terminal without what would control it."""
    text = block.get("text")
    if not isinstance(text, str):
        kind = " ".join(str(part) for part in (block.get("type"), block.get("mimeType"), block.get("uri")) if part)
        return printable(f"[{kind}: --json shows it]")
    if not sys.stdout.isatty():
        return text
    return "\n".join(printable(line, len(line) + 1) for line in text.split("\n"))

"""`resilient-mcp call`: one tool call, with the answer on stdout and retries reported on stderr."""

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

# Seconds that a server gets to list its tools after a failed call.
_LISTING = 10.0
# Maximum number of tools named in a hint.
_NAMED = 20
_NAME = 128
# Similarity from which on a tool counts as a likely misspelling.
_ALIKE = 0.6


def run(name: str, server: ServerConfig, tool: str, arguments: dict[str, Any], *, as_json: bool) -> int:
    """Call `tool`, print its answer, and return the command's exit status."""
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
    """A hint for a call that the server answered with an error; empty if the server lists the tool.

    Servers report an unknown tool in many ways, and some answer calls to tools they do not list. So the call is made
    first, and only if it fails does the server's own list decide.
    """
    with anyio.move_on_after(_LISTING), suppress(Exception):  # the error of the call itself matters more
        names = [listed["name"] for listed in await list_tools(client)]
        if tool not in names:
            return f"resilient-mcp: {no_such_tool(client.name, tool, names)}\n"
    return ""


def no_such_tool(server: str, tool: str, names: Sequence[str]) -> str:
    """A message that `server` does not list `tool`, with the tools it does list, most similar first."""
    if not names:
        return f"server {server!r} lists no tools"
    by_likeness = sorted(names, key=lambda name: _likeness(tool, name), reverse=True)
    hint = f": did you mean {printable(by_likeness[0], _NAME)!r}?" if _likeness(tool, by_likeness[0]) >= _ALIKE else "."
    first = ", ".join(printable(name, _NAME) for name in by_likeness[:_NAMED])
    more = f" and {len(names) - _NAMED} more (`resilient-mcp tools` lists them)" if len(names) > _NAMED else ""
    return f"server {server!r} does not list a tool {tool!r}{hint} It lists {first}{more}"


def _likeness(wanted: str, name: str) -> float:
    """Similarity from 0 to 1, ignoring case and `-` versus `_`; a substring of a name is at least `_ALIKE`."""
    wanted, name = (text[:_NAME].lower().replace("-", "_") for text in (wanted, name))
    ratio = difflib.SequenceMatcher(None, wanted, name).ratio()
    return max(ratio, _ALIKE) if wanted in name else ratio


def _shown(block: dict[str, Any]) -> str:
    """One content block as text; control characters are removed if stdout is a terminal."""
    text = block.get("text")
    if not isinstance(text, str):
        kind = " ".join(str(part) for part in (block.get("type"), block.get("mimeType"), block.get("uri")) if part)
        return printable(f"[{kind}: use --json to see it]")
    if not sys.stdout.isatty():
        return text
    return "\n".join(printable(line, len(line) + 1) for line in text.split("\n"))

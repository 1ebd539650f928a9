"""`resilient-mcp call`: one tool call; the answer on stdout, what was retried on stderr."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from .. import _sdk
from ..client import ResilientClient
from ..config import ServerConfig
from ..errors import ResilienceError, describe
from ..evidence import printable
from .narrate import narrate
from .run import run as run_until_signalled


def run(name: str, server: ServerConfig, tool: str, arguments: dict[str, Any], *, as_json: bool) -> int:
    """Call `tool` and print what it answers; the command's exit status."""
    logging.getLogger().addHandler(logging.NullHandler())
    client = ResilientClient(server.server, name=name, policy=server.policy, on_event=narrate)
    return run_until_signalled(_run(client, tool, arguments, as_json=as_json))


async def _run(client: ResilientClient, tool: str, arguments: dict[str, Any], *, as_json: bool) -> int:
    try:
        async with client:
            result = _sdk.dump(await client.call_tool(tool, arguments))
    except ResilienceError as exc:
        sys.stderr.write(f"resilient-mcp: {exc}\n")
        return 1
    except Exception as exc:
        sys.stderr.write(f"resilient-mcp: {describe(exc)}\n")
        return 1
    if as_json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        for block in result.get("content", []):
            sys.stdout.write(_shown(block) + "\n")
    return 1 if result.get("isError") else 0


def _shown(block: dict[str, Any]) -> str:
    """One block of an answer; on a terminal without what would control it."""
    text = block.get("text")
    if not isinstance(text, str):
        kind = " ".join(str(part) for part in (block.get("type"), block.get("mimeType"), block.get("uri")) if part)
        return printable(f"[{kind}: --json shows it]")
    if not sys.stdout.isatty():
        return text
    return "\n".join(printable(line, len(line) + 1) for line in text.split("\n"))

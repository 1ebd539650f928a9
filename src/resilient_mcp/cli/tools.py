"""`resilient-mcp tools`: lists a server's tools, for a person to read or as the JSON that the server sent.

What a server sends is untrusted: every line printed is free of control characters and bounded in length.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import anyio

from ..client import ResilientClient
from ..config import ServerConfig
from ..errors import ServerUnavailable
from ..text.printable import describe, printable
from .run import run as run_until_signalled
from .servers import client_of
from .trouble import reason_and_stderr, unfinished

# Maximum columns used: longer lines are hard to read.
_WIDTH = 100
# Pages read at most: a server may send cursors forever.
_MAX_PAGES = 1000
_NAME = 128
# Characters of a type shown: it may list hundreds of values.
_TYPE = 100
_MAX_DEPTH = 4
# Types or values of one schema that are read: a hostile schema may refer to itself a thousand times at each depth.
_MAX_CHOICES = 8


def run(name: str, server: ServerConfig, *, timeout: float, as_json: bool) -> int:
    """List the tools of `server`, print them, and return the command's exit status."""
    logging.getLogger().addHandler(logging.NullHandler())
    client = client_of(name, server)
    return run_until_signalled(_run(client, timeout, as_json=as_json))


async def _run(client: ResilientClient, timeout: float, *, as_json: bool) -> int:
    tools, problem = None, ""
    try:
        with anyio.move_on_after(timeout) as limit:
            await client.start(wait=False)
            await client.wait_attempted()
            if client.error is None:
                tools = await list_tools(client)
        if tools is None:
            problem = unfinished(client, timeout) if limit.cancelled_caught else _unreachable(client.error)
    except Exception as exc:
        problem = describe(exc)
    finally:
        await client.aclose()
    if tools is None:
        sys.stderr.write(f"resilient-mcp: server {client.name!r}: {problem}\n")
        return 1
    if as_json:
        sys.stdout.write(json.dumps(tools, indent=2) + "\n")
    elif tools:
        width = min(shutil.get_terminal_size().columns, _WIDTH)
        sys.stdout.write("".join(f"{line}\n" for tool in tools for line in shown(tool, width)))
    else:
        sys.stdout.write(f"Server {client.name!r} has no tools.\n")
    return 0


def _unreachable(error: ServerUnavailable | None) -> str:
    """Why there is no connection, with the relevant lines of the process's stderr."""
    assert error is not None
    reason, lines = reason_and_stderr(error.reason, error.stderr)
    shown = f"{reason.rstrip('.')}. {error.remedy}" if error.remedy else reason
    return "\n".join([shown, *(f"  stderr: {line}" for line in lines)])


async def list_tools(client: ResilientClient) -> list[dict[str, Any]]:
    """All pages of a server's tools, as it sent them; empty if it declares no tools.

    Raises:
        ResilienceError: There is no connection, or no answer.
        MCPError: The server answered with an error.
        ValueError: The answer is not a list of tools, or the list does not end.
    """
    if not client.offers("tools"):
        return []
    tools: list[dict[str, Any]] = []
    params: dict[str, Any] | None = None
    for _ in range(_MAX_PAGES):
        page = await client.request("tools/list", params)
        items, cursor = page.get("tools"), page.get("nextCursor")
        if not isinstance(items, list) or not all(isinstance(tool, dict) and _is_named(tool) for tool in items):
            raise ValueError("the server's answer to tools/list is not a list of tools")
        tools += items
        if not isinstance(cursor, str):
            return tools
        params = {"cursor": cursor}
    raise ValueError(f"the server's list of tools has no end: it has more than {_MAX_PAGES:,} pages")


def _is_named(tool: Mapping[str, Any]) -> bool:
    return isinstance(tool.get("name"), str)


def shown(tool: Mapping[str, Any], width: int) -> list[str]:
    """One tool as lines of at most `width` columns (at least 40): name, first line of the description, arguments."""
    lines = _wrapped(printable(tool["name"], _NAME), width)
    description = tool.get("description")
    if isinstance(description, str):
        first = next((line for text in description.splitlines() if (line := printable(text))), "")
        lines += _wrapped(first, width, "    ")
    schema = tool.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or not isinstance(properties, dict):
        return lines
    needed = set(filter(_is_text, _listed(schema, "required")))
    names = {name: printable(name, _NAME) for name in properties}
    column = min(max(map(len, names.values()), default=0), 24)
    for name, item in properties.items():
        mark = " (required)" if name in needed else ""
        text = f"{names[name]:{column}}  {printable(type_of(item, schema), _TYPE)}{mark}"
        lines += _wrapped(text, width, "    ", " " * (column + 6))
    return lines


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _wrapped(text: str, width: int, indent: str = "", hanging: str | None = None) -> list[str]:
    hanging = indent if hanging is None else hanging
    return textwrap.wrap(text, max(width, 40), initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False)


def type_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """The type that a JSON schema allows, in a few words: `string`, `integer or null`, `array of string`, `"a" or "b"`.

    Args:
        schema: The schema, as a server sent it.
        root: The schema that `#/...` refers to.
        depth: How deeply the schema is nested; beyond `_MAX_DEPTH` the type is `any`.
    """
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return "any"
    kinds: list[Any]
    if isinstance(reference := schema.get("$ref"), str):
        kinds = [type_of(_referred(reference, root), root, depth + 1)]
    elif values := _listed(schema, "enum") or ([schema["const"]] if "const" in schema else []):
        kinds = [*map(json.dumps, values[:_MAX_CHOICES]), *(["..."] if len(values) > _MAX_CHOICES else [])]
    elif schemas := _listed(schema, "anyOf") or _listed(schema, "oneOf") or _listed(schema, "allOf")[:1]:
        kinds = [type_of(kind, root, depth + 1) for kind in schemas[:_MAX_CHOICES]]
    elif schema.get("type") == "array":
        items = type_of(schema.get("items"), root, depth + 1)
        kinds = ["array" if items == "any" else f"array of {items}"]
    else:
        kinds = _listed(schema, "type") or [schema.get("type")]
    return " or ".join(dict.fromkeys(filter(_is_text, kinds))) or "any"


def _listed(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    """What `#/$defs/name` refers to in `root`; None if it is missing or the reference points elsewhere."""
    found: Any = root
    for key in reference.removeprefix("#/").split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    return found

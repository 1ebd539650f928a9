"""Client code as people write it for the SDK, run against the SDK and against `ResilientClient`.

A snippet is plain SDK code: it opens a client with `connect(server, **options)` and prints what it sees. `connect` is
the construction, the one line that a user of this library changes. With mcp 2.x it is `mcp.Client` or `ResilientClient`
itself; with 1.x, the SDK's side opens the transport's streams and a `ClientSession` over them. `tests/test_snippets.py`
runs each snippet both ways, against the same server, and compares what was printed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Code = Callable[[Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Snippet:
    """One snippet, the name of its server, the ways to reach that server on which it runs, and its kind of client."""

    code: Code
    server: str
    on: tuple[str, ...]
    streams: str | None

    @property
    def name(self) -> str:
        return self.code.__name__


SNIPPETS: list[Snippet] = []


def snippet(
    server: str = "garden", *, on: tuple[str, ...] = ("memory", "http"), streams: str | None = None
) -> Callable[[Code], Code]:
    """Add a function to `SNIPPETS`.

    Args:
        server: A name from `serve.BUILDERS`.
        on: `memory` (a server object of this process), `testing` (that
            through the SDK's helper for tests), `stdio`, `banner` (a server that also prints what is no message),
            `sse`, or a way to serve Streamable HTTP: `http`,
            `json` (JSON answers), `stateless`, `resumable` (with an event store).
        streams: With 2.x, that the SDK's client is a `ClientSession` over streams, and the mode of `ResilientClient`
            in its place.
    """

    def add(code: Code) -> Code:
        SNIPPETS.append(Snippet(code, server, on, streams))
        return code

    return add

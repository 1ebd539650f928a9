"""Client code as users write it for the SDK, run against the SDK and against `ResilientClient`.

A snippet is plain SDK code: it opens a client with `connect(server, **options)` and prints what it sees. `connect` is
the construction, the one line that a user of this library changes. With mcp 2.x it is `mcp.Client` or `ResilientClient`
itself; with 1.x, the SDK's side opens the transport's streams and a `ClientSession` over them. `tests/test_snippets.py`
runs each snippet both ways against the same server, and compares the output.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

Code = Callable[[Any, Any], Awaitable[None]]


@dataclass(frozen=True)
class Snippet:
    """One snippet, the name of its server, the ways to reach that server, and its kind of client."""

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
        on: `memory` (a server object in this process), `testing` (the same through the SDK's test helper), `stdio`,
            `banner` (a server that also prints text that is not a message), `sse`, or a way to serve Streamable HTTP:
            `http`, `json` (JSON answers), `stateless`, `resumable` (with an event store).
        streams: With 2.x, makes the SDK's client a `ClientSession` over streams, and is the mode of the
            `ResilientClient` that replaces it.
    """

    def add(code: Code) -> Code:
        SNIPPETS.append(Snippet(code, server, on, streams))
        return code

    return add

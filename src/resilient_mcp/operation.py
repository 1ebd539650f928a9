"""One thing asked of a server, as everything from the client down to the gate knows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .connection import Invoke
from .evidence import printable


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing asked of the server.

    Attributes:
        method: The JSON-RPC method.
        invoke: Does it, with a session and a progress callback.
        target: The tool, prompt or resource, or None.
        timeout: Seconds an attempt may take, or None for the policy's.
        progress: The caller's progress callback, or None.
        arguments: A tool's arguments, for the log's debug mode.
        clean: Makes one printable line of a target, at most so long.
    """

    method: str
    invoke: Invoke
    target: str | None = None
    timeout: float | None = None
    progress: Any = None
    arguments: Any = None
    clean: Callable[[str, int], str] = printable

    @property
    def tool(self) -> str | None:
        """The tool that is called, if it is one."""
        return self.target if self.method == "tools/call" else None

    def __str__(self) -> str:
        return self.method if self.target is None else f"{self.method} {self.clean(self.target, 100)}"

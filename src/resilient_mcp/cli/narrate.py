"""Reports what happens to a server, as readable lines on stderr."""

from __future__ import annotations

import sys

from ..connection.supervisor import CLIENT_CLOSED
from ..events import Connected, Disconnected, Event, GarbageOnStdout, RestartScheduled, RetryScheduled
from ..text.printable import printable

_STDERR_SHOWN = 2000


def narrate(event: Event, *, stderr: bool = True) -> None:
    """Report `event` on stderr if it matters to a person; with `stderr`, also an exited process's last stderr."""
    for line in _lines(event, stderr=stderr):
        sys.stderr.write(f"resilient-mcp: {line}\n")
    sys.stderr.flush()


def _lines(event: Event, *, stderr: bool) -> list[str]:
    lines: list[str] = []
    if isinstance(event, RetryScheduled):
        fate = "was never sent" if event.transparent else f"failed (attempt {event.attempt})"
        lines = [f"{event.operation} {fate}: {event.reason}; retrying in {event.delay:.1f} s"]
    elif isinstance(event, Disconnected) and event.reason != CLIENT_CLOSED:
        lines = [f"lost the connection: {event.reason}"]
        if stderr and event.evidence is not None and event.evidence.exit is not None:
            last = event.evidence.exit.stderr[-_STDERR_SHOWN:].splitlines()
            lines += [f"server stderr: {text}" for line in last if (text := printable(line))]
    elif isinstance(event, RestartScheduled):
        lines = [f"reconnecting in {event.delay:.1f} s: {event.reason}"]
    elif isinstance(event, Connected) and event.generation > 1:
        lines = [f"reconnected in {event.elapsed:.1f} s"]
    elif isinstance(event, GarbageOnStdout):
        lines = [f"server stdout contains output that is not an MCP message: {event.sample}; {event.remedy}"]
    return lines

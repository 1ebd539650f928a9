"""Why a server cannot be used, in the words of a command."""

from __future__ import annotations

from ..client import ResilientClient
from ..text.last_words import last_words
from ..text.printable import printable

_STDERR_LINES = 6


def unfinished(client: ResilientClient, timeout: float) -> str:
    """What keeps a server from being ready, when `timeout` seconds are over."""
    health = client.health()
    if health.starting_for is None:
        return f"no answer within {timeout:g} s"
    return f"still starting after {timeout:g} s" + (f": {health.last_line}" if health.last_line else "")


def reason_and_stderr(reason: str, stderr: str) -> tuple[str, list[str]]:
    """A reason without the stderr that it quotes in one line, and the lines of stderr that name the cause."""
    return printable(reason.partition("; its last words on stderr")[0]), last_words(stderr, _STDERR_LINES)

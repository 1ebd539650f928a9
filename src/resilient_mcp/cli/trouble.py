"""Explains why a server cannot be used, for the output of a command."""

from __future__ import annotations

from ..client import ResilientClient
from ..text.last_words import last_words
from ..text.printable import printable

_STDERR_LINES = 6


def unfinished(client: ResilientClient, timeout: float) -> str:
    """Why a server is not ready after `timeout` seconds."""
    health = client.health()
    if health.starting_for is None:
        return f"no answer within {timeout:g} s"
    return f"still starting after {timeout:g} s" + (f": {health.last_line}" if health.last_line else "")


def reason_and_stderr(reason: str, stderr: str) -> tuple[str, list[str]]:
    """The reason without the stderr it quotes on one line, and the stderr lines that name the cause."""
    return printable(reason.partition("; its stderr: ")[0]), last_words(stderr, _STDERR_LINES)

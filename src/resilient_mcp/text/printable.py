"""One printable, bounded line of untrusted text."""

from __future__ import annotations

import re
from typing import Any, cast

MAX_DETAIL = 500
"""Characters of text from elsewhere that one message of ours may carry."""


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def printable(text: str, limit: int = MAX_DETAIL) -> str:
    """One printable line of untrusted text: no control characters or terminal escapes, at most `limit` characters."""
    line = " ".join(_CONTROL.sub(" ", text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def describe(exc: BaseException) -> str:
    """What an exception says in one printable line, never empty; a group speaks through its first leaf."""
    while leaves := getattr(exc, "exceptions", None):
        exc = leaves[0]
    text = printable(str(exc))
    name = type(exc).__name__
    return f"{name}: {text}" if text else name


def add_note(exc: BaseException, note: str) -> None:
    """`BaseException.add_note`, also on Python 3.10."""
    notes: list[str] = getattr(exc, "__notes__", [])
    cast("Any", exc).__notes__ = [*notes, note]

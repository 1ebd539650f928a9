"""One printable, bounded line of untrusted text."""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

E = TypeVar("E", bound=BaseException)

MAX_DETAIL = 500
"""Maximum characters of untrusted text in one message of this library."""


# Not one run with the escape character in it: such a run would take it from the sequence that it begins.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029]+|\x1b")


def printable(text: str, limit: int = MAX_DETAIL) -> str:
    """Make untrusted text one printable line of at most `limit` characters, without control characters or escapes."""
    line = " ".join(_CONTROL.sub(" ", text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def first_leaf(exc: E) -> E:
    """The first error inside an exception group, however deep; any other exception as it is."""
    while leaves := getattr(exc, "exceptions", None):
        exc = leaves[0]
    return exc


def describe(exc: BaseException) -> str:
    """One printable line about an exception, never empty; of a group, about its first leaf."""
    exc = first_leaf(exc)
    text = printable(str(exc))
    name = type(exc).__name__
    return f"{name}: {text}" if text else name


def add_note(exc: BaseException, note: str) -> None:
    """`BaseException.add_note`, which Python 3.10 lacks."""
    notes: list[str] = getattr(exc, "__notes__", [])
    cast("Any", exc).__notes__ = [*notes, note]

"""Decide whether an `isError` result suggests a retry (sans-I/O).

Such a result is the tool's answer, for the model to read, but tools also report 429s and timeouts this way. A
structured body decides; without one, the words of the text do; anything else is permanent. Only the beginning of the
text is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from pydantic_core import from_json

from .._sdk.results import structured_content

# Maximum wait in seconds; a JSON integer may be too large for a float.
_LONGEST = 1e9

# Characters of a result's text that are read.
_READ = 4096

_WAITS = ("retryAfter", "retry_after", "retryAfterSeconds")

_UNITS = {"ms": 0.001, "milli": 0.001, "s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "hour": 3600.0}

_WAIT = re.compile(
    r"\b(?:try(?:ing)? again|retry(?:ing)?|wait|available again|back)\b[^\d\n]{0,24}?"
    r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|milli|sec|s|min|m|hour|h)(?:seconds?|onds?|utes?|s)?\b",
    re.IGNORECASE,
)

_TIME = r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?(?:Z|[+-]\d\d:?\d\d)?"

_RESETS = re.compile(rf"\b(?:resets?|retry|available)\s+(?:at|after)\s+({_TIME})", re.IGNORECASE)

WORDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "throttled",
        re.compile(r"rate.?limit|too many requests|\b429\b|quota exceeded|throttl", re.IGNORECASE),
    ),
    (
        "permanent",
        re.compile(
            r"not found|no such|does not exist|invalid|permission denied|access denied|unauthori[sz]ed|forbidden"
            r"|not allowed|unsupported|missing required",
            re.IGNORECASE,
        ),
    ),
    (
        "transient",
        re.compile(
            r"timed.?out|time.?out|temporar(?:y|ily)|try again|unavailable|overloaded|connection (?:reset|refused)"
            r"|\b50[234]\b|deadlock",
            re.IGNORECASE,
        ),
    ),
)
"""Meanings of words in a text; the first match wins, and any other text is permanent."""


def read(result: Any, *, now: float) -> tuple[str, float | None, str]:
    """Classify an `isError` result: (meaning, seconds to wait or None, the rule that decided).

    Args:
        result: A tool result, of either major of mcp.
        now: Wall-clock time in seconds since the epoch, since a result may name a time.
    """
    texts = list(_texts(result))
    for body in _bodies(result, texts):
        meaning = _structured(body, now)
        if meaning is not None:
            return meaning
    text = "\n".join(texts)
    wait = _wait_in(text, now)
    for meaning_of_words, words in WORDS:
        if match := words.search(text):
            return meaning_of_words, wait, f"its text says {match[0]!r}"
    if wait is not None:
        return "transient", wait, "its text says when to try again"
    return "permanent", None, "its text does not suggest a retry"


def wait_in(data: Any, *, now: float) -> float | None:
    """Seconds that the `data` of a server's error asks to wait (`retryAfter` or a variant); None if it does not."""
    if not isinstance(data, dict):
        return None
    for name in _WAITS:
        if name in data:
            return _seconds(data[name], now)
    for name in ("retryAfterMs", "retry_after_ms"):
        if name in data and (wait := _seconds(data[name], now)) is not None:
            return wait / 1000
    return None


def _texts(result: Any) -> Iterator[str]:
    left = _READ
    for block in result.content:
        text = getattr(block, "text", None)
        if isinstance(text, str) and left > 0:
            yield text[:left]
            left -= len(text)


def _bodies(result: Any, texts: list[str]) -> Iterator[dict[str, Any]]:
    """JSON objects in the result: its structured content, then its texts; a nested `error` comes before its parent."""
    candidates = [structured_content(result)]
    for text in texts:
        if text.lstrip().startswith("{"):
            try:
                candidates.append(from_json(text))
            except ValueError:
                continue
    for candidate in candidates:
        if isinstance(candidate, dict):
            inner = candidate.get("error")
            if isinstance(inner, dict):
                yield inner
            yield candidate


def _structured(body: dict[str, Any], now: float) -> tuple[str, float | None, str] | None:
    """Read `retryable`, `retryAfter`/`retry_after` or an HTTP-like `code` from a body; None if it has none of them."""
    named = next((name for name in _WAITS if name in body), None)
    wait = _seconds(body[named], now) if named is not None else None
    retryable = body.get("retryable")
    if isinstance(retryable, bool):
        if not retryable:
            return "permanent", None, "its body says retryable: false"
        return ("transient" if wait is None else "throttled"), wait, "its body says retryable: true"
    if wait is not None:
        return "throttled", wait, f"its body has {named}"
    code = body.get("code", body.get("status"))
    text = str(code) if isinstance(code, str | int) and not isinstance(code, bool) else ""
    for meaning, words in WORDS:
        if words.search(text.replace("_", " ")):
            return meaning, None, f"its body has the code {text[:40]!r}"
    return None


def _seconds(value: object, now: float) -> float | None:
    """A wait given as a number of seconds, possibly as text, or as an ISO 8601 time."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return float(min(value, _LONGEST))
    if isinstance(value, str):
        return float(value) if value.strip().replace(".", "", 1).isdecimal() else _until(value, now)
    return None


def _wait_in(text: str, now: float) -> float | None:
    """The wait that a text asks for: "try again in 30 seconds", "Resets at 2026-11-21T10:00:00Z"."""
    if match := _RESETS.search(text):
        return _until(match[1], now)
    if match := _WAIT.search(text):
        return float(match[1]) * _UNITS[match[2].lower()]
    return None


def _until(text: str, now: float) -> float | None:
    """Seconds until an ISO 8601 time, 0 if it is past; UTC if it has no offset."""
    try:
        when = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        return max(0.0, when.timestamp() - now)
    except (ValueError, OverflowError):
        return None

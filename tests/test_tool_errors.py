"""What `isError` results say about a retry, in both spellings of the SDK's fields."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.types import CallToolResult, TextContent

from resilient_mcp.verdicts.tool_errors import read

NOW = 1_800_000_000.0
LATER = datetime.fromtimestamp(NOW + 90, timezone.utc)


def result(*texts: str, structured: Any = None) -> CallToolResult:
    content = [TextContent(type="text", text=text) for text in texts]
    return CallToolResult.model_validate({"content": content, "isError": True, "structuredContent": structured})


@pytest.mark.parametrize(
    ("text", "meaning", "wait"),
    [
        ("Rate limit exceeded", "throttled", None),
        ("HTTP 429: slow down, retry after 5s", "throttled", 5),
        ("Too many requests. Try again in 30 seconds.", "throttled", 30),
        ("Quota exceeded. Resets at 2027-01-15T08:01:30Z", "throttled", 90),
        ("Quota exceeded. Resets at 1999-01-01 00:00", "throttled", 0),
        ("Resets at 2027-13-45T99:99:99Z", "permanent", None),
        ("the upstream timed out", "transient", None),
        ("Request timeout", "transient", None),
        ("temporarily unavailable", "transient", None),
        ("Error: 503", "transient", None),
        ("please try again in 2 minutes", "transient", 120),
        ("retry in 250 ms", "transient", 0.25),
        ("wait 1.5 hours, then go on", "transient", 5400),
        ("retrying is possible in about 3 min", "transient", 180),
        ("the server is back in 10 s", "transient", 10),
        ("City not found", "permanent", None),
        ("Invalid argument: timeout must be positive", "permanent", None),
        ("Permission denied, try again in 5 seconds", "permanent", 5),
        ("ENOENT: no such file", "permanent", None),
        ("it did not work", "permanent", None),
        ("error 5030", "permanent", None),
        ("", "permanent", None),
    ],
)
def test_words_are_classified(text: str, meaning: str, wait: float | None):
    """Words decide where there is no structure: throttled, then permanent, then transient."""
    said = read(result(text), now=NOW)
    assert said[:2] == (meaning, wait)
    assert said[2]


@pytest.mark.parametrize(
    ("body", "meaning", "wait"),
    [
        ({"retryable": True}, "transient", None),
        ({"retryable": False, "retryAfter": 3}, "permanent", None),
        ({"retryable": True, "retryAfter": 3}, "throttled", 3),
        ({"retryAfter": 10**400}, "throttled", 1e9),
        ({"retry_after": "12"}, "throttled", 12),
        ({"retry_after": "1.5"}, "throttled", 1.5),
        ({"retryAfter": LATER.isoformat()}, "throttled", 90),
        ({"error": {"code": "RATE_LIMITED", "retryAfterSeconds": 7}}, "throttled", 7),
        ({"error": {"code": "rate_limit_exceeded"}}, "throttled", None),
        ({"code": 503}, "transient", None),
        ({"status": 429}, "throttled", None),
        ({"code": "NOT_FOUND"}, "permanent", None),
        ({"error": "timed out"}, "transient", None),  # the structure is silent, so the text decides
        ({"retryAfter": -1, "x": "y"}, "permanent", None),
        ({"retryAfter": True}, "permanent", None),
        ({"retryAfter": "1.2.3"}, "permanent", None),
        ({"retryAfter": "soon"}, "permanent", None),
        ({"retryable": "yes"}, "permanent", None),
        ({"code": True}, "permanent", None),
        ({"code": [7]}, "permanent", None),
        ({"retryAfter": "9999-99-99T00:00:00"}, "permanent", None),
    ],
)
@pytest.mark.parametrize("place", ["text", "structured"])
def test_structured_bodies(body: dict[str, Any], meaning: str, wait: float | None, place: str):
    """A body is read as JSON in a text block or as structured content."""
    text = json.dumps(body)
    said = read(result(text) if place == "text" else result(text, structured=body), now=NOW)
    assert said[:2] == (meaning, wait)


def test_a_structured_body_precedes_words():
    """`retryable: false` wins over any wording; broken JSON is only text."""
    assert read(result('{"retryable": false}', "rate limit"), now=NOW)[0] == "permanent"
    assert read(result('{"retryable": false', "rate limit"), now=NOW)[0] == "throttled"
    assert read(result("[1]", "rate limit"), now=NOW)[0] == "throttled"


def test_only_the_beginning_is_read():
    """10 MB of text are cheap, and words at the end have no effect."""
    assert read(result("x" * 10_000_000 + " rate limit"), now=NOW)[0] == "permanent"
    assert read(result("x" * 5000, "rate limit"), now=NOW)[0] == "permanent"


def test_other_content():
    """An image does not suggest a retry, so the error is permanent."""
    image = {"type": "image", "data": "aGk=", "mimeType": "image/png"}
    other = CallToolResult.model_validate({"content": [image], "isError": True})
    assert read(other, now=NOW)[0] == "permanent"


def test_only_existing_fields_are_read():
    """A field has one name in each SDK, and FastMCP 4 warns when the other one is read."""
    asked = []

    class Watched(CallToolResult):
        def __getattribute__(self, name: str) -> Any:
            asked.append(name)
            return super().__getattribute__(name)

    read(Watched.model_validate(result("no").model_dump(by_alias=True)), now=NOW)
    assert "content" in asked
    assert [name for name in asked if not hasattr(result("no"), name)] == []


@given(st.text(), st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_any_result_is_classified(text: str, value: Any):
    """Whatever a server sends, there is a category and no negative wait."""
    for body in (text, json.dumps({"retryAfter": value, "code": value, "retryable": value})):
        meaning, wait, rule = read(result(body), now=NOW)
        assert meaning in {"throttled", "permanent", "transient"}
        assert wait is None or wait >= 0
        assert rule

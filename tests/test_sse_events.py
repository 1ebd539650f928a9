"""Server-sent events: any way of ending lines and cutting chunks, ids, times, limits, and what an event answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp._sdk.messages import Hints, message_as_json
from resilient_mcp.text.redact import Redactor
from resilient_mcp.transports.http.answers import AnswerEvents
from resilient_mcp.transports.http.sse_events import SseEvent, SseParser
from resilient_mcp.transports.jsonrpc import Unusable, is_response, parse

ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {}}
NOTE = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
ERROR = {"jsonrpc": "2.0", "error": {"code": 1, "message": "m"}}


def events(*chunks: bytes, parser: SseParser | None = None) -> list[SseEvent]:
    parser = parser or SseParser(10_000)
    return [event for chunk in chunks for event in parser.feed(chunk)]


LINES = st.sampled_from(
    [b": ping", b"data: x", b"data:y", b"data", b"id: 5", b"event: other", b"retry: 9", b"data:  z"]
)
NEWLINES = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(LINES | st.just(b""), NEWLINES), max_size=12), st.lists(st.integers(1, 12), max_size=30))
def test_line_endings_and_chunks_make_no_difference(lines: list[tuple[bytes, bytes]], sizes: list[int]):
    """CR, LF and CRLF may be mixed, and the bytes cut anywhere: the events are those of the plain text."""
    text = b"".join(line + end for line, end in lines)
    plain = b"".join(line + b"\n" for line in text.splitlines())
    cut, rest = [], text
    for size in sizes:
        cut.append(rest[:size])
        rest = rest[size:]
    assert events(*cut, rest) == events(plain)


def test_fields():
    """Data lines are joined, one space after the colon is left out, and unknown fields and comments are skipped."""
    text = b"\xef\xbb\xbf: hello\nevent: message\ndata: a\ndata:b\ndata\nDATA: no\nunknown: x\n\nevent: ping\n\n"
    assert events(text) == [SseEvent(b"a\nb\n"), SseEvent(b"", b"ping")]


def test_an_unfinished_event_is_no_event():
    """The end of the stream cuts it off: the stream is resumed from the event before it, and begins without it."""
    parser = SseParser(100)
    assert events(b"id: 1\n\nid: 2\ndata: a\n", parser=parser) == [SseEvent(b"")]
    assert parser.resume_from == b"1"
    parser.restart()
    assert events(b"data: b\n\n", parser=parser) == [SseEvent(b"b")]
    assert parser.resume_from == b"1"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"id: a\n\n", b"a"),
        (b"id: a\n\nid: b\n\n", b"b"),
        (b"id: a\n\nid:\n\n", None),
        (b"id: a\n\nid: b\0c\n\n", b"a"),
        (b"id:   a b  \n\n", b"a b"),
        ("id: é→\n\n".encode(), "é→".encode()),
        (b"id: \xe9\n\n", "\ufffd".encode()),
        (b"id: a\x01b\n\n", None),
        (b"id: a\x7f\n\n", None),
        (b"id: a\x0bX-Evil: 1\n\n", None),
        (b"id: " + b"a" * 4097 + b"\n\n", None),
        (b"data: x\n\n", None),
    ],
)
def test_ids(lines: bytes, expected: bytes | None):
    """The last id is the one to resume from, if a header can carry it."""
    parser = SseParser(10_000)
    events(lines, parser=parser)
    assert parser.resume_from == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"50", 0.05), (b"0", 0), (b"-1", None), (b"1.5", None), (b"x", None), (b"", None), (b"9" * 5000, 60)],
)
def test_retry(line: bytes, expected: float | None):
    """A whole number of milliseconds, at most a minute."""
    parser = SseParser(10_000)
    events(b"retry: " + line + b"\n\n", parser=parser)
    assert parser.retry == expected


@pytest.mark.parametrize(
    "text", [b"x" * 101, b"data: " + b"x" * 101 + b"\n", b"data: xx\n" * 20, b": " + b"x" * 101 + b"\n\n"]
)
def test_an_event_over_the_limit(text: bytes):
    """However it is built, and however it is cut."""
    with pytest.raises(Unusable, match=r"an event over the limit of 100 bytes \(Policy.max_message_bytes\)"):
        events(text, parser=SseParser(100))
    parser = SseParser(100)
    with pytest.raises(Unusable):
        events(*(text[n : n + 1] for n in range(len(text))), parser=parser)


def test_the_limit_is_that_of_one_event():
    """A long stream of short events is not too long."""
    assert len(events(*[b"data: " + b"x" * 50 + b"\n\n"] * 100, parser=SseParser(100))) == 100
    assert events(b": ping\n" * 100, b"id: 1\nx: y\n" * 100, b"data: x\n\n", parser=SseParser(100)) == [SseEvent(b"x")]


def test_an_event_that_is_cut_counts_once():
    """Where a line is cut makes no difference to its length."""
    text = b"data: " + b"x" * 94 + b"\n\n"
    for at in range(len(text)):
        assert len(events(text[:at], text[at:], parser=SseParser(100))) == 1


# --- what an event answers ---


def answer(request_id: Any = 1, *, token: str | None = None) -> AnswerEvents:
    return AnswerEvents(request_id, SseParser(10_000), Hints(token=token), Redactor())


def taken(of: AnswerEvents, body: Any) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    message = of.take(SseEvent(data))
    return None if message is None else message_as_json(message)


def test_the_answer_is_noticed():
    """Messages before it pass as well; only the response to this request completes the answer."""
    of = answer()
    assert taken(of, NOTE) == NOTE
    assert not of.is_complete
    assert taken(of, ANSWER) == ANSWER
    assert of.is_complete


def test_answers_to_other_requests_are_left_out():
    """The session would take one for the answer to another call."""
    of = answer()
    assert taken(of, {**ANSWER, "id": 2}) is None
    assert not of.is_complete
    assert of.stray == (
        'an answer that is not the JSON-RPC response to this request: {"jsonrpc": "2.0", "id": 2, "result": {}}'
    )
    assert taken(of, ANSWER) == ANSWER


@pytest.mark.parametrize("of_nobody", [{"id": None}, {}])
def test_an_error_without_an_id_belongs_to_this_request(of_nobody: dict[str, None]):
    """The server could not read the request, so the session gets the error with the request's id."""
    of = answer()
    assert taken(of, {**ERROR, **of_nobody}) == {**ERROR, "id": 1}
    assert of.is_complete


def test_a_resumed_answer_has_the_id_of_the_earlier_request():
    """With a resumption token, the response belongs to this request whatever its id is."""
    of = answer(7, token="e1")
    assert taken(of, ANSWER) == {**ANSWER, "id": 7}
    assert of.is_complete


def test_rubbish_is_skipped():
    """What is not JSON-RPC is no reason to lose the answer that follows."""
    of = answer()
    for rubbish in (b"{nope", b"[]", b"5", b'{"jsonrpc":"2.0","method":5}', b'{"id":2,"result":', b"\xff\xfe"):
        assert taken(of, rubbish) is None
        assert "not JSON-RPC" in of.stray
    assert of.take(SseEvent(b"/x", b"endpoint")) is None
    assert of.take(SseEvent(b"")) is None
    assert taken(of, ANSWER) == ANSWER


@pytest.mark.parametrize(
    "data",
    [
        b'{"jsonrpc":"2.0","id":1,"result":5}',
        b'{"jsonrpc":"2.0","id":"1","error":{"code":"x","message":"m"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":true,"message":"m"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{"text":"cut of',
        b'{"jsonrpc":"2.0","id": "1" ,"result":{"text":"\\ud83d"}',
        b'{"result":{' + b" " * 20_000 + b'},"id":1}}',
    ],
)
def test_a_damaged_answer_fails_its_call(data: bytes):
    """It will not come again."""
    with pytest.raises(Unusable, match="an event that is not JSON-RPC"):
        taken(answer(), data)


def test_invalid_utf_8_is_replaced():
    """As browsers do."""
    data = b'{"jsonrpc":"2.0","id":1,"result":{"text":"a\xffb"}}'
    assert taken(answer(), data)["result"] == {"text": "a\ufffdb"}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"id": 1, "result": {}}, True),
        ({"id": "1", "result": {}}, True),
        ({"id": 1, "error": {"code": 1, "message": "x"}}, True),
        ({"id": None, "error": {"code": 1, "message": "x"}}, True),
        ({"error": {"code": 1, "message": "x"}}, True),
        ({"id": 2, "error": {"code": 1, "message": "x"}}, False),
        ({"id": 1, "error": {"code": "1", "message": "x"}}, False),
        ({"id": 1, "error": {"code": True, "message": "x"}}, False),
        ({"id": 1, "error": {"code": 1}}, False),
        ({"id": 1, "error": "x"}, False),
        ({"id": None, "result": {}}, False),
        ({"id": 2, "result": {}}, False),
        ({"id": 1, "result": []}, False),
        ({"id": 1, "method": "x", "result": {}}, False),
        ([], False),
        (None, False),
    ],
)
def test_what_answers_a_request(message: object, expected: bool):
    """A request is answered by a JSON-RPC 2.0 result or error with its id, or an error without an id."""
    if isinstance(message, dict):
        assert not is_response(message, 1)
        assert not is_response({"jsonrpc": 2.0, **message}, 1)
        message = {"jsonrpc": "2.0", **message}
    assert is_response(message, 1) is expected
    assert parse(json.dumps(message).encode()) == message

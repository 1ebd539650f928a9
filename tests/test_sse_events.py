"""Filtering server-sent events: only whole ones pass, the answer is noticed, and ids are remembered."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp.transports.sse_events import EventScanner, Unusable, is_response, parse

ANSWER = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}).encode()
NOTE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{}}'


@given(
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.sampled_from([b": ping", b"data: " + NOTE, b"id: 5", b"event: message", b"retry: 9"]), max_size=5),
    st.lists(st.integers(1, 30)),
)
def test_any_chunking_gives_the_same_events(newline: bytes, lines: list[bytes], sizes: list[int]):
    """However the bytes are chunked, whole events pass unchanged and in order; the rest is held back."""
    scanner = EventScanner(1, 10_000, repr)
    data = b"".join(line + newline * 2 for line in lines) + b"data: unfinish"
    out = []
    for size in sizes:
        out += scanner.feed(data[:size])
        data = data[size:]
    out += scanner.feed(data)
    assert b"".join(out) == b"".join(line + newline * 2 for line in lines)


def test_the_answer_is_noticed():
    """Only the response to this request counts as the answer."""
    scanner = EventScanner(1, 10_000, repr)
    list(scanner.feed(b"data: " + NOTE + b"\n\n"))
    assert not scanner.answered
    list(scanner.feed(b"event: message\ndata: " + ANSWER[:10]))
    assert not scanner.answered
    list(scanner.feed(ANSWER[10:] + b"\n\n"))
    assert scanner.answered
    assert scanner.last_id is None
    assert scanner.stray is None


def test_answers_to_other_requests_are_left_out():
    """The SDK would take one for the answer to this request, or resume from its event id."""
    scanner = EventScanner(1, 10_000, bytes.decode)
    stray = ANSWER.replace(b"1,", b"2,")
    own = b"id: b\ndata: " + ANSWER + b"\n\n"
    assert list(scanner.feed(b"id: a\ndata: " + stray + b"\n\n")) == []
    assert (scanner.answered, scanner.stray, scanner.last_id) == (False, stray.decode(), None)
    assert list(scanner.feed(own)) == [own]
    assert (scanner.answered, scanner.last_id) == (True, "b")


@pytest.mark.parametrize("nobody", [b'"id":null,', b""])
def test_an_error_without_an_id_belongs_to_this_request(nobody: bytes):
    """The server could not read the request, so the SDK gets the error with the request's id."""
    scanner = EventScanner(1, 10_000, repr)
    (event,) = scanner.feed(b'data: {"jsonrpc":"2.0",%s"error":{"code":1,"message":"m"}}\n\n' % nobody)
    expected = {"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "m"}}
    assert json.loads(event.removeprefix(b"data:")) == expected
    assert scanner.answered


def test_the_notification_stream_is_not_filtered():
    """A stream that belongs to no request is left to the SDK."""
    event = b"data: " + ANSWER + b"\n\n"
    assert list(EventScanner(None, 10_000, repr).feed(event)) == [event]


def test_an_answer_over_several_data_lines():
    """Data lines are joined, as the standard requires."""
    scanner = EventScanner(1, 10_000, repr)
    list(scanner.feed(b'data: {"jsonrpc": "2.0",\ndata:"id": 1, "result": {}}\n\n'))
    assert scanner.answered


def test_ids_are_remembered():
    """The last non-empty id is remembered; an event without data is only a priming event."""
    scanner = EventScanner(1, 10_000, repr)
    list(scanner.feed(b"id: a\ndata:\n\nid:\n\nid: b\n\n"))
    assert scanner.last_id == "b"


def test_other_kinds_of_events_are_not_read():
    """An event that is not `message` may hold anything."""
    assert list(EventScanner(1, 100, repr).feed(b"event: endpoint\ndata: /x\n\n")) == [b"event: endpoint\ndata: /x\n\n"]


def test_invalid_events():
    """An event that is not JSON or is too long is not passed on."""
    with pytest.raises(Unusable, match="not JSON-RPC: {nope"):
        list(EventScanner(1, 100, bytes.decode).feed(b"data: {nope\n\n"))
    with pytest.raises(Unusable, match="over the limit of 100"):
        list(EventScanner(1, 100, repr).feed(b"x" * 101))


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

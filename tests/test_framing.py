"""Bytes to lines: the lines are exactly what was sent, each byte is inspected once, and memory is bounded."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp.transports.framing import LineFramer, Oversize, find_id


def feed(framer: LineFramer, data: bytes, sizes: list[int]) -> list[bytes | Oversize]:
    lines: list[bytes | Oversize] = []
    for size in sizes:
        lines += framer.feed(data[:size])
        data = data[size:]
    return lines + list(framer.feed(data))


@given(st.binary(max_size=300), st.lists(st.integers(1, 20)))
def test_any_chunking_gives_the_same_lines(data: bytes, sizes: list[int]):
    """However the bytes are chunked, the lines are those of `split`."""
    assert feed(LineFramer(10_000), data, sizes) == data.split(b"\n")[:-1]


@given(st.lists(st.integers(0, 40), max_size=20), st.lists(st.integers(1, 9)))
def test_the_bound_is_exact(lengths: list[int], sizes: list[int]):
    """Lines up to the bound are delivered whole, longer ones as `Oversize` with their length."""
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    found = feed(LineFramer(20), data, sizes)
    expected = [b"x" * length if length <= 20 else Oversize(length, None) for length in lengths]
    assert found == expected


def test_memory_is_bounded():
    """Only the two ends of an endless line are kept."""
    framer = LineFramer(1000)
    for _ in range(1000):
        assert list(framer.feed(b"z" * 10_000)) == []
    kept = sum(map(len, framer._parts)) + len(framer._head) + len(framer._tail)
    assert kept < 20_000
    assert list(framer.feed(b"\nnext\n")) == [Oversize(10_000_000, None), b"next"]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"jsonrpc": "2.0", "id": 7, "result": {"id": 9}}, 7),
        ({"id": 7, "jsonrpc": "2.0", "result": {"id": 9}}, 7),
        ({"result": {"id": 9}, "jsonrpc": "2.0", "id": 7}, 7),
        ({"result": {"id": 9}, "id": 7, "jsonrpc": "2.0"}, 7),
        ({"jsonrpc": "2.0", "id": "seven", "result": {}}, "seven"),
        ({"jsonrpc": "2.0", "result": {"id": 9}}, None),
        ({"jsonrpc": "2.0", "method": "x", "params": {"id": 9}}, None),
    ],
)
def test_the_id_is_found_at_either_end(message: dict, expected: object):
    """Only the message's own id counts, never one nested inside it."""
    for separators in ((",", ":"), (", ", ": ")):
        line = json.dumps(message, separators=separators).encode()
        assert find_id(line[:4096], line[-4096:]) == expected


def test_an_oversized_answer_names_its_call():
    """An oversized line carries the id of its call, even when it arrives in many pieces."""
    line = json.dumps({"result": {"text": "x" * 50_000}, "jsonrpc": "2.0", "id": 3}).encode() + b"\n"
    assert feed(LineFramer(1000), line, [7] * 100) == [Oversize(len(line) - 1, 3)]


def test_an_absurd_id_is_no_id():
    """A number of thousands of digits, which `int` refuses, does not end the reader."""
    line = b'{"id": ' + b"9" * 7000 + b"}"
    assert feed(LineFramer(1024), line + b"\n", [1000, 5000]) == [Oversize(len(line), None)]

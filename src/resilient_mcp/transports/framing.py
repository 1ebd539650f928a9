"""Split bytes into lines, in linear time and bounded memory (sans-I/O)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Bytes kept of each end of an oversized line: enough to find the JSON-RPC id at either end.
_KEPT = 4096

# At most 18 digits: JSON allows any number, but `int` takes only 4,300, and no client counts that far.
_ID = rb'"id"\s*:\s*(\d{1,18}(?!\d)|"[^"\\]{1,64}")'
_ID_FIRST = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?' + _ID)
_ID_LAST = re.compile(_ID + rb'\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*$')


@dataclass(frozen=True, slots=True)
class Oversize:
    """A line that exceeded the size limit.

    Attributes:
        size: Its length in bytes.
        request_id: The JSON-RPC id found at either end of it, or None.
    """

    size: int
    request_id: str | int | None


def find_id(head: bytes, tail: bytes) -> str | int | None:
    """The top-level JSON-RPC id of a message of which only the two ends are known, or None."""
    match = _ID_FIRST.match(head) or _ID_LAST.search(tail)
    if match is None:
        return None
    raw = match[1]
    return raw[1:-1].decode("utf-8", "replace") if raw.startswith(b'"') else int(raw)


class LineFramer:
    """Splits a stream of bytes at newlines. Each byte is examined once, however long the line.

    Args:
        max_bytes: Maximum length of a line; a longer one is reported as `Oversize`.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._parts = bytearray()  # not a list of chunks: they may be tiny, and each would take 40 bytes
        self._size = 0
        self._head = b""
        self._tail = b""

    def feed(self, chunk: bytes) -> Iterator[bytes | Oversize]:
        """The lines that `chunk` completes, without their newlines."""
        *lines, rest = chunk.split(b"\n")
        for line in lines:
            if self._size or len(line) > self._max:
                self._append(line)
                yield self._take()
            else:
                yield line
        if rest:
            self._append(rest)

    def _append(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._max:
            self._parts += part
            return
        if not self._head:
            self._head = bytes(self._parts[:_KEPT]) + part[:_KEPT]
        self._tail = (self._tail + bytes(self._parts[-_KEPT:]) + part[-_KEPT:])[-_KEPT:]
        self._parts = bytearray()

    def _take(self) -> bytes | Oversize:
        line = Oversize(self._size, find_id(self._head, self._tail)) if self._size > self._max else bytes(self._parts)
        self._parts = bytearray()
        self._size = 0
        self._head = self._tail = b""
        return line

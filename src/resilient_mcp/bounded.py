"""Bounded collections, for what a peer, a model or time could otherwise fill without limit."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LruDict(OrderedDict[K, V]):
    """A dict of at most `limit` entries; adding one more drops the least recently used.

    Writing and `get()` count as use. Reading by `[]`, `in` and iteration do not.

    Args:
        limit: The most entries kept.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            del self[next(iter(self))]

    def get(self, key: K, default: V | None = None) -> V | None:  # type: ignore[override]
        """The value of `key`, which is now the most recently used; `default` if there is none."""
        if key not in self:
            return default
        self.move_to_end(key)
        return self[key]

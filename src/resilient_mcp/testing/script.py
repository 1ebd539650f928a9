"""What was written for a scripted server, and what reached it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .replies import Reply

CALL = "tools/call"


@dataclass(frozen=True)
class Request:
    """What reached a scripted server.

    Attributes:
        method: The JSON-RPC method; the HTTP verb of what has none.
        id: The JSON-RPC id; None for a notification.
        params: Its parameters.
        headers: The HTTP headers, with names in lower case; empty over stdio.
        pid: The process that it reached; over HTTP the one of the test.
    """

    method: str
    id: Any
    params: Mapping[str, Any]
    headers: Mapping[str, str]
    pid: int

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The arguments of a `tools/call`."""
        return self.params.get("arguments") or {}


Replies = Sequence[Reply] | Mapping[str, Sequence[Reply]]
"""The replies to `tools/call`, one for each; or the replies to several methods, by method."""
Script = Replies | Callable[[Request], Reply | None]
"""Replies; or a function that makes them, and None for the server's own answer."""


def by_method(replies: Replies) -> dict[str, list[Reply]]:
    """The replies of a script, by method."""
    if isinstance(replies, Mapping):
        return {method: list(each) for method, each in replies.items()}
    return {CALL: list(replies)}


class Log(list[Request]):
    """What reached a server, in order."""

    def of(self, method: str = CALL) -> list[Request]:
        """The requests with this method."""
        return [request for request in self if request.method == method]

    def counts(self) -> Counter[str]:
        """How many there are, by method."""
        return Counter(request.method for request in self)

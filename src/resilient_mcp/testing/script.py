"""The script of a scripted server, and the log of the requests it received."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .replies import Reply

CALL = "tools/call"


@dataclass(frozen=True)
class Request:
    """A message received by a scripted server.

    Attributes:
        method: The JSON-RPC method, or the HTTP verb of a request without one. A response has "response" over stdio.
        id: The JSON-RPC id; None for a notification.
        params: Its parameters.
        headers: The HTTP headers, with lower-case names; empty over stdio.
        pid: The process that received it; over HTTP, that of the test.
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
"""Replies to `tools/call`, one per call; or replies to several methods, by method."""
Script = Replies | Callable[[Request], Reply | None]
"""Replies; or a function that returns a reply, or None for the server's normal answer."""


def by_method(replies: Replies) -> dict[str, list[Reply]]:
    """The replies of a script, by method."""
    if isinstance(replies, Mapping):
        return {method: list(each) for method, each in replies.items()}
    return {CALL: list(replies)}


class Log(list[Request]):
    """The requests that a server received, in order."""

    def of(self, method: str = CALL) -> list[Request]:
        """The requests with this method."""
        return [request for request in self if request.method == method]

    def counts(self) -> Counter[str]:
        """The number of requests, by method."""
        return Counter(request.method for request in self)

"""How far a request got: whether its body can have left this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..._sdk.installed import http
from ...evidence import Delivery


class Departure:
    """Tracks whether a request has begun to leave.

    A server cannot run a request before it has the body, and the HTTP library's own transport reads the body when it
    writes it. Another transport may have read the content earlier. For those the library's trace is the proof, if they
    support it: a connection was started for this very request, and nothing was written.

    Args:
        client: The HTTP client that sends the request.
        reached: Called with how far it got.
    """

    def __init__(self, client: Any, reached: Callable[[Delivery], None]) -> None:
        self._client = client
        self._reached = reached
        self._request: Any = None
        self._left = False
        self._trusted = False
        self._connecting = False

    def watch(self, request: Any) -> None:
        """Watch the request sent next: the first one, or the one that follows a redirect."""
        self._request = request
        if not isinstance(request.stream, _Body):  # a redirected request reuses the stream of the first
            request.stream = _Body(request.content, self._leave)
        self._trusted = is_the_librarys_own(self._client, request.url)
        if not self._trusted:
            request.extensions.setdefault("trace", self)
        self._reached(self.delivery())

    async def __call__(self, event: str, _info: dict[str, Any]) -> None:
        """Receive an event of the library's trace."""
        self._connecting = self._connecting or event.startswith("connection.connect_")
        self._left = self._left or event.endswith("send_request_headers.started")
        self._reached(self.delivery())

    def _leave(self) -> None:
        self._left = True
        self._reached(Delivery.UNKNOWN)

    def delivery(self, failure: Exception | None = None) -> Delivery:
        """How far the request got, given the exception it failed with."""
        if self._left:
            return Delivery.UNKNOWN
        if self._trusted:
            return Delivery.NOT_SENT
        # A custom transport may have connected for this request and failed to connect for another one.
        about_another = failure is not None and getattr(failure, "_request", None) is not self._request
        return Delivery.NOT_SENT if self._connecting and not about_another else Delivery.UNKNOWN


def is_the_librarys_own(client: Any, url: Any) -> bool:
    """Whether the HTTP library's own, unmodified code sends the requests of `client` to `url`."""
    if type(client).send is not http.AsyncClient.send or "send" in vars(client):
        return False
    transport_for = getattr(client, "_transport_for_url", None)  # private; without it nothing can be proven
    return transport_for is not None and type(transport_for(url)) is http.AsyncHTTPTransport


class _Body(http.AsyncByteStream):  # type: ignore[misc]
    """The body of a request, which reports when it is read."""

    def __init__(self, content: bytes, leave: Callable[[], None]) -> None:
        self._content = content
        self._leave = leave
        self._left: list[bytes] = []

    def __aiter__(self) -> _Body:
        self._leave()
        self._left = [self._content]
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()

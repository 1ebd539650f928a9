"""Sends requests through an HTTP client: its auth flow, redirects within the origin, no secrets in logs."""

from __future__ import annotations

from typing import Any

from ...foreign_code import awaiting
from ...in_flight import Attempt
from ...text.redact import Redactor
from . import logs
from .auth import UnhurriedAuth
from .delivery import Departure
from .evidence import HTTP_CLIENT

_MAX_REDIRECTS = 20


class Sender:
    """Sends requests to one server.

    Args:
        client: The HTTP client.
        redactor: Cleans the log records of the HTTP library, and learns the credentials that requests carry.
        auth: The auth flow of every request, or None for the client's own.
    """

    def __init__(self, client: Any, redactor: Redactor, auth: Any = None) -> None:
        self.client = client
        self._auth = auth
        self._redactor = redactor

    async def send(self, request: Any, departure: Departure | None = None, attempt: Attempt | None = None) -> Any:
        """Send `request`, and follow redirects within its origin.

        Args:
            request: The request.
            departure: Watches how far it gets, or None.
            attempt: The attempt whose clock stops while the auth flow may be waiting for a person, or None.

        Returns:
            The response, whose body has not been read.

        Raises:
            Exception: Whatever the client, its auth flow, its hooks or its transport raise.
        """
        options: dict[str, Any] = {}
        if (auth := self._auth or self.client.auth) is not None:
            options["auth"] = auth if attempt is None else UnhurriedAuth(auth, attempt, self._redactor)
        followed = 0
        while True:
            if departure is not None:
                departure.watch(request)
            response = await self._send_once(request, options)
            following = request_within_origin(response)
            if following is None or followed == _MAX_REDIRECTS:
                return response
            followed += 1
            await response.aclose()
            request = following

    async def _send_once(self, request: Any, options: dict[str, Any]) -> Any:
        token = logs.sending.set(self._redactor)
        try:
            with awaiting(HTTP_CLIENT, by_caller=True):
                return await self.client.send(request, stream=True, follow_redirects=False, **options)
        finally:
            logs.sending.reset(token)
            self._redactor.learn_headers(request.headers)  # the auth flow adds credentials while sending


def request_within_origin(response: Any) -> Any | None:
    """The request that follows a redirect; None if there is none, or if it must not be followed.

    Everything in a request was meant for its origin, so the next one must have the same method, scheme, host and port
    (or go from http to https, both on their default ports), and no user name of its own. This is the SDK's rule.
    """
    following = response.next_request
    if following is None or following.method != response.request.method:
        return None
    sent, wanted = response.request.url, following.url
    if wanted.userinfo and wanted.userinfo != sent.userinfo:
        return None
    same = (sent.scheme, sent.host, sent.port) == (wanted.scheme, wanted.host, wanted.port)
    upgrade = (sent.scheme, sent.port, wanted.scheme, wanted.port) == ("http", None, "https", None)
    return following if same or (upgrade and sent.host == wanted.host) else None

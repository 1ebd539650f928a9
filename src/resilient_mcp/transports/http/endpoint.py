"""One session at one URL: its requests, with the headers that every one of them carries."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..._sdk.installed import http
from ...in_flight import Attempt
from ...text.printable import printable
from ...text.redact import Redactor
from ..jsonrpc import Unusable
from .bodies import ACCEPTED
from .client import OwnClient
from .delivery import Departure
from .headers import HeadersError, UserHeaders
from .sending import Sender

logger = logging.getLogger("resilient_mcp")

JSON = "application/json"
SSE = "text/event-stream"

SESSION_ID = "mcp-session-id"
VERSION = "mcp-protocol-version"
_LAST_EVENT = "last-event-id"


class Endpoint:
    """Sends the HTTP requests of one session.

    Args:
        url: The server's URL.
        client: The HTTP client.
        redactor: Removes secrets from log records.
        headers: The user's headers.
        auth: The user's auth, or None for that of the client.

    Attributes:
        client: The HTTP client.
        session_id: The `Mcp-Session-Id`, or None.
        version: The negotiated protocol version, or None before that.
    """

    def __init__(
        self, url: str, client: Any, redactor: Redactor, *, headers: UserHeaders | None = None, auth: Any = None
    ) -> None:
        self._url = http.URL(url)  # parsed once, which takes a twentieth of a call
        self._redactor = redactor
        self.client = client
        self._sender = Sender(client, redactor, auth)
        self._user = headers or UserHeaders(None)
        self._user_headers = self._user.current  # those that `_headers` contains
        self.session_id: str | None = None
        self.version: str | None = None
        self._headers = http.Headers()
        self._set_headers()

    def begin_session(self, session_id: str | None) -> None:
        """Send this session id from now on.

        Raises:
            Unusable: It cannot be sent.
        """
        if session_id is not None and not (session_id.isascii() and session_id.isprintable()):
            raise Unusable(f"an Mcp-Session-Id that is not visible ASCII: {printable(session_id, 100)}")
        self.session_id = session_id
        self._set_headers()

    def negotiated(self, version: str | None) -> None:
        """Send this protocol version from now on; None for none."""
        if version != self.version:
            self.version = version
            self._set_headers()

    def _set_headers(self) -> None:
        self._user_headers = self._user.current
        own = {"accept": f"{JSON}, {SSE}", "accept-encoding": ACCEPTED, "content-type": JSON}
        self._headers = http.Headers(self.client.headers if isinstance(self.client, OwnClient) else None)
        self._headers.update({name.lower(): value for name, value in self._user_headers.items()})
        self._headers.update(own)
        if self.session_id is not None:
            self._headers[SESSION_ID] = self.session_id
        if self.version is not None:
            self._headers[VERSION] = self.version

    async def open(self) -> None:
        """Get the user's headers for this connection.

        Raises:
            HeadersError: The user's function does not return any.
        """
        await self._user.fetch()

    async def post(
        self,
        body: bytes,
        headers: Mapping[str, str],
        departure: Departure | None = None,
        attempt: Attempt | None = None,
    ) -> Any:
        """POST a message; see `Sender.send`.

        Args:
            body: The message.
            headers: The headers of this message.
            departure: Watches how far it gets, or None.
            attempt: The attempt it belongs to, or None.
        """
        return await self._send("POST", headers, body, departure, attempt)

    async def get(self, last_event: bytes | None) -> Any:
        """Open a stream: the server's own, or with the id of an event, what followed that event on its stream."""
        headers: dict[str, Any] = {"accept": SSE, "cache-control": "no-store"}
        if last_event is not None:
            headers[_LAST_EVENT] = last_event
        return await self._send("GET", headers)

    async def delete(self) -> None:
        """End the session."""
        response = await self._send("DELETE", {})
        await response.aclose()

    async def _send(
        self,
        verb: str,
        headers: Mapping[str, Any],
        body: bytes | None = None,
        departure: Departure | None = None,
        attempt: Attempt | None = None,
    ) -> Any:
        """Send a request, and once more if a 401 brought other headers of the user: it was not run."""
        renewed = False
        while True:
            if self._user.current is not self._user_headers:
                self._set_headers()
            sent = self._user_headers
            request = self._build_request(verb, headers, body)
            response = await self._sender.send(request, departure, attempt)
            if response.status_code != http.codes.UNAUTHORIZED or renewed or not await self._renewed(sent):
                return response
            renewed = True
            await response.aclose()

    def _build_request(self, verb: str, headers: Mapping[str, Any], body: bytes | None) -> Any:
        merged = self._headers
        if headers:
            merged = merged.copy()
            merged.update(headers)
        if isinstance(self.client, OwnClient):
            return self.client.build_from_all_headers(verb, self._url, merged, body)
        return self.client.build_request(verb, self._url, content=body, headers=merged)

    async def _renewed(self, refused: Mapping[str, str]) -> bool:
        try:
            return await self._user.renewed(refused)
        except HeadersError as exc:
            logger.warning("the server answered 401, and %s", self._redactor.line(str(exc)))
            return False

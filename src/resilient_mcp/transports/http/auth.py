"""Auth flows of an HTTP client: while a person may have to log in, and when that fails."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Any
from urllib.parse import parse_qs

import anyio

from ..._sdk.installed import http
from ...evidence import Delivery
from ...foreign_code import awaiting
from ...in_flight import Attempt
from ...text.redact import Redactor
from ..jsonrpc import parse

logger = logging.getLogger("resilient_mcp")

# Seconds an auth flow may take between its requests, since a person may have to log in.
_PERSON = 600.0

# What is secret in the requests and the answers of a login (RFC 6749, 7523, 7591, 7636).
_SECRET = frozenset(
    {
        *("access_token", "refresh_token", "id_token", "code", "code_verifier", "password"),
        *("client_secret", "client_assertion", "assertion", "registration_access_token"),
    }
)

# Bytes of a message of a login that are read.
_READ = 64 * 1024


class AuthFlowError(Exception):
    """Raised in place of what an auth flow itself raised, which is its cause.

    Attributes:
        delivery: How far the request got for which the flow ran.
    """

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(delivery)
        self.delivery = delivery


class UnhurriedAuth(http.Auth):  # type: ignore[misc]
    """A client's auth flow, during whose steps the attempt's clock stops, since it may be waiting for a person.

    Args:
        inner: The client's flow.
        attempt: The attempt whose request it serves.
        redactor: Learns the secrets of a login.
    """

    def __init__(self, inner: Any, attempt: Attempt, redactor: Redactor) -> None:
        self._inner = inner
        self._attempt = attempt
        self._redactor = redactor

    async def async_auth_flow(self, request: Any) -> AsyncGenerator[Any, Any]:
        """Run the flow of `inner`.

        Raises:
            AuthFlowError: It raised.
        """
        flow = self._inner.async_auth_flow(request)
        self._attempt.login = over = anyio.Event()
        delivery = Delivery.NOT_SENT
        try:
            following = await self._off_the_clock(flow.__anext__())
            while True:
                # A flow may send a copy of the request, and may send it again.
                is_own = following is request or (following.method, following.url) == (request.method, request.url)
                if not is_own:
                    self._redactor.learn(_secrets_in(following.content))
                response = yield following
                if is_own:
                    refused = response.status_code in {http.codes.UNAUTHORIZED, http.codes.FORBIDDEN}
                    if delivery is not Delivery.UNKNOWN:
                        delivery = Delivery.REJECTED if refused else Delivery.UNKNOWN
                else:  # read here, before the flow can log or raise what is in it
                    self._redactor.learn(_secrets_in(await self._off_the_clock(response.aread())))
                following = await self._off_the_clock(flow.asend(response))
        except StopAsyncIteration:
            return
        except Exception as exc:
            raise AuthFlowError(delivery) from exc
        finally:
            over.set()
            with awaiting("auth", self._log, by_caller=True):  # the request is answered, or has failed already
                await flow.aclose()

    def _log(self, what: str, exc: BaseException) -> None:
        logger.warning("%s: %s", what, self._redactor.line(str(exc)))

    async def _off_the_clock(self, step: Awaitable[Any]) -> Any:
        self._attempt.pause()
        try:
            with awaiting("auth", by_caller=True), anyio.fail_after(_PERSON):
                return await step
        finally:
            self._attempt.resume()


def _secrets_in(body: bytes) -> Iterator[str]:
    """The secrets in a message of a login: a form, or JSON."""
    fields = parse(body[:_READ])
    if not isinstance(fields, dict):
        fields = {name: values[0] for name, values in parse_qs(body[:_READ].decode("utf-8", "replace")).items()}
    for name, value in fields.items():
        if name in _SECRET and isinstance(value, str) and value:
            yield value

"""Servers that speak HTTP+SSE, the transport of 2024-11-05: the SDK's own, with an HTTP client that watches it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import anyio

from .._sdk.installed import SseServerParameters, http
from .._sdk.transports import Streams, sse_transport
from ..evidence import Delivery, Evidence
from ..text.credentials import safe_url
from ..text.redact import Redactor
from .http.delivery import Departure
from .http.evidence import evidence_of, read_refusal
from .http.sending import Sender
from .jsonrpc import parse
from .server import Channel, HttpOptions, Server
from .streamable_http import check_url, network_of, secrets_of
from .watched import watched


class SseServer(Server):
    """A server at a URL that answers on a separate stream.

    Args:
        parameters: The SDK's parameters.

    Raises:
        ValueError: It is not the URL of a server.
    """

    configured_by = "the server's URL"

    def __init__(self, parameters: Any) -> None:
        check_url(parameters.url)
        self._parameters = parameters

    @classmethod
    def of(cls, given: Any, options: HttpOptions) -> Server | None:  # noqa: ARG003 - the SDK's transport makes its own
        return cls(given) if isinstance(given, SseServerParameters) else None

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - a URL is cleaned by its parts
        return safe_url(self._parameters.url)

    def secrets(self) -> Iterator[str]:
        return secrets_of(self._parameters)

    def telemetry(self) -> Mapping[str, str | int]:
        return network_of(self._parameters.url)

    @asynccontextmanager
    async def _transport(self, channel: Channel) -> AsyncIterator[Streams]:
        async with anyio.create_task_group() as background:
            watch = partial(_WatchedClient, channel=channel, background=background)
            async with sse_transport(self._parameters, watch) as streams:
                yield streams
            background.cancel_scope.cancel()

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        return watched(channel, lambda: self._transport(channel), sends=False)


class _WatchedClient:
    """Stands in for the HTTP client of the SDK's transport, and records how far each POST gets.

    The SDK's transport has one writer and only logs a failure. So each request is sent in a task of its own, an error
    ends its attempt directly, and a POST ends with its attempt.

    Args:
        inner: The client that does the I/O.
        channel: The connection.
        background: Runs what no caller waits for.
    """

    def __init__(self, inner: Any, channel: Channel, background: anyio.abc.TaskGroup) -> None:
        self._inner = inner
        self._channel = channel
        self._in_flight = channel.in_flight
        self._background = background
        self._sender = Sender(inner, channel.redactor)
        self._posts: dict[Any, anyio.CancelScope] = {}
        self._in_flight.on_abandoned = self._abort

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> _WatchedClient:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._inner.__aexit__(*exc_info)

    async def send(self, request: Any, **_: Any) -> Any:
        """Send one request of the SDK's transport; a POST never raises and never returns a status of 400 or more."""
        if request.method != "POST":
            return await self._sender.send(request)
        message = parse(request.content)
        message = message if isinstance(message, dict) else {}
        if "method" not in message or "id" not in message:
            if message.get("method") == "notifications/cancelled":
                self._background.start_soon(self._notify, message, request)  # the one writer must not wait for it
            else:
                await self._notify(message, request)
        elif not self._in_flight.is_abandoned(message["id"]):
            self._background.start_soon(self._request, message["id"], request)
        return http.Response(http.codes.ACCEPTED, request=request)

    async def _request(self, request_id: Any, request: Any) -> None:
        departure = Departure(self._inner, partial(self._in_flight.reached, request_id))
        failed: Evidence | None = None
        with anyio.CancelScope() as scope:
            self._posts[request_id] = scope
            try:
                failed = await self._post(request, departure)
            except Exception as exc:
                failed = evidence_of(exc, departure.delivery(exc), self._channel.redactor)
            finally:
                del self._posts[request_id]
        if failed is not None and (attempt := self._in_flight.get(request_id)) is not None:
            attempt.fail(failed)

    async def _notify(self, message: dict[str, Any], request: Any) -> None:
        failed: Evidence | None
        try:
            with anyio.fail_after(self._channel.policy.timeout.shutdown):
                failed = await self._post(request, None)
        except Exception as exc:
            failed = evidence_of(exc, Delivery.UNKNOWN, self._channel.redactor)
        if failed is not None and message.get("method") == "notifications/initialized":
            self._channel.on_end(failed)

    async def _post(self, request: Any, departure: Departure | None) -> Evidence | None:
        """POST a message; returns the evidence if the server refused it."""
        response = await self._sender.send(request, departure)
        if response.is_success:
            await response.aclose()
            return None
        return (await read_refusal(response, self._channel.redactor))[0]

    def _abort(self, request_id: Any) -> None:
        if (post := self._posts.get(request_id)) is not None:
            post.cancel()

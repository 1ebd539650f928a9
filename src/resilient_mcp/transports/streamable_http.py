"""Servers that speak Streamable HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from .._sdk.installed import VERSION, StreamableHttpParameters, http
from .._sdk.transports import Streams, to_seconds
from ..policy import Policy
from ..text.configured import in_header, in_pairs, in_url
from ..text.credentials import safe_url
from ..text.redact import Redactor
from .http.client import create_http_client
from .http.endpoint import Endpoint
from .http.headers import UserHeaders
from .http.transport import streamable_http
from .server import Channel, HttpOptions, Server


class StreamableHttpServer(Server):
    """A server at a URL.

    Args:
        parameters: The SDK's parameters.
        options: The user's HTTP client, which the user closes, headers and auth.

    Raises:
        ValueError: It is not the URL of a server, or a header cannot be sent.
        TypeError: The client or the auth is not of the HTTP library that the installed SDK uses.
    """

    is_ordered = False
    has_notification_stream = True
    takes_http = frozenset({"http_client", "headers", "auth"})
    configured_by = "the server's URL"

    def __init__(self, parameters: Any, options: HttpOptions) -> None:
        check_url(parameters.url)
        for name, kind in (("http_client", http.AsyncClient), ("auth", http.Auth)):
            value = getattr(options, name)
            if value is not None and not isinstance(value, kind):
                found = f"{type(value).__module__}.{type(value).__qualname__}"
                raise TypeError(f"{name} is a {found}: mcp {VERSION} needs an {http.__name__}.{kind.__name__}")
        self._parameters = parameters
        self._given_client = options.http_client
        self._headers = UserHeaders(options.headers)
        self._auth = options.auth
        self.client = options.http_client
        self.url = parameters.url

    @classmethod
    def of(cls, given: Any, options: HttpOptions) -> Server | None:
        if isinstance(given, str):
            given = StreamableHttpParameters(url=given)
        return cls(given, options) if isinstance(given, StreamableHttpParameters) else None

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - a URL is cleaned by its parts
        return safe_url(self._parameters.url)

    def secrets(self) -> Iterator[str]:
        yield from secrets_of(self._parameters)
        yield from _in_headers(self._headers.current)
        if (client := self._given_client) is not None:
            yield from _in_headers(client.headers)
            yield from in_url(str(client.base_url))
            yield from in_pairs(client.params.multi_items())
            for cookie in client.cookies.jar:
                yield from in_header("cookie", f"{cookie.name}={cookie.value}")

    def telemetry(self) -> Mapping[str, str | int]:
        return network_of(self._parameters.url)

    @asynccontextmanager
    async def running(self, policy: Policy) -> AsyncIterator[None]:
        if self._given_client is not None:
            yield
            return
        connect = min(to_seconds(self._parameters.timeout), policy.timeout.connect)
        async with create_http_client(self._parameters.url, self._parameters.headers, connect=connect) as self.client:
            yield

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        url, terminate = self._parameters.url, self._parameters.terminate_on_close
        endpoint = Endpoint(url, self.client, channel.redactor, headers=self._headers, auth=self._auth)
        return streamable_http(endpoint, channel, terminate_on_close=terminate)


def check_url(url: str) -> None:
    """Reject what is not the URL of a server.

    Raises:
        ValueError: It has no host, no HTTP scheme, or is not a URL.
    """
    shown, problem = safe_url(url), "is not a server's URL"
    try:
        parsed = http.URL(url)
        _ = urlsplit(url).port  # it refuses what the HTTP library only refuses when it connects
    except http.InvalidURL as exc:
        problem = f"is not a URL ({str(exc).partition(':')[0]})"  # after the colon it quotes what may be a secret
    except ValueError:
        problem = "is not a URL (its host or port is invalid)"
    else:
        if parsed.scheme in {"http", "https"} and parsed.host:
            return
    raise ValueError(
        f"{shown!r} {problem}: write one such as 'https://example.com/mcp', or for a command "
        "StdioServerParameters(command=..., args=[...])"
    )


def secrets_of(parameters: Any) -> Iterator[str]:
    """The secrets in the URL and the headers of the SDK's parameters."""
    yield from in_url(parameters.url)
    yield from _in_headers(parameters.headers or {})


def _in_headers(headers: Mapping[str, Any]) -> Iterator[str]:
    for name, value in headers.items():
        yield from in_header(name, str(value))


def network_of(url: str) -> dict[str, str | int]:
    """A URL as OpenTelemetry attributes."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return {"network.transport": "tcp", "server.address": parts.hostname or "", "server.port": port}

"""Servers that speak Streamable HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from .._sdk.installed import VERSION, StreamableHttpParameters, http
from .._sdk.transports import Streams, create_http_client, streamable_http_transport, to_seconds
from ..policy import Policy
from ..text.configured import in_header, in_pairs, in_url
from ..text.credentials import safe_url
from ..text.redact import Redactor
from .server import Channel, Server
from .watched import Wrap, watched


class StreamableHttpServer(Server):
    """A server at a URL.

    Args:
        parameters: The SDK's parameters.
        http_client: The user's HTTP client, which the user closes; None to create one.

    Raises:
        ValueError: It is not the URL of a server.
        TypeError: `http_client` is not a client of the HTTP library that the installed SDK uses.
    """

    is_ordered = False
    has_notification_stream = True
    takes_http_client = True
    configured_by = "the server's URL"

    def __init__(self, parameters: Any, http_client: Any = None) -> None:
        check_url(parameters.url)
        if http_client is not None and not isinstance(http_client, http.AsyncClient):
            kind = f"{type(http_client).__module__}.{type(http_client).__qualname__}"
            raise TypeError(f"http_client is a {kind}: mcp {VERSION} needs an {http.__name__}.AsyncClient")
        self._parameters = parameters
        self._given_client = http_client
        self.client = http_client
        self.url = parameters.url

    @classmethod
    def of(cls, given: Any, http_client: Any) -> Server | None:
        if isinstance(given, str):
            given = StreamableHttpParameters(url=given)
        return cls(given, http_client) if isinstance(given, StreamableHttpParameters) else None

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - a URL is cleaned by its parts
        return safe_url(self._parameters.url)

    def secrets(self) -> Iterator[str]:
        yield from secrets_of(self._parameters)
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
        async with create_http_client(self._parameters.headers, connect=connect, read=None) as self.client:
            yield

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        def connect(wrap: Wrap) -> Any:
            return streamable_http_transport(self._parameters, wrap(self.client, out_of_band=False))

        return watched(channel, connect)


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

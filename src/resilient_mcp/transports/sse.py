"""Servers that speak HTTP+SSE, the transport of 2024-11-05."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from .._sdk.installed import SseServerParameters
from .._sdk.transports import Streams, sse_transport
from ..text.credentials import safe_url
from ..text.redact import Redactor
from .server import Channel, Server
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
    def of(cls, given: Any, http_client: Any) -> Server | None:  # noqa: ARG003 - the SDK's transport makes its own
        return cls(given) if isinstance(given, SseServerParameters) else None

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - a URL is cleaned by its parts
        return safe_url(self._parameters.url)

    def secrets(self) -> Iterator[str]:
        return secrets_of(self._parameters)

    def telemetry(self) -> Mapping[str, str | int]:
        return network_of(self._parameters.url)

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        return watched(channel, lambda wrap: sse_transport(self._parameters, wrap))

"""SDK servers that run in this process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

from .._sdk.transports import Streams, in_process_transport, is_in_process_server
from ..text.redact import Redactor
from .server import Channel, HttpOptions, Server
from .watched import watched


class InProcessServer(Server):
    """A server object of the SDK, reached over memory streams.

    `mcp.Client` of 2.x calls it directly, without messages; here it is treated as any other server, so that what holds
    for those holds for it.

    Args:
        server: The server object.
    """

    detects_disconnect = True
    configured_by = "the server object"

    def __init__(self, server: Any) -> None:
        self._server = server

    @classmethod
    def of(cls, given: Any, options: HttpOptions) -> Server | None:  # noqa: ARG003 - it has no HTTP
        return cls(given) if is_in_process_server(given) else None

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - it names itself
        return getattr(self._server, "name", None) or type(self._server).__name__

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        return watched(channel, lambda: in_process_transport(self._server))

"""SDK servers that run in this process."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, cast

from .._sdk.transports import DIRECT_IN_PROCESS, Streams, in_process_transport, is_in_process_server
from ..text.redact import Redactor
from .server import Channel, Server
from .watched import watched


class InProcessServer(Server):
    """A server object of the SDK. mcp 1.x connects to it over memory streams, 2.x calls it directly.

    Args:
        server: The server object.
    """

    is_wired = not DIRECT_IN_PROCESS
    detects_disconnect = True
    configured_by = "the server object"

    def __init__(self, server: Any) -> None:
        self._server = server

    @classmethod
    def of(cls, given: Any, http_client: Any) -> Server | None:  # noqa: ARG003 - it needs none
        return cls(given) if is_in_process_server(given) else None

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - it names itself
        return getattr(self._server, "name", None) or type(self._server).__name__

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        if not self.is_wired:
            return cast("AbstractAsyncContextManager[Streams]", self._server)
        return watched(channel, lambda _: in_process_transport(self._server))

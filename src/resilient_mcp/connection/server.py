"""The kinds of server, and which of them a user passed."""

from __future__ import annotations

from typing import Any

from ..transports.foreign import ForeignServer
from ..transports.in_process import InProcessServer
from ..transports.server import Server
from ..transports.sse import SseServer
from ..transports.stdio import StdioServer
from ..transports.streamable_http import StreamableHttpServer

# Tried in this order, so the most general comes last.
KINDS: tuple[type[Server], ...] = (StdioServer, StreamableHttpServer, SseServer, InProcessServer, ForeignServer)


def server_of(given: Any, http_client: Any = None) -> Server:
    """The server that a user passed to `ResilientClient`.

    Args:
        given: Its `server`.
        http_client: Its `http_client`, or None.

    Raises:
        ValueError: It cannot work, such as an empty command.
        TypeError: It is not a server, or `http_client` has no effect with it.
    """
    for kind in KINDS:
        if (server := kind.of(given, http_client)) is not None:
            if http_client is not None and not kind.takes_http_client:
                raise TypeError(f"http_client is for Streamable HTTP servers, but the server is {type(given).__name__}")
            return server
    raise TypeError(
        f"server is {type(given).__name__}: pass a URL, StdioServerParameters, StreamableHttpParameters, "
        "SseServerParameters, a function that returns a transport, or an SDK server"
    )

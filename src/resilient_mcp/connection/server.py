"""The kinds of server, and which of them a user passed."""

from __future__ import annotations

from typing import Any

from ..transports.foreign import ForeignServer
from ..transports.in_process import InProcessServer
from ..transports.server import HttpOptions, Server
from ..transports.sse import SseServer
from ..transports.stdio import StdioServer
from ..transports.streamable_http import StreamableHttpServer

# Tried in this order, so the most general comes last.
KINDS: tuple[type[Server], ...] = (StdioServer, StreamableHttpServer, SseServer, InProcessServer, ForeignServer)
_NOTHING = HttpOptions()


def server_of(given: Any, options: HttpOptions = _NOTHING) -> Server:
    """The server that a user passed to `ResilientClient`.

    Args:
        given: Its `server`.
        options: Its HTTP options.

    Raises:
        ValueError: It cannot work, such as an empty command.
        TypeError: It is not a server, or one of `options` has no effect with it.
    """
    for kind in KINDS:
        if (server := kind.of(given, options)) is not None:
            if useless := [name for name in options.given() if name not in kind.takes_http]:
                names = " and ".join(useless)
                raise TypeError(f"{names}= is for Streamable HTTP servers, but the server is {type(given).__name__}")
            return server
    raise TypeError(
        f"server is {type(given).__name__}: pass a URL, StdioServerParameters, StreamableHttpParameters, "
        "SseServerParameters, a function that returns a transport, or an SDK server"
    )

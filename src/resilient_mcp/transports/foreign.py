"""Transports that a user's own function returns."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from .._sdk.transports import Streams
from ..text.redact import Redactor
from .server import Channel, HttpOptions, Server
from .sse import SseServer
from .stdio import StdioServer
from .streamable_http import StreamableHttpServer
from .watched import watched


class ForeignServer(Server):
    """A server behind transports that a user's function returns: context managers of (read, write, ...).

    Args:
        factory: Returns a new transport for each connection.
        name: The server's default name in messages; None for the name of the function.
    """

    configured_by = "the function that returns the transport"

    def __init__(self, factory: Callable[[], Any], name: str | None = None) -> None:
        self._factory = factory
        names = (name, getattr(factory, "name", None), getattr(factory, "__name__", None))
        self._name: str = next(filter(None, names), type(factory).__name__)

    @classmethod
    def of(cls, given: Any, options: HttpOptions) -> Server | None:  # noqa: ARG003 - it has its own
        if hasattr(given, "__aenter__"):
            return cls._of_transport(given)
        return cls(given) if callable(given) else None

    @classmethod
    def _of_transport(cls, transport: Any) -> Server:
        """A server behind copies of `transport`, which can be entered only once itself.

        Raises:
            TypeError: It cannot be copied.
        """
        # What `contextlib.asynccontextmanager` returns, such as the SDK's transports, can be created again.
        again = getattr(transport, "_recreate_cm", None)
        if again is None:
            raise TypeError(
                f"server is a transport, a {type(transport).__name__}, which can be entered only once: pass a "
                "function without arguments that returns one"
            )
        given = next(iter([*transport.args, *transport.kwds.values()]), None)  # of the SDK's function
        return cls(again, _name_of(given) or str(transport.func.__name__))

    def name(self, redactor: Redactor) -> str:  # noqa: ARG002 - from the user's code, or cleaned already
        return self._name

    def open(self, channel: Channel) -> AbstractAsyncContextManager[Streams]:
        return watched(channel, self._factory)


def _name_of(given: Any) -> str | None:
    """The name of the server that an SDK transport connects to, given its first argument; None if it is unknown."""
    kinds = (StdioServer, StreamableHttpServer, SseServer)
    try:
        server = next(filter(None, (kind.of(given, HttpOptions()) for kind in kinds)), None)
    except (TypeError, ValueError):
        return None
    return None if server is None else server.name(Redactor(server.secrets()))

"""Wrappers around the streams of the SDK's and users' transports: they map requests to attempts and report the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from mcp.shared.message import SessionMessage

from .._sdk.messages import add_meta, clean_error_response, encode, method_and_id, response_id
from .._sdk.transports import Streams
from ..evidence import Delivery, Evidence, FailureKind
from ..foreign_code import awaiting
from ..in_flight import InFlight
from ..text.printable import describe
from ..text.redact import Redactor
from .http import logs
from .inbox import Turn, is_admitted
from .server import Channel

# Whose code runs here, as named in errors.
_TRANSPORT = "the transport"


@asynccontextmanager
async def watched(channel: Channel, connect: Callable[[], Any], *, sends: bool = True) -> AsyncIterator[Streams]:
    """The wrapped streams of an SDK's or a user's transport.

    Args:
        channel: The connection that it carries.
        connect: Returns the transport.
        sends: Whether a request counts as sent once the transport has it; False if the transport reports it itself.
    """
    logs.connecting.set(channel.redactor)  # the SDK's transport starts its tasks in this context
    streams: tuple[Any, ...] = ()
    try:
        with awaiting(_TRANSPORT):
            async with connect() as streams:
                writer = WatchedWriter(streams[1], channel.in_flight, sends=sends)
                yield WatchedReader(streams[0], channel.in_flight, channel.redactor, channel.on_end), writer
    finally:
        # Not earlier: a transport that is still delivering an answer would log an error.
        with anyio.move_on_after(channel.policy.timeout.shutdown, shield=True), awaiting(_TRANSPORT):
            for stream in streams[:2]:
                await stream.aclose()


class WatchedWriter:
    """A write stream that binds each request to the attempt that writes it.

    Args:
        inner: The transport's own stream.
        in_flight: The connection's requests.
        sends: Whether a request counts as sent once `inner` has it.
    """

    def __init__(self, inner: Any, in_flight: InFlight, *, sends: bool) -> None:
        self._inner = inner
        self._in_flight = in_flight
        self._sends = sends

    async def send(self, item: SessionMessage) -> None:
        """Write one message.

        Raises:
            UnencodableError: It cannot be encoded as JSON; nothing was sent.
        """
        method, request_id = method_and_id(item)
        if method is not None and request_id is not None:
            add_meta(item, self._in_flight.sending(method, request_id))
        # An unencodable message fails here, in its caller's task. In the transport's task it would end the connection.
        encode(item)
        if method is not None and request_id is not None and self._sends:
            self._in_flight.sent(request_id)
        try:
            with awaiting(_TRANSPORT, by_caller=True):
                await self._inner.send(item)
        finally:
            if method is None:
                self._in_flight.replied(request_id)

    async def aclose(self) -> None:
        """Do nothing: the transport closes the stream when it is closed itself."""

    async def __aenter__(self) -> WatchedWriter:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class WatchedReader:
    """A read stream that records the answers passing through it, and its end.

    Args:
        inner: The transport's own stream.
        in_flight: The connection's requests.
        redactor: Removes secrets from the server's errors, before the SDK turns them into exceptions and spans.
        on_end: Called when nothing more will come.
    """

    def __init__(self, inner: Any, in_flight: InFlight, redactor: Redactor, on_end: Callable[[Evidence], None]) -> None:
        self._inner = inner
        self._in_flight = in_flight
        self._redactor = redactor
        self._on_end = on_end
        self._turn = Turn()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> WatchedReader:
        return self

    async def __anext__(self) -> Any:
        while True:
            await self._turn.over()
            try:
                with awaiting(_TRANSPORT):
                    item = await self._inner.__anext__()
            except StopAsyncIteration:
                self._on_end(Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the server closed the connection"))
                raise
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                raise
            except Exception as exc:
                text = self._redactor.line(f"{_TRANSPORT} broke: {describe(exc)}")
                self._on_end(Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, text))
                raise StopAsyncIteration from exc
            self._turn.of(item)
            if isinstance(item, Exception):
                return item
            if (answered := response_id(item)) is not None:
                self._in_flight.answered(answered)
                clean_error_response(item, self._redactor.cleaned)
                return item
            self._in_flight.hear_message()
            if is_admitted(item, self._in_flight):
                return item

    async def aclose(self) -> None:
        """Do nothing: the transport closes the stream when it is closed itself."""

    async def __aenter__(self) -> WatchedReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

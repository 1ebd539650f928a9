"""Wrappers around the streams of the SDK's and users' transports: they map requests to attempts and report the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
from mcp.shared.message import SessionMessage

from .._sdk.messages import add_meta, clean_error_response, encode, method_and_id, response_id
from .._sdk.transports import POSTS_ONE_BY_ONE, Streams
from ..evidence import Delivery, Evidence, FailureKind
from ..in_flight import InFlight, current_attempt
from ..text.redact import Redactor
from . import http_logs
from .http import HttpEdge
from .server import Channel

# Seconds to wait for a request to get from the SDK's stream to the HTTP client; far more than it takes.
_ARRIVAL = 1.0


class Wrap(Protocol):
    """Wraps the HTTP client of a connection in an `HttpEdge`."""

    def __call__(self, client: Any, *, out_of_band: bool = True) -> HttpEdge:
        """The wrapped client; `out_of_band` if answers arrive on a stream other than the POST's (HTTP+SSE)."""
        ...


@asynccontextmanager
async def watched(channel: Channel, connect: Callable[[Wrap], Any]) -> AsyncIterator[Streams]:
    """The wrapped streams of an SDK's or a user's transport.

    Args:
        channel: The connection that it carries.
        connect: Returns the transport; its argument wraps the HTTP client that the transport uses, if any.
    """
    async with anyio.create_task_group() as background:
        edges: list[HttpEdge] = []

        def wrap(client: Any, *, out_of_band: bool = True) -> HttpEdge:
            edge = HttpEdge(
                client,
                channel.in_flight,
                channel.redactor,
                spawn=background.start_soon,
                max_bytes=channel.policy.max_message_bytes,
                patience=channel.policy.timeout.shutdown,
                on_broken_handshake=channel.on_end,
                on_stream=channel.on_stream,
                out_of_band=out_of_band,
            )
            edges.append(edge)
            return edge

        http_logs.connecting.set(channel.redactor)  # the SDK's transport starts its tasks in this context
        streams: tuple[Any, ...] = ()
        try:
            async with connect(wrap) as streams:
                one_by_one = bool(edges) and POSTS_ONE_BY_ONE
                writer = WatchedWriter(streams[1], channel.in_flight, sends=not edges, one_by_one=one_by_one)
                reader = WatchedReader(streams[0], channel.in_flight, channel.redactor, channel.on_end)
                try:
                    yield reader, writer
                finally:
                    reason = channel.reason()
                    for edge in edges:
                        edge.session_lost = reason is not None and reason.kind is not FailureKind.CLOSED
        finally:
            # Not earlier: a transport that is still delivering an answer would log an error.
            with anyio.move_on_after(channel.policy.timeout.shutdown, shield=True):
                for stream in streams[:2]:
                    await stream.aclose()
        background.cancel_scope.cancel()


class WatchedWriter:
    """A write stream that binds each request to the attempt that writes it.

    Args:
        inner: The transport's own stream.
        in_flight: The connection's requests.
        sends: Whether a request counts as sent once `inner` has it; False if the HTTP transport below reports it.
        one_by_one: Whether to hand over a request only after the previous one has reached the HTTP transport below.
    """

    def __init__(self, inner: Any, in_flight: InFlight, *, sends: bool, one_by_one: bool) -> None:
        self._inner = inner
        self._in_flight = in_flight
        self._sends = sends
        self._turn = anyio.Lock() if one_by_one else None
        self._awaited: tuple[object, anyio.Event] | None = None
        in_flight.arrived = self._arrived

    async def send(self, item: SessionMessage) -> None:
        """Write one message.

        Raises:
            UnencodableError: It cannot be encoded as JSON; nothing was sent.
        """
        method, request_id = method_and_id(item)
        is_request = method is not None and request_id is not None
        if (attempt := current_attempt.get()) is not None and attempt.login is not None:
            await attempt.login_over()
        if method is not None and request_id is not None:
            add_meta(item, self._in_flight.sending(method, request_id))
        # An unencodable message fails here, in its caller's task. In the transport's task it would end the connection.
        encode(item)
        if is_request and self._sends:
            self._in_flight.sent(request_id)
        if self._turn is None:
            await self._inner.send(item)
        elif is_request:
            await self._send_in_turn(self._turn, item, request_id)
        else:
            # Without its turn, it could be sent in place of a request that has not arrived yet.
            async with self._turn:
                await self._inner.send(item)

    async def _send_in_turn(self, turn: anyio.Lock, item: SessionMessage, request_id: object) -> None:
        """See `POSTS_ONE_BY_ONE`."""
        async with turn:
            arrived = anyio.Event()
            self._awaited = request_id, arrived
            await self._inner.send(item)
            # Shielded: if a cancelled caller let the next message in, it could be sent in place of this one.
            with anyio.move_on_after(_ARRIVAL, shield=True):
                await arrived.wait()

    def _arrived(self, request_id: object) -> None:
        if self._awaited is not None and self._awaited[0] == request_id:
            self._awaited[1].set()

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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __aiter__(self) -> WatchedReader:
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._inner.__anext__()
        except StopAsyncIteration:
            self._on_end(Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the server closed the connection"))
            raise
        if isinstance(item, Exception):
            return item
        if (answered := response_id(item)) is not None:
            self._in_flight.answered(answered)
            clean_error_response(item, self._redactor.cleaned)
        else:
            self._in_flight.hear_message()
        return item

    async def aclose(self) -> None:
        """Do nothing: the transport closes the stream when it is closed itself."""

    async def __aenter__(self) -> WatchedReader:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

"""A TCP proxy on 127.0.0.1 between a client and a real server, with faults that are switched at run time."""

from __future__ import annotations

import math
import random
import secrets
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar
from urllib.parse import urlsplit

import anyio
from typing_extensions import Self

from ..event_loop import Signal
from ..testing import _sockets
from ._beside import Beside
from .toxics import Bandwidth, Direction, Latency, LimitData, ResetPeer, Slicer, SlowClose, Timeout, Toxic

_CHUNK = 16 * 1024
# Chunks buffered per direction of a connection. When the buffer is full, the sender waits, as it would without a proxy.
_CHUNKS_HELD = 16
# Seconds' worth of bytes that a `Bandwidth` passes in one piece.
_BREATH = 0.1
_BACKLOG = 128
_PORTS = {"http": 80, "https": 443}
_T = TypeVar("_T", bound=Toxic)


class FaultProxy:
    """A proxy that injects network faults between a client and a server; an async context manager.

    Toxics apply to open connections as well as to new ones, from when they are added until they are removed. Toxics of
    one direction combine: delays add up, and the tightest limit applies. Works on asyncio and trio. Exiting the context
    ends every connection through the proxy. It may be entered and exited in different tasks, so it can be used in a
    fixture of any pytest plugin.

    While the server cannot be reached, connections to the proxy are reset. After `down()` they are refused.

    Example:
        async with FaultProxy("http://127.0.0.1:8000/mcp") as proxy, ResilientClient(proxy.url) as client:
            proxy.add(Latency(0.2, jitter=0.1))
            await client.call_tool("search", {"q": "mcp"})

    Args:
        target: The server: an http or https URL, any other URL with a port, or "host:port". `url` is the same address
            through the proxy.
        seed: Seed for all randomness: which connections have a toxic, how latency and slice sizes vary. None for a
            random seed, available as `seed`.

    Attributes:
        port: The proxy's port on 127.0.0.1; set when the context is entered.
        seed: The seed of all randomness in this proxy.
        connections: The number of connections accepted.
        passed: The number of bytes passed on, by direction.

    Raises:
        ValueError: `target` has no host or no port.
    """

    port: int

    def __init__(self, target: str, *, seed: int | None = None) -> None:
        self._target = urlsplit(target if "://" in target else f"//{target}")
        host, port = self._target.hostname, self._target.port or _PORTS.get(self._target.scheme)
        if not host or not port:
            raise ValueError(f"{target!r} has no host or no port: write a URL such as http://127.0.0.1:8000/mcp")
        self._host, self._target_port = host, port
        self.seed = secrets.randbits(32) if seed is None else seed
        self.connections = 0
        self.passed: dict[Direction, int] = {"upstream": 0, "downstream": 0}
        self._toxics = _Toxics(self.seed)
        self._links: set[_Link] = set()
        self._beside = Beside()
        self._socket: socket.socket | None = None
        self._is_up = False

    async def __aenter__(self) -> Self:
        self._socket = _sockets.bind()
        self.port = self._socket.getsockname()[1]
        await self._beside.start()
        self.up()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._socket is not None
        _sockets.close_listener(self._socket)
        await self._beside.stop()

    @property
    def url(self) -> str:
        """The target's address, with the proxy as its host and port."""
        return self._target._replace(netloc=f"127.0.0.1:{self.port}").geturl().removeprefix("//")

    @property
    def open_connections(self) -> int:
        """The number of connections open through the proxy now."""
        return len(self._links)

    @property
    def toxics(self) -> tuple[Toxic, ...]:
        """The current toxics, in the order in which they were added."""
        return tuple(added.toxic for added in self._toxics.added)

    # --- faults ---

    def add(self, toxic: _T) -> _T:
        """Add a toxic, effective immediately; returns it, for `remove`."""
        self._toxics.add(toxic)
        return toxic

    def remove(self, toxic: Toxic) -> None:
        """Remove a toxic; data that it held back passes now.

        Raises:
            ValueError: The proxy does not have this toxic.
        """
        self._toxics.remove(toxic)

    def clear(self) -> None:
        """Remove all toxics."""
        for toxic in self.toxics:
            self._toxics.remove(toxic)

    def disconnect(self, *, reset: bool = False) -> None:
        """End all open connections; new ones are still accepted.

        Args:
            reset: True for "connection reset by peer", False for a normal close.
        """
        for link in self._links:
            link.end(reset=reset)

    def down(self, *, reset: bool = False) -> None:
        """End all connections and refuse new ones until `up()`. The port stays reserved.

        Args:
            reset: As in `disconnect`.
        """
        if self._is_up:
            assert self._socket is not None
            self._is_up = False
            _sockets.close_listener(self._socket)
            self._socket = _sockets.bind(self.port)
        self.disconnect(reset=reset)

    def up(self) -> None:
        """Accept connections again, on the same port."""
        if not self._is_up:
            assert self._socket is not None
            self._is_up = True
            self._socket.listen(_BACKLOG)
            self._beside.group.start_soon(self._accept, self._socket)

    # --- connections ---

    async def _accept(self, listener: socket.socket) -> None:
        while (client := await _sockets.accept(listener)) is not None:
            self.connections += 1
            link = _Link(self._toxics, self.connections, self.passed)
            self._links.add(link)
            self._beside.group.start_soon(self._serve, link, client)

    async def _serve(self, link: _Link, client: socket.socket) -> None:
        try:
            await link.run(client, self._host, self._target_port)
        finally:
            self._links.discard(link)


@dataclass(frozen=True, eq=False)
class _Added:
    """A toxic, its serial number in this proxy, and the time at which it was added."""

    toxic: Toxic
    number: int
    since: float


class _Toxics:
    """The toxics of a proxy; wakes waiters on every change."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.added: list[_Added] = []
        self._numbers = 0
        self._changed = Signal()

    def add(self, toxic: Toxic) -> None:
        self._numbers += 1
        self.added.append(_Added(toxic, self._numbers, anyio.current_time()))
        self._tell()

    def remove(self, toxic: Toxic) -> None:
        found = next((added for added in self.added if added.toxic == toxic), None)
        if found is None:
            raise ValueError(f"{toxic} was not added to this proxy")
        self.added.remove(found)
        self._tell()

    def _tell(self) -> None:
        self._changed.notify()

    async def until(self, due: Callable[[], float]) -> None:
        """Wait until the time `due()`, which is evaluated again whenever a toxic is added or removed."""
        while (left := due() - anyio.current_time()) > 0:
            with anyio.move_on_after(left):
                await self._changed.wait()


class _Link:
    """A client's connection, and the matching connection to the server."""

    def __init__(self, toxics: _Toxics, number: int, passed: dict[Direction, int]) -> None:
        self.passed = passed
        self.until = toxics.until
        self._toxics = toxics
        self._number = number
        self._began = anyio.current_time()
        self._scope = anyio.CancelScope()
        self._reset = False
        self._draws: dict[int, bool] = {}

    def end(self, *, reset: bool) -> None:
        self._reset = self._reset or reset
        self._scope.cancel()

    async def finish(self, *, reset: bool) -> None:
        """End the connection from one of its own tasks; never returns."""
        self.end(reset=reset)
        await anyio.sleep_forever()

    def chance(self, what: object) -> random.Random:
        """A random generator that depends only on the proxy's seed, the connection's number and its purpose."""
        return random.Random(f"{self._toxics.seed}/{self._number}/{what}")  # noqa: S311 - not for cryptography

    def toxics(self, kind: type[_T], direction: Direction) -> Iterator[tuple[_T, _Added]]:
        """The toxics of one kind that this connection has in one direction."""
        for added in self._toxics.added:
            if isinstance(added.toxic, kind) and added.toxic.direction == direction and self._has(added):
                yield added.toxic, added

    def _has(self, added: _Added) -> bool:
        if added.number not in self._draws:
            self._draws[added.number] = self.chance(added.number).random() < added.toxic.toxicity
        return self._draws[added.number]

    async def run(self, client: socket.socket, host: str, port: int) -> None:
        """Connect to the server and forward data both ways until both streams have ended or `end` is called."""
        server = None
        try:
            with self._scope:
                async with anyio.create_task_group() as tg:
                    tg.start_soon(self._expire)
                    upstream, downstream = _Pipe(self, "upstream"), _Pipe(self, "downstream")
                    try:
                        server = await _sockets.connect(host, port)
                    except OSError:
                        await downstream.fail()
                    else:
                        async with anyio.create_task_group() as both:
                            both.start_soon(upstream.run, client, server)
                            both.start_soon(downstream.run, server, client)
                    tg.cancel_scope.cancel()
        finally:
            for sock in (client, server):
                if sock is not None:
                    _sockets.close(sock, reset=self._reset)

    async def _expire(self) -> None:
        """Close the connection when a `Timeout` expires."""
        await self.until(self._end_of_timeouts)
        self.end(reset=False)

    def _end_of_timeouts(self) -> float:
        ends = [
            max(self._began, added.since) + toxic.timeout
            for direction in self.passed
            for toxic, added in self.toxics(Timeout, direction)
            if toxic.timeout is not None
        ]
        return min(ends, default=math.inf)


@dataclass(frozen=True)
class _Chunk:
    """Bytes received in one read and when; empty for the end of the stream, None for a reset."""

    data: bytes | None
    came: float
    chance: float


class _Pipe:
    """One direction of a connection."""

    def __init__(self, link: _Link, direction: Direction) -> None:
        self._link = link
        self._direction = direction
        self._jitter = link.chance(f"{direction} latency")
        self._sizes = link.chance(f"{direction} slices")
        self._slice_left = 0
        self._rested = -math.inf
        self._limited: Counter[int] = Counter()

    async def run(self, source: socket.socket, sink: socket.socket) -> None:
        send, receive = anyio.create_memory_object_stream[_Chunk](_CHUNKS_HELD)
        async with anyio.create_task_group() as tg, receive:
            tg.start_soon(self._read, source, send)
            try:
                async for chunk in receive:
                    await self._pass(chunk, sink)
            except OSError:  # the receiver is gone; the other direction reports that
                tg.cancel_scope.cancel()

    async def fail(self) -> None:
        """Reset the client's connection because the server cannot be reached; toxics apply to the reset."""
        await self._pass(self._chunk(None), None)

    async def _read(self, source: socket.socket, send: anyio.abc.ObjectSendStream[_Chunk]) -> None:
        async with send:
            data: bytes | None = b"more"
            while data:
                try:
                    data = await _sockets.receive(source, _CHUNK)
                except OSError:
                    data = None
                await send.send(self._chunk(data))

    def _chunk(self, data: bytes | None) -> _Chunk:
        return _Chunk(data, anyio.current_time(), self._jitter.random())

    async def _pass(self, chunk: _Chunk, sink: socket.socket | None) -> None:
        await self._link.until(lambda: self._due(chunk))
        if chunk.data is None:
            await self._link.finish(reset=True)
        elif not chunk.data:
            assert sink is not None
            sink.shutdown(socket.SHUT_WR)
        else:
            assert sink is not None
            await self._pass_data(chunk, chunk.data, sink)

    def _due(self, chunk: _Chunk) -> float:
        """When `chunk` may pass, given the current toxics."""
        if any(self._toxics(Timeout)):
            return math.inf
        due = chunk.came + sum(toxic.latency + toxic.jitter * (2 * chunk.chance - 1) for toxic in self._toxics(Latency))
        if chunk.data:
            return due + max((toxic.timeout for toxic in self._toxics(ResetPeer)), default=0.0)
        return due + sum(toxic.delay for toxic in self._toxics(SlowClose))

    async def _pass_data(self, chunk: _Chunk, data: bytes, sink: socket.socket) -> None:
        while data:
            began, size = anyio.current_time(), self._next_size(len(data))

            def due(began: float = began, size: int = size) -> float:
                rested = self._rested if any(self._toxics(Slicer)) else -math.inf
                return max(self._due(chunk), began + size / self._rate(), rested)

            await self._link.until(due)
            if any(self._toxics(ResetPeer)):
                await self._link.finish(reset=True)
            left, reset = self._left()
            piece, data = data[: min(size, left)], data[min(size, left) :]
            await _sockets.send(sink, piece)
            self._count(len(piece))
            if len(piece) == left:
                await self._link.finish(reset=reset)

    def _next_size(self, length: int) -> int:
        """How many of the next `length` bytes are sent in one piece."""
        sizes = [(toxic.average_size, toxic.size_variation) for toxic in self._toxics(Slicer)]
        if not sizes:
            self._slice_left = length
        elif not self._slice_left:
            average, variation = min(sizes)
            self._slice_left = average + self._sizes.randint(-variation, variation)
        return math.ceil(min(length, self._slice_left, self._rate() * _BREATH))

    def _rate(self) -> float:
        return min((toxic.rate for toxic in self._toxics(Bandwidth)), default=math.inf)

    def _left(self) -> tuple[int, bool]:
        """How many bytes may still pass, and whether a reset follows them."""
        limits = [
            (max(0, toxic.bytes - self._limited[added.number]), toxic.reset)
            for toxic, added in self._link.toxics(LimitData, self._direction)
        ]
        return min(limits, default=(sys.maxsize, False))

    def _count(self, size: int) -> None:
        """Account for a piece of `size` bytes that was sent."""
        self._link.passed[self._direction] += size
        for _, added in self._link.toxics(LimitData, self._direction):
            self._limited[added.number] += size
        self._slice_left = max(0, self._slice_left - size)
        if not self._slice_left:
            self._rested = anyio.current_time() + max((toxic.delay for toxic in self._toxics(Slicer)), default=0.0)

    def _toxics(self, kind: type[_T]) -> Iterator[_T]:
        return (toxic for toxic, _ in self._link.toxics(kind, self._direction))

"""Plain sockets without an event loop's buffers, so that closes, resets and back-pressure are real."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys

import anyio

_LOOPBACK = "127.0.0.1"
_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, 10035})  # 10035 is WSAEWOULDBLOCK
_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
# Seconds until a failed accept is retried: the process may be out of file descriptors for a while.
_NO_DESCRIPTOR = 0.05


def bind(port: int = 0) -> socket.socket:
    """A socket bound to a port of 127.0.0.1, by default any free one. Until it listens, connections are refused."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":  # on Windows the option would allow two listeners on one port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((_LOOPBACK, port))
    except BaseException:
        sock.close()
        raise
    return sock


def close_listener(sock: socket.socket) -> None:
    """Close a listener that a task may be waiting on; its `accept` then returns None."""
    anyio.notify_closing(sock)
    sock.close()


async def accept(listener: socket.socket) -> socket.socket | None:
    """The next connection; None once the listener is closed."""
    while listener.fileno() >= 0:
        with contextlib.suppress(anyio.ClosedResourceError):
            await anyio.wait_readable(listener)
            if (sock := await _accept(listener)) is not None:
                return sock
    return None


async def _accept(listener: socket.socket) -> socket.socket | None:
    try:
        sock, _ = listener.accept()
    except BlockingIOError:
        return None
    except OSError:  # the process may be out of file descriptors
        await anyio.sleep(_NO_DESCRIPTOR)
        return None
    _prepare(sock)
    return sock


async def connect(host: str, port: int) -> socket.socket:
    """Connect to the first of a host's addresses that accepts a connection.

    Raises:
        OSError: None of them does.
    """
    failure = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            code = sock.connect_ex(address)
            if code in _UNDER_WAY:
                await anyio.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if not code:
                _prepare(sock)
                return sock
            failure = OSError(code, f"{host}:{port} cannot be reached")
        except BaseException:
            sock.close()
            raise
        sock.close()
    raise failure


def _prepare(sock: socket.socket) -> None:
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # separate writes should arrive separately


async def receive(sock: socket.socket, size: int) -> bytes:
    """Receive the next bytes, at most `size`; empty at the end of the stream.

    Raises:
        OSError: The peer reset the connection.
    """
    while True:
        with contextlib.suppress(BlockingIOError):
            return sock.recv(size)
        await anyio.wait_readable(sock)


async def send(sock: socket.socket, data: bytes) -> None:
    """Send all of `data`, waiting while the peer does not read.

    Raises:
        OSError: The connection is gone.
    """
    view = memoryview(data)
    while view:
        with contextlib.suppress(BlockingIOError):
            view = view[sock.send(view) :]
            continue
        await anyio.wait_writable(sock)


def close(sock: socket.socket, *, reset: bool = False) -> None:
    """Close a connection with a FIN, or with a RST, which the peer sees as "connection reset by peer"."""
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    sock.close()

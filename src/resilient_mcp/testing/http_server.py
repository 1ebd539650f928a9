"""A scripted MCP server over Streamable HTTP, on a real socket on 127.0.0.1."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from types import TracebackType
from typing import Any

import anyio
from typing_extensions import Self

from ..event_loop import Signal
from ..testing import _protocol, _sockets
from ._beside import Beside
from .replies import HttpReply, Reply, SseEvent
from .script import CALL, Log, Request, Script, by_method

_BACKLOG = 128
_READ = 64 * 1024
_OWN_STATUS = {"GET": 405, "DELETE": 200}
_JSON = ("content-type", "application/json")


class ScriptedHttpServer:
    """A well-behaved server, except where a script says otherwise; an async context manager.

    A script is a list of replies, one per `tools/call`; or a mapping from methods ("initialize", "tools/list",
    "notifications/initialized", "GET", "DELETE", ...) to such lists; or a function that takes each `Request` and
    returns a reply or None. When a list is used up, or the function returns None, the server answers normally: a
    `tools/call` returns its argument `text`.

    The context may be entered and exited in different tasks. Exiting closes all connections.

    Example:
        async with ScriptedHttpServer([HttpReply.refusal(503, retry_after=1), Reply.ok("hello")]) as server:
            async with ResilientClient(server.url) as client:
                await client.call_tool("echo")

    Args:
        script: The script.
        sse: Whether answers are sent as server-sent events instead of JSON.
        sessions: Whether it assigns session ids and answers unknown ones with 404.
        modern: Whether it speaks only 2026-07-28, which has no sessions; otherwise it speaks versions up to 2025-11-25.
        tools: Its tools, as sent on the wire.

    Attributes:
        url: Its URL; set when the context is entered.
        requests: The requests received so far: `requests.of("tools/call")`, `requests.counts()`.
        connections: The number of connections accepted.

    Raises:
        TypeError: A reply can only be sent over stdio.
    """

    url: str

    def __init__(
        self,
        script: Script = (),
        *,
        sse: bool = False,
        sessions: bool = True,
        modern: bool = False,
        tools: Sequence[Mapping[str, Any]] = _protocol.TOOLS,
    ) -> None:
        self.requests = Log()
        self.connections = 0
        self._function = script if callable(script) else None
        replies = {} if callable(script) else by_method(script)
        self._replies = {method: [_over_http(reply) for reply in each] for method, each in replies.items()}
        self._sse = sse
        self._sessions = sessions and not modern
        self._known = _protocol.results(tools, modern=modern)
        self._session = 0
        self._first_valid = 1
        self._arrived = Signal()
        self._open: set[_Connection] = set()
        self._beside = Beside()

    async def __aenter__(self) -> Self:
        self._listener = _sockets.bind()
        self._listener.listen(_BACKLOG)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/mcp"
        await self._beside.start()
        self._beside.group.start_soon(self._accept)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        _sockets.close_listener(self._listener)
        await self._beside.stop()

    def then(self, *replies: Reply, to: str = CALL) -> None:
        """Append replies to the script of a method."""
        self._replies.setdefault(to, []).extend(_over_http(reply) for reply in replies)

    async def received(self, method: str = CALL, count: int = 1) -> Request:
        """Wait for the `count`-th request with this method, whether or not it has been answered."""
        while len(found := self.requests.of(method)) < count:
            await self._arrived.wait()
        return found[count - 1]

    def forget_sessions(self) -> None:
        """Answer every session id assigned so far with 404, as a restarted server does."""
        self._first_valid = self._session + 1

    def disconnect(self, *, reset: bool = True) -> None:
        """Close all open connections, with a reset or with a normal close."""
        for connection in self._open:
            connection.end(reset=reset)

    # --- connections ---

    async def _accept(self) -> None:
        while (sock := await _sockets.accept(self._listener)) is not None:
            self.connections += 1
            connection = _Connection(sock)
            self._open.add(connection)
            self._beside.group.start_soon(self._serve, connection)

    async def _serve(self, connection: _Connection) -> None:
        try:
            await connection.serve(self._exchange)
        finally:
            self._open.discard(connection)

    async def _exchange(self, connection: _Connection) -> bool:
        """Read one request and send its reply. Returns whether the connection stays open."""
        head, body = await connection.read_request()
        verb, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        message = json.loads(body) if body else {}
        method = message.get("method") or verb.split()[0]
        request = Request(method, message.get("id"), message.get("params") or {}, headers, os.getpid())
        self.requests.append(request)
        self._arrived.notify()
        reply = self._complete(self._reply(request), request)
        await anyio.sleep(reply.delay)
        return await connection.send(reply)

    def _reply(self, request: Request) -> HttpReply:
        """The scripted reply to a request; a 404 for an unknown session, or an empty reply, if there is none."""
        written: Reply | None = None
        if self._function is not None:
            written = self._function(request)
        elif waiting := self._replies.get(request.method):
            written = waiting.pop(0)
        if written is None and self._is_unknown(request):
            written = HttpReply.refusal(404)
        return _over_http(written or Reply())

    def _is_unknown(self, request: Request) -> bool:
        session = request.headers.get("mcp-session-id")
        if session is None or not self._sessions or request.method == "initialize":
            return False
        return not session.isdigit() or int(session) < self._first_valid

    def _complete(self, reply: HttpReply, request: Request) -> HttpReply:
        """The reply with everything it left to the server filled in, and its messages turned into a body or events."""
        if reply.headless or reply.body is not None:
            return reply
        messages, hangs = reply.messages, reply.hangs
        if messages is None:
            messages = () if request.id is None else _protocol.answer(request.method, request.params, self._known)
            hangs = hangs or any(
                "id" not in message for message in messages
            )  # acknowledged only: a subscription stream stays open
            if request.method == "initialize" and self._sessions:
                self._session += 1
                reply = replace(reply, headers=(*reply.headers, ("mcp-session-id", str(self._session))))
        if reply.events is not None:
            events = tuple(replace(event, data=_text(event.data, request.id)) for event in reply.events)
            return replace(reply, events=events, sent=None if reply.sent == _protocol.HALF else reply.sent)
        texts = [json.dumps(message) for message in _protocol.addressed(messages, request.id)]
        if not texts and hangs:
            return replace(reply, headless=True, hangs=True)
        if not texts:
            status = _OWN_STATUS.get(request.method, 202) if reply.status == HTTPStatus.OK else reply.status
            return replace(reply, status=status, body=b"")
        if self._sse or hangs or len(texts) > 1:
            return replace(reply, events=tuple(SseEvent(data=text) for text in texts), hangs=hangs)
        return replace(reply, headers=(_JSON, *reply.headers), body=texts[0].encode())


class _Connection:
    """One client connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._data = b""
        self._reset = False
        self._scope = anyio.CancelScope()

    def end(self, *, reset: bool) -> None:
        self._reset = reset
        self._scope.cancel()

    async def serve(self, exchange: Callable[[_Connection], Awaitable[bool]]) -> None:
        """Run exchanges until one of them, or the client, ends the connection."""
        try:
            with self._scope, contextlib.suppress(OSError, EOFError):
                while await exchange(self):
                    pass
        finally:
            _sockets.close(self._sock, reset=self._reset)

    async def read_request(self) -> tuple[bytes, bytes]:
        """The head and the body of the next request.

        Raises:
            EOFError: The client closed the connection.
            OSError: The client reset the connection.
        """
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            await self._read()
        head, self._data = self._data[:end], self._data[end + 4 :]
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        while len(self._data) < size:
            await self._read()
        body, self._data = self._data[:size], self._data[size:]
        return head, body

    async def _read(self) -> None:
        data = await _sockets.receive(self._sock, _READ)
        if not data:
            raise EOFError
        self._data += data

    async def send(self, reply: HttpReply) -> bool:
        """Send a completed reply. Returns whether the connection stays open."""
        if not reply.headless and reply.events is not None:
            await self._send_head(reply, ("content-type", "text/event-stream"), ("transfer-encoding", "chunked"))
            texts = [_encoded(event) for event in reply.events]
            left = _sent(reply, sum(map(len, texts)))
            for event, text in zip(reply.events, texts, strict=True):
                await anyio.sleep(event.delay)
                if left > 0:
                    await self._send_chunk(text[:left])
                left -= len(text)
        elif not reply.headless:
            assert reply.body is not None
            announced = len(reply.body) if reply.announced is None else reply.announced
            await self._send_head(reply, ("content-length", str(announced)))
            await _sockets.send(self._sock, reply.body[: _sent(reply, len(reply.body))])
        if reply.hangs:
            while True:
                await self._read()
        self._reset = reply.end == "reset"
        if reply.end == "keep" and reply.events is not None:
            await self._send_chunk(b"")
        return reply.end == "keep"

    async def _send_chunk(self, data: bytes) -> None:
        await _sockets.send(self._sock, b"%x\r\n%s\r\n" % (len(data), data))

    async def _send_head(self, reply: HttpReply, *headers: tuple[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in {**dict(headers), **dict(reply.headers)}.items())
        await _sockets.send(self._sock, f"HTTP/1.1 {reply.status} Scripted\r\n{lines}\r\n".encode("latin-1"))


def _over_http(reply: Reply) -> HttpReply:
    if isinstance(reply, HttpReply):
        return reply
    if type(reply) is not Reply:
        raise TypeError(f"{reply!r} cannot be sent over HTTP")
    return HttpReply(messages=reply.messages, delay=reply.delay, hangs=reply.hangs)


def _sent(reply: HttpReply, size: int) -> int:
    """How many of `size` bytes are sent."""
    if reply.sent is None:
        return size
    return size // 2 if reply.sent == _protocol.HALF else reply.sent


def _text(data: Mapping[str, Any] | str | None, request_id: Any) -> str | None:
    return json.dumps(_protocol.addressed([data], request_id)[0]) if isinstance(data, Mapping) else data


def _encoded(event: SseEvent) -> bytes:
    lines = [] if event.id is None else [f"id: {event.id}"]
    if event.retry is not None:
        lines.append(f"retry: {event.retry}")
    if event.data is not None:
        assert isinstance(event.data, str)
        lines += [f"data: {line}" for line in event.data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode()

"""Opens the connections of one server: transport, handshake, and what ends them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

import anyio
from mcp import StdioServerParameters
from typing_extensions import Self

from .._sdk.installed import SseServerParameters, StreamableHttpParameters, http
from .._sdk.session import Session
from .._sdk.transports import (
    DIRECT_IN_PROCESS,
    POSTS_ONE_BY_ONE,
    create_http_client,
    in_process_transport,
    is_in_process_server,
    sse_transport,
    streamable_http_transport,
    to_seconds,
)
from ..events import GarbageOnStdout
from ..evidence import Delivery, Evidence, FailureKind
from ..in_flight import Attempt, InFlight, RequestId, current_attempt
from ..observability.hub import Hub, logger
from ..policy import Policy
from ..text.redact import Redactor
from ..transports import http_logs
from ..transports.host_requests import Link, linked
from ..transports.http import HttpEdge, evidence_of, is_about_auth
from ..transports.process import ServerProcess, is_stopped
from ..transports.stderr import StderrLines
from ..transports.stdio import stdio
from ..transports.watched import WatchedReader, WatchedWriter
from ..verdicts.classifier import is_outage, is_session_lost
from ..verdicts.verdict import AttemptError
from .generation import Connection

# The callbacks that answer server requests.
_ANSWERING = ("sampling_callback", "elicitation_callback", "list_roots_callback")


# Characters kept of the last stderr line of a starting process.
_STDERR_LINE = 200


class _Outage(Exception):  # noqa: N818 - a signal within this module
    """`server/discover` met an outage, which does not reveal the protocol era: do not fall back to `initialize`."""

    def __init__(self, evidence: Evidence | None) -> None:
        super().__init__(evidence.detail if evidence is not None else "server/discover was not answered")


@dataclass(slots=True, eq=False)
class _Handshake(Attempt):
    """The attempt that negotiates. It keeps the SDK from mistaking an outage for an old server.

    Attributes:
        method: The method of its latest request.
        discover_timed_out: Whether `server/discover` was sent and never answered.
        policy: Defines what an HTTP status means.
        in_order: Whether requests arrive in the order in which they are written. If so, a server that is slow to start
            can be sent both `server/discover` and `initialize` on one connection, and no request is lost unless the
            connection is.
    """

    policy: Policy = field(kw_only=True)
    in_order: bool = field(kw_only=True)
    method: str = ""
    discover_timed_out: bool = False

    def sending(self, method: str, request_id: RequestId) -> None:
        # SDK 2.x falls back to `initialize` after almost any error, even one that stems from an outage. That would
        # settle on the old era with a server that speaks the new one: raise instead, and the handshake is retried.
        if method == "initialize" and self.method == "server/discover":
            unanswered = not self.answered and self.evidence is None
            self.discover_timed_out = unanswered and not self.overtaken
            lost = unanswered and not self.in_order
            if lost or self.overtaken or is_outage(self.evidence, self.policy):
                raise _Outage(self.evidence)
        # Called on the class: zero-argument super() does not work in a dataclass with slots.
        Attempt.sending(self, method, request_id)
        self.method = method


class Connector:
    """Opens the connections to one server; an async context manager that owns the HTTP client they share.

    Args:
        server: What to connect to: the SDK's parameters, a transport factory, or an in-process SDK server.
        policy: The server's limits.
        options: Callbacks and options for the SDK's session.
        http_client: The user's HTTP client, which the user closes; None to create one if the server needs it.
        hub: Where garbage on stdout is reported.
        errlog: Receives the stderr output of the server process; may be None.

    Attributes:
        link: Answers server requests, from the next connection on, or None. Not used for an in-process server that is
            called without a wire (mcp 2.x).
        opening: The latest connection, while it is being opened and afterwards.
    """

    def __init__(
        self,
        server: Any,
        policy: Policy,
        options: Mapping[str, Any],
        http_client: Any,
        hub: Hub,
        *,
        errlog: TextIO | None,
    ) -> None:
        self._server = server
        self._errlog = errlog
        self._policy = policy
        self._options = options
        self._http_client = http_client
        self._own_client: Any = None
        self._hub = hub
        self._legacy = False
        self.link: Link | None = None
        self.opening: _Opening | None = None
        self.is_process = isinstance(server, StdioServerParameters)

    async def __aenter__(self) -> Self:
        if isinstance(self._server, StreamableHttpParameters) and self._http_client is None:
            connect = min(to_seconds(self._server.timeout), self._policy.timeout.connect)
            client = create_http_client(self._server.headers, connect=connect, read=None)
            self._http_client = self._own_client = await client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._own_client is not None:
            await self._own_client.__aexit__(*exc_info)

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[Connection]:
        """Connect, negotiate and yield the connection; close it on exit.

        Raises:
            Failed: It could not be opened, or broke while it was open; carries what is known about it.
        """
        limit = self._policy.timeout.connect
        scope = anyio.CancelScope(deadline=anyio.current_time() + limit)
        in_order = not isinstance(self._server, StreamableHttpParameters)
        handshake = _Handshake(scope, policy=self._policy, in_order=in_order)
        self.opening = opening = _Opening(generation, handshake, self._hub.redactor, is_process=self.is_process)
        failure: Exception | None = None
        try:
            with handshake.scope:
                target = self._target(opening)
                if self.link is not None and opening.wired:
                    target = linked(target, self.link, opening.waiting_for_us)
                token = current_attempt.set(handshake)
                options = {**self._options, **opening.timed(self._options)}
                async with Session.open(target, options, legacy=self._legacy) as session:
                    current_attempt.reset(token)
                    handshake.scope.deadline = math.inf
                    self._legacy = session.is_legacy
                    yield opening.done(session)
        except Exception as exc:
            failure = self._hub.redactor.clean_error(exc)
        connected = opening.connection is not None
        if connected and failure is None:
            return
        if not connected:
            self._legacy = handshake.discover_timed_out
            if self._legacy:
                logger.debug("%s did not answer server/discover; using initialize next", self._hub.server)
        evidence = opening.ended or handshake.evidence
        leaf = first_leaf(failure)
        if evidence is None and leaf is not None and (isinstance(leaf, http.HTTPError) or is_about_auth(leaf)):
            unsent = not connected and isinstance(leaf, http.ConnectError | http.ConnectTimeout)
            delivery = Delivery.NOT_SENT if unsent else Delivery.UNKNOWN
            evidence = evidence_of(leaf, delivery, self._hub.redactor)
        if evidence is None and (failure is None or isinstance(leaf, _Outage)):
            text = f"no handshake within {limit:g} s" if failure is None else str(leaf)
            evidence = Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, text)
        raise AttemptError(leaf, evidence, premature=handshake.overtaken) from failure

    def _target(self, opening: _Opening) -> Any:
        """The target for `Session.open`: a context manager of watched streams, or on 2.x an in-process server."""
        server = self._server
        if DIRECT_IN_PROCESS and is_in_process_server(server):
            opening.wired = False
            return server
        if self.is_process:
            return stdio(
                server,
                opening.in_flight,
                self._hub.redactor,
                max_bytes=self._policy.max_message_bytes,
                shutdown=self._policy.timeout.shutdown,
                stderr=StderrLines(self._hub.server, self._hub.redactor, self._errlog),
                on_garbage=lambda sample: self._on_garbage(opening, sample),
                on_start=opening.on_start,
                on_end=opening.on_end,
            )
        return self._watched(opening)

    def _on_garbage(self, opening: _Opening, sample: str) -> None:
        opening.garbage += 1
        if opening.garbage == 1:
            self._hub.emit(GarbageOnStdout(server=self._hub.server, generation=opening.generation, sample=sample))

    @asynccontextmanager
    async def _watched(self, opening: _Opening) -> AsyncIterator[tuple[Any, Any]]:
        """The watched streams of a transport from the SDK or the user."""
        server = self._server
        async with anyio.create_task_group() as background:
            edges: list[HttpEdge] = []

            def wrap(client: Any, *, out_of_band: bool = True) -> HttpEdge:
                edge = HttpEdge(
                    client,
                    opening.in_flight,
                    self._hub.redactor,
                    spawn=background.start_soon,
                    max_bytes=self._policy.max_message_bytes,
                    patience=self._policy.timeout.shutdown,
                    on_broken_handshake=opening.on_end,
                    on_stream=opening.on_stream,
                    out_of_band=out_of_band,
                )
                edges.append(edge)
                return edge

            transport: Any
            http_logs.connecting.set(self._hub.redactor)  # inherited by the tasks that the SDK's transport starts
            if isinstance(server, StreamableHttpParameters):
                opening.hears_by_stream = True
                transport = streamable_http_transport(server, wrap(self._http_client, out_of_band=False))
            elif isinstance(server, SseServerParameters):
                transport = sse_transport(server, wrap)
            elif is_in_process_server(server):
                transport = in_process_transport(server)
            else:
                transport = server()
            streams: tuple[Any, ...] = ()
            try:
                async with transport as streams:
                    one_by_one = bool(edges) and POSTS_ONE_BY_ONE
                    writer = WatchedWriter(streams[1], opening.in_flight, sends=not edges, one_by_one=one_by_one)
                    reader = WatchedReader(streams[0], opening.in_flight, self._hub.redactor, opening.on_end)
                    try:
                        yield reader, writer
                    finally:
                        reason = opening.connection.reason if opening.connection is not None else None
                        for edge in edges:
                            edge.session_lost = reason is not None and reason.kind is not FailureKind.CLOSED
            finally:
                # Only after the transport has exited: one that is still delivering a response would log an error.
                with anyio.move_on_after(self._policy.timeout.shutdown, shield=True):
                    for stream in streams[:2]:
                        await stream.aclose()
            background.cancel_scope.cancel()


class _Opening:
    """State shared by the parts of one connection, from its opening to its end."""

    def __init__(self, generation: int, handshake: _Handshake, redactor: Redactor, *, is_process: bool) -> None:
        self.generation = generation
        self._redactor = redactor
        self.is_process = is_process
        self.in_flight = InFlight()
        self.connection: Connection | None = None
        self.ended: Evidence | None = None
        self.wired = True
        self.garbage = 0
        self.began = anyio.current_time()
        self._process: ServerProcess | None = None
        self.hears_by_stream = False
        self._hearing = anyio.Event()
        self._streamed = False
        self._handshake = handshake

    def done(self, session: Session) -> Connection:
        """Complete the handshake and return the connection."""
        self.in_flight.forget(self._handshake)
        if not self.hears_by_stream or not session.is_legacy:
            self._hearing.set()
        self.connection = Connection(
            self.generation,
            session,
            self.in_flight,
            wired=self.wired,
            is_process=self.is_process,
            redactor=self._redactor,
            hearing=self._hearing,
            is_stopped=self._is_stopped,
        )
        if self.ended is not None:  # the transport ended before there was a connection to inform
            self.connection.end(self.ended)
        return self.connection

    def on_start(self, process: ServerProcess) -> None:
        """The server's process was started."""
        self._process = process

    def _is_stopped(self) -> bool:
        return self._process is not None and is_stopped(self._process.pid)

    @property
    def last_line(self) -> str:
        """The last line that the process wrote to stderr, printable; empty if there is none."""
        tail = "" if self._process is None else self._process.stderr
        lines = [line for line in tail.splitlines() if line.strip()]
        return self._redactor.line(lines[-1], _STDERR_LINE) if lines else ""

    @contextmanager
    def waiting_for_us(self) -> Iterator[None]:
        """While the server waits for this client; see `Connection.waiting_for_us`."""
        if self.connection is None:
            yield
        else:
            with self.connection.waiting_for_us():
                yield

    def timed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The callbacks that answer server requests, wrapped so that the clocks stop while they run."""
        return {name: self._timed(options[name]) for name in _ANSWERING if options.get(name) is not None}

    def _timed(self, callback: Any) -> Any:
        async def answer(*args: Any, **options: Any) -> Any:
            with self.waiting_for_us():
                return await callback(*args, **options)

        return answer

    def on_stream(self, refusal: Evidence | None) -> None:
        """The server's notification stream (GET) was opened, or refused with `refusal`.

        A 404 means a lost session only if the stream was open before; otherwise the server has no such stream.
        """
        connection = self.connection
        if refusal is None:
            if self._streamed and connection is not None:
                connection.on_gap()
            self._streamed = True
        elif self._streamed and connection is not None and is_session_lost(refusal):
            connection.lose(refusal)
        self._hearing.set()

    def on_end(self, evidence: Evidence) -> None:
        """The transport ended."""
        self.ended = self.ended or evidence
        if self.connection is not None:
            self.connection.end(evidence)


def first_leaf(exc: Exception | None) -> Exception | None:
    """The first leaf of nested exception groups."""
    while leaves := getattr(exc, "exceptions", None):
        exc = leaves[0]
    return exc

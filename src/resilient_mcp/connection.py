"""One generation: a transport and an SDK session, opened once, used, closed once, all in one task.

A connection is never repaired; the supervisor replaces it. Callers borrow its session through `Connection.call`, which
races the end of the connection and never outlives its deadline.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO, TypeAlias

import anyio
from typing_extensions import Self

from . import _sdk
from .classifier import is_outage, is_session_lost
from .events import GarbageOnStdout, Hub, current_call, logger
from .evidence import Attempt, Delivery, Evidence, InFlight, Kind, RequestId, current_attempt, printable
from .policy import Policy
from .redact import Redactor
from .transports import http_logs
from .transports.foreign import WatchedReader, WatchedWriter
from .transports.http import HttpEdge, evidence_of, is_about_auth
from .transports.linked import Link, linked
from .transports.process import ServerProcess, is_stopped
from .transports.stderr import StderrLines
from .transports.stdio import stdio
from .waits import loop_time

_END_PATIENCE = 2.0
"""Seconds a call that the SDK woke with "connection closed" waits to learn why."""
_ANSWER_PATIENCE = 1.0
"""Seconds an answer that was seen on the wire may take to its caller after its connection ended."""
_LOOK = 5.0
"""Seconds between two looks at whether a process may be frozen."""
_SILENCE = 60.0
"""Seconds of silence after which a process that let a call run into its limit is asked whether it is alive."""
_STOPPED_SILENCE = 30.0
"""The same where the operating system says that it is stopped: nobody needs to wait for a limit then."""
_LIVELY = 1.0
"""Seconds for which a server that said something is taken to be alive."""
_UNAVAILABLE = 503
_ANSWERING = ("sampling_callback", "elicitation_callback", "list_roots_callback")
"""The callbacks that answer what a server asks."""
_STDERR_LINE = 200
"""Characters of the line that a starting process wrote last."""
_CANCEL_PATIENCE = 1.0
"""Seconds to tell a server that a call was given up."""

Invoke: TypeAlias = Callable[[_sdk.Session, Any], Awaitable[Any]]
"""An operation: what it does with a session and a progress callback (or None)."""


class Failed(Exception):  # noqa: N818 - a signal between modules, never seen by users
    """A try failed.

    Attributes:
        cause: What the SDK raised, or None.
        evidence: What an edge saw, or None when the server's own answer, or its caller, is behind the failure.
        delivery: How far the last request got.
        silent: Whether nothing was heard from the server meanwhile.
        lively: Whether the server itself said something just now, to whomever.
        premature: Whether a connection was only given up too early: the same may be tried at once.
        earlier: Whether other requests went before the one that failed, and were delivered.
    """

    def __init__(
        self,
        cause: Exception | None,
        evidence: Evidence | None,
        *,
        delivery: Delivery = Delivery.UNKNOWN,
        silent: bool = False,
        lively: bool = False,
        premature: bool = False,
        earlier: bool = False,
    ) -> None:
        super().__init__(cause, evidence)
        self.cause = cause
        self.evidence = evidence
        self.delivery = delivery if evidence is None else evidence.delivery
        self.silent = silent
        self.lively = lively
        self.premature = premature
        self.earlier = earlier

    @property
    def is_shed(self) -> bool:
        """Whether it was a 503 of a server that answers others: it sheds load, as nginx's `limit_req` does."""
        return self.lively and self.evidence is not None and self.evidence.http_status == _UNAVAILABLE


@dataclass(eq=False)
class Connection:
    """A ready session that callers borrow.

    Attributes:
        generation: Counts the connections of this client, from 1.
        session: The negotiated SDK session.
        in_flight: Its requests on the wire.
        wired: Whether its requests pass an edge of ours; an in-process server of mcp 2.x has no wire.
        is_process: Whether the server is a process of ours.
        redactor: Takes secrets out of what calls raise.
        suspected: Set when its process seems to hang, and when it is lost.
        lost: Set when the connection takes no more calls.
        at_rest: Set when what runs beside the calls has ended, as it must before the session does; None without such.
        hearing: Set when what the server says unasked can arrive, as far as that is known.
        on_gap: Called when some of what it said unasked may have been missed.
        is_stopped: Whether the operating system says that its process does not run.
        reason: Why it was lost, or None.
        answered_at: When the server last answered a call or, before that, when the handshake was done.
    """

    generation: int
    session: _sdk.Session
    in_flight: InFlight
    wired: bool = True
    is_process: bool = False
    redactor: Redactor = field(default_factory=Redactor)
    suspected: anyio.Event = field(default_factory=anyio.Event)
    lost: anyio.Event = field(default_factory=anyio.Event)
    at_rest: anyio.Event | None = None
    hearing: anyio.Event = field(default_factory=anyio.Event)
    on_gap: Callable[[], object] = lambda: None
    is_stopped: Callable[[], bool] = lambda: False
    reason: Evidence | None = None
    answered_at: float = field(default_factory=anyio.current_time)
    _attempts: set[Attempt] = field(default_factory=set)
    _idle: anyio.Event = field(default_factory=anyio.Event)
    _asking: int = 0
    _overdue: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether calls are in flight."""
        return bool(self._attempts)

    def lose(self, evidence: Evidence) -> None:
        """Take no more calls. Those in flight may still get their answers, until the transport is closed."""
        if not self.lost.is_set():
            self.reason = evidence
            self.lost.set()
            self.suspected.set()

    def end(self, evidence: Evidence) -> None:
        """The transport is gone: end the calls in flight, too."""
        self.lose(evidence)
        for attempt in list(self._attempts):
            attempt.end(evidence, _ANSWER_PATIENCE)

    async def drain(self, limit: float) -> None:
        """Wait for the calls in flight, and for what runs beside them, at most `limit` seconds."""
        with anyio.move_on_after(limit):
            if self.at_rest is not None:
                await self.at_rest.wait()
            if self._attempts:
                await self._idle.wait()

    async def call(
        self,
        invoke: Invoke,
        *,
        timeout: float,
        deadline: float,
        progress: Any = None,
        meta: dict[str, object] | None = None,
    ) -> Any:
        """Run one attempt of an operation.

        Args:
            invoke: The operation.
            timeout: Seconds the attempt may take; progress starts them anew.
            deadline: The time at which the attempt ends in any case.
            progress: The caller's progress callback, or None.
            meta: What its requests carry in `_meta`, or None.

        Raises:
            Failed: It failed; says what is known.
        """
        scope = anyio.CancelScope(deadline=min(deadline, loop_time() + timeout))
        attempt = Attempt(scope, Delivery.NOT_SENT if self.wired else Delivery.UNKNOWN, meta=meta)
        if self.reason is not None:
            attempt.ended = self.reason
            raise Failed(None, attempt.conclude(self.reason))
        if (running := current_call.get()) is not None:
            running.attempt = attempt
        token = current_attempt.set(attempt)
        self._attempts.add(attempt)
        if self._asking:
            attempt.pause()
        heard = self.in_flight.heard
        settled = False
        try:
            with scope:
                callback = None if progress is None else _restarting(progress, attempt, timeout, deadline)
                result = await invoke(self.session, callback)
                settled = True
                self.answered_at = loop_time()
            if settled:  # from here on no time limit of ours, and no end of the connection, costs the answer
                await self._callbacks_done()
                return result
        except Exception as exc:
            settled = True
            if attempt.answered:
                self.answered_at = anyio.current_time()
            error = self.redactor.clean_error(exc)
            evidence = await self._explain(error, attempt)
            raise Failed(
                error,
                evidence,
                delivery=attempt.delivery,
                silent=self.wired and self.in_flight.heard == heard,
                lively=anyio.current_time() - self.in_flight.message_at < _LIVELY,
                earlier=attempt.requests > 1,
            ) from error
        finally:
            if not settled:
                await self._tell_server(attempt)
            current_attempt.reset(token)
            self.in_flight.forget(attempt)
            self._attempts.discard(attempt)
            if not self._attempts and self.lost.is_set():
                self._idle.set()
        silent = self.wired and self.in_flight.heard == heard
        if silent and attempt.evidence is None and attempt.ended is None:
            self._overdue = True
        late = Evidence(Kind.TIMEOUT, Delivery.UNKNOWN, f"no answer within {timeout:g} s")
        raise Failed(None, attempt.conclude(late), silent=silent, earlier=attempt.requests > 1)

    async def _callbacks_done(self) -> None:
        """Let the callbacks of what came before an answer end first, where the SDK does (1.x)."""
        if self.session.reader is not None:
            await self.session.reader.caught_up()

    @contextmanager
    def waiting_for_us(self) -> Iterator[None]:
        """The server waits for an answer of ours: no clock runs meanwhile, and its silence means nothing."""
        if not self._asking:
            for attempt in self._attempts:
                attempt.pause()
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                for attempt in self._attempts:
                    attempt.resume()
            self.in_flight.excuse()

    @property
    def silence(self) -> float:
        """Seconds for which the server has said nothing, though it was asked for something."""
        since = self.in_flight.waiting_since
        return 0.0 if since is None or self._asking else anyio.current_time() - since

    async def watch_for_freezing(self) -> None:
        """Wait until the process may be frozen.

        Only then it is asked: many servers run a tool in their event loop, and answer nobody meanwhile.
        """
        while True:
            await anyio.sleep(_LOOK)
            silence = self.silence
            self._overdue = self._overdue and silence > 0
            if silence >= _SILENCE and self._overdue:
                return
            if silence >= _STOPPED_SILENCE and self.is_stopped():
                return

    async def prove_alive(self, timeout: float) -> None:
        """Ask a suspected process for a sign of life, any byte at all; end the connection when there is none."""
        heard, silence = self.in_flight.heard, self.silence
        try:
            await self.call(lambda session, _: session.invoke("send_ping"), timeout=timeout, deadline=math.inf)
        except Failed as failed:
            if self.in_flight.heard == heard and failed.evidence is not None and not self._asking:
                text = f"the server process is frozen: silent for {silence:.0f} s, and no answer to a ping"
                self.end(Evidence(Kind.CLOSED, Delivery.UNKNOWN, text))
        if self.reason is None:
            self.in_flight.excuse()
            self._overdue = False
            self.suspected = anyio.Event()

    async def _explain(self, exc: Exception, attempt: Attempt) -> Evidence | None:
        """The evidence behind what the SDK raised; None when the server's own answer, or the caller, is behind it."""
        if attempt.evidence is not None:
            return attempt.evidence
        closed = isinstance(exc, anyio.ClosedResourceError | anyio.BrokenResourceError)
        # An answer that was seen may still be lost between the edge and the caller, when the session ends just then.
        swallowed = closed or (self.lost.is_set() and _sdk.is_connection_closed(exc))
        if attempt.answered and not swallowed:
            return None
        if not closed and not (self.wired and isinstance(exc, _sdk.MCPError)):
            return None
        if _sdk.is_local_timeout(exc):
            return attempt.conclude(Evidence(Kind.TIMEOUT, Delivery.UNKNOWN, printable(str(exc))))
        attempt.ended = await self.why_closed(attempt.scope.deadline)
        self.end(attempt.ended)
        return attempt.conclude(attempt.ended)

    async def why_closed(self, deadline: float = math.inf) -> Evidence:
        """What the edge saw of the end that the SDK speaks of: it may know a moment later, and it knows more."""
        with anyio.CancelScope(deadline=min(deadline, anyio.current_time() + _END_PATIENCE)):
            await self.lost.wait()
        return self.reason or Evidence(Kind.CLOSED, Delivery.UNKNOWN, "the connection closed")

    async def _tell_server(self, attempt: Attempt) -> None:
        """A call was given up: tell the server, where the SDK does not."""
        if attempt.delivery is Delivery.UNKNOWN and attempt.request_id is not None and not self.lost.is_set():
            with anyio.move_on_after(_CANCEL_PATIENCE, shield=True):
                try:
                    await self.session.cancel(attempt.request_id, "the caller gave up")
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return


def _restarting(progress: Any, attempt: Attempt, timeout: float, deadline: float) -> Any:
    """The caller's progress callback, which also starts the attempt's time limit anew."""

    async def callback(value: float, total: float | None, message: str | None) -> None:
        attempt.restart(timeout, deadline)
        await progress(value, total, message)

    return callback


class _Outage(Exception):  # noqa: N818 - a signal within this module
    """`server/discover` met an outage, which is no verdict on the era: no falling back to `initialize`."""

    def __init__(self, evidence: Evidence | None) -> None:
        super().__init__(evidence.detail if evidence is not None else "server/discover was not answered")


@dataclass(slots=True, eq=False)
class _Handshake(Attempt):
    """The attempt that negotiates. It keeps the SDK from taking an outage for an old server.

    Attributes:
        method: Its latest request.
        discover_timed_out: Whether `server/discover` was sent and never answered.
        policy: Says what an HTTP status means.
        in_order: Whether requests arrive in the order in which they are written: a server that is slow to start is then
            asked for both eras on one connection, and nothing can get lost on the way but the connection.
    """

    policy: Policy = field(kw_only=True)
    in_order: bool = field(kw_only=True)
    method: str = ""
    discover_timed_out: bool = False

    def sending(self, method: str, request_id: RequestId) -> None:
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
    """Opens the generations of one server; an async context manager that owns what they share, the HTTP client.

    Args:
        server: What to connect to: the SDK's parameters, a factory of a transport, or an in-process SDK server.
        policy: Its numbers.
        options: Callbacks and options for the SDK's session.
        http_client: The user's HTTP client, which stays the user's to close; None to make one when it is needed.
        hub: Where to report garbage.
        errlog: Gets what the server's process writes to stderr, or None.

    Attributes:
        link: Answers what the server asks, from the next connection on, or None; a server in this process that is
            called without a wire (mcp 2.x) does not ask it.
        opening: The latest connection, while it is being opened and after.
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
        self.is_process = isinstance(server, _sdk.StdioServerParameters)

    async def __aenter__(self) -> Self:
        if isinstance(self._server, _sdk.StreamableHttpParameters) and self._http_client is None:
            connect = min(_sdk.seconds(self._server.timeout), self._policy.timeout.connect)
            client = _sdk.create_http_client(self._server.headers, connect=connect, read=None)
            self._http_client = self._own_client = await client.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._own_client is not None:
            await self._own_client.__aexit__(*exc_info)

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[Connection]:
        """Connect, negotiate, and lend the connection out; close it on leaving.

        Raises:
            Failed: It could not be opened, or broke while it was open; says what is known.
        """
        limit = self._policy.timeout.connect
        scope = anyio.CancelScope(deadline=anyio.current_time() + limit)
        in_order = not isinstance(self._server, _sdk.StreamableHttpParameters)
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
                async with _sdk.Session.open(target, options, legacy=self._legacy) as session:
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
                logger.debug("%s did not answer server/discover: trying initialize next", self._hub.server)
        evidence = opening.ended or handshake.evidence
        leaf = _leaf(failure)
        if evidence is None and leaf is not None and (isinstance(leaf, _sdk.http.HTTPError) or is_about_auth(leaf)):
            unsent = not connected and isinstance(leaf, _sdk.http.ConnectError | _sdk.http.ConnectTimeout)
            delivery = Delivery.NOT_SENT if unsent else Delivery.UNKNOWN
            evidence = evidence_of(leaf, delivery, self._hub.redactor)
        if evidence is None and (failure is None or isinstance(leaf, _Outage)):
            text = f"no handshake within {limit:g} s" if failure is None else str(leaf)
            evidence = Evidence(Kind.TIMEOUT, Delivery.UNKNOWN, text)
        raise Failed(leaf, evidence, premature=handshake.overtaken) from failure

    def _target(self, opening: _Opening) -> Any:
        """What `Session.open` takes: a context manager of watched streams, or on 2.x an in-process server."""
        server = self._server
        if _sdk.DIRECT_IN_PROCESS and _sdk.is_in_process_server(server):
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
        """The streams of a transport of the SDK's or the user's."""
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
            http_logs.connecting.set(self._hub.redactor)  # the SDK's transport starts its tasks in this context
            if isinstance(server, _sdk.StreamableHttpParameters):
                opening.hears_by_stream = True
                transport = _sdk.streamable_http(server, wrap(self._http_client, out_of_band=False))
            elif isinstance(server, _sdk.SseServerParameters):
                transport = _sdk.sse(server, wrap)
            elif _sdk.is_in_process_server(server):
                transport = _sdk.in_process(server)
            else:
                transport = server()
            streams: tuple[Any, ...] = ()
            try:
                async with transport as streams:
                    one_by_one = bool(edges) and _sdk.POSTS_ONE_BY_ONE
                    writer = WatchedWriter(streams[1], opening.in_flight, sends=not edges, one_by_one=one_by_one)
                    reader = WatchedReader(streams[0], opening.in_flight, self._hub.redactor, opening.on_end)
                    try:
                        yield reader, writer
                    finally:
                        reason = opening.connection.reason if opening.connection is not None else None
                        for edge in edges:
                            edge.session_lost = reason is not None and reason.kind is not Kind.CLOSED
            finally:
                # Not before: a transport that still hands over an answer would log an error.
                with anyio.move_on_after(self._policy.timeout.shutdown, shield=True):
                    for stream in streams[:2]:
                        await stream.aclose()
            background.cancel_scope.cancel()


class _Opening:
    """What the parts of one connection know of each other, from its opening to its end."""

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

    def done(self, session: _sdk.Session) -> Connection:
        """The handshake is done: here is the connection."""
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
        if self.ended is not None:
            self.connection.end(self.ended)
        return self.connection

    def on_start(self, process: ServerProcess) -> None:
        """The server's process was started."""
        self._process = process

    def _is_stopped(self) -> bool:
        return self._process is not None and is_stopped(self._process.pid)

    @property
    def last_line(self) -> str:
        """The last line that the process wrote to stderr, printable; empty when there is none."""
        tail = "" if self._process is None else self._process.stderr
        lines = [line for line in tail.splitlines() if line.strip()]
        return self._redactor.line(lines[-1], _STDERR_LINE) if lines else ""

    @contextmanager
    def waiting_for_us(self) -> Iterator[None]:
        """The server waits for an answer of ours."""
        if self.connection is None:
            yield
        else:
            with self.connection.waiting_for_us():
                yield

    def timed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The callbacks by which we answer the server, which stop the clocks while they run."""
        return {name: self._timed(options[name]) for name in _ANSWERING if options.get(name) is not None}

    def _timed(self, callback: Any) -> Any:
        async def answer(*args: Any, **options: Any) -> Any:
            with self.waiting_for_us():
                return await callback(*args, **options)

        return answer

    def on_stream(self, refusal: Evidence | None) -> None:
        """The stream of what the server says unasked was opened, or it was refused.

        Only a server that had opened it before says by 404 that the session is gone; others mean that they have none.
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


def _leaf(exc: Exception | None) -> Exception | None:
    """The first real error inside the SDK's exception groups."""
    while leaves := getattr(exc, "exceptions", None):
        exc = leaves[0]
    return exc

"""Opens the connections of one server: transport, handshake, and what ends them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

import anyio
from typing_extensions import Self

from .._sdk.installed import MCPError, http
from .._sdk.session import Session
from ..event_loop import Flag
from ..events import GarbageOnStdout
from ..evidence import Delivery, Evidence, FailureKind
from ..foreign_code import awaiting, guarded
from ..in_flight import Attempt, InFlight, RequestId, current_attempt
from ..observability.hub import Hub, logger
from ..policy import Policy
from ..text.printable import first_leaf
from ..transports.host_requests import Link, linked
from ..transports.http.evidence import evidence_of, is_about_http
from ..transports.process import ServerProcess, is_stopped
from ..transports.server import Channel, Server
from ..verdicts.classifier import is_outage, is_session_lost
from ..verdicts.verdict import AttemptError
from .generation import Connection

# The callbacks that answer server requests, and the one that gets the server's log messages.
_ANSWERING = ("sampling_callback", "elicitation_callback", "list_roots_callback")
_LOGGING = "logging_callback"


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
        is_ordered: Whether requests arrive in the order in which they are written. If so, a server that is slow to
            start can be sent both `server/discover` and `initialize` on one connection, and no request is lost unless
            the connection is.
    """

    policy: Policy = field(kw_only=True)
    is_ordered: bool = field(kw_only=True)
    method: str = ""
    discover_timed_out: bool = False

    def sending(self, method: str, request_id: RequestId) -> None:
        # SDK 2.x falls back to `initialize` after almost any error, even one that stems from an outage. That would
        # settle on the old era with a server that speaks the new one: raise instead, and the handshake is retried.
        if method == "initialize" and self.method == "server/discover":
            unanswered = not self.answered and self.evidence is None
            self.discover_timed_out = unanswered and not self.overtaken
            lost = unanswered and not self.is_ordered
            if lost or self.overtaken or is_outage(self.evidence, self.policy):
                raise _Outage(self.evidence)
        # Called on the class: zero-argument super() does not work in a dataclass with slots.
        Attempt.sending(self, method, request_id)
        self.method = method


class Connector:
    """Opens the connections to one server; an async context manager that owns the HTTP client they share.

    Args:
        server: What to connect to.
        policy: The server's limits.
        options: Callbacks and options for the SDK's session.
        hub: Where garbage on stdout is reported.
        errlog: Receives the stderr output of the server process; may be None.

    Attributes:
        server: What it connects to.
        link: Answers server requests, from the next connection on, or None.
        opening: The latest connection, while it is being opened and afterwards.
    """

    def __init__(
        self,
        server: Server,
        policy: Policy,
        options: Mapping[str, Any],
        hub: Hub,
        *,
        errlog: TextIO | None,
    ) -> None:
        self.server = server
        self._errlog = errlog
        self._policy = policy
        self._options = options
        self._hub = hub
        self._legacy = False
        self._resources = AsyncExitStack()
        self.link: Link | None = None
        self.opening: _Opening | None = None

    async def __aenter__(self) -> Self:
        await self._resources.enter_async_context(self.server.running(self._policy))
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._resources.aclose()

    @asynccontextmanager
    async def open(self, generation: int) -> AsyncIterator[Connection]:
        """Connect, negotiate and yield the connection; close it on exit.

        Raises:
            AttemptError: It could not be opened, or broke while it was open; carries what is known about it.
        """
        limit = self._policy.timeout.connect
        scope = anyio.CancelScope(deadline=anyio.current_time() + limit)
        handshake = _Handshake(scope, policy=self._policy, is_ordered=self.server.is_ordered)
        self.opening = opening = _Opening(self.server, generation, handshake, self._hub)
        failure: Exception | None = None
        try:
            with handshake.scope:
                target: Any = self.server.open(self._channel(opening))
                if self.link is not None:
                    target = linked(target, self.link, opening.server_waits)
                token = current_attempt.set(handshake)
                options = {**self._options, **self._callbacks(opening)}
                with awaiting("the SDK's session"):  # which lets through what it does not expect of its callbacks
                    async with Session.open(target, options, legacy=self._legacy) as session:
                        current_attempt.reset(token)
                        handshake.scope.deadline = math.inf
                        self._legacy = session.is_legacy
                        yield opening.connected(session)
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
        leaf = None if failure is None else first_leaf(failure)
        if evidence is None and leaf is not None and is_about_http(leaf):
            unsent = not connected and isinstance(leaf, http.ConnectError | http.ConnectTimeout)
            delivery = Delivery.NOT_SENT if unsent else Delivery.UNKNOWN
            evidence = evidence_of(leaf, delivery, self._hub.redactor)
        if evidence is None and (failure is None or isinstance(leaf, _Outage)):
            text = f"no handshake within {limit:g} s" if failure is None else str(leaf)
            evidence = Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, text)
        raise AttemptError(leaf, evidence, premature=handshake.overtaken) from failure

    def _callbacks(self, opening: _Opening) -> dict[str, Any]:
        """The user's callbacks, as the SDK's session may call them."""
        log = self._hub.log_exception
        wrapped: dict[str, Any] = {}
        for name in (*_ANSWERING, _LOGGING):
            if (callback := self._options.get(name)) is not None:
                is_log = name == _LOGGING
                wrapped[name] = guarded(name, callback, log) if is_log else self._named(name, callback, opening)
        return wrapped

    def _named(self, name: str, callback: Any, opening: _Opening) -> Any:
        """A callback that answers server requests; an error in it is logged, since the SDK's reply may not name it."""
        callback = opening.timed(callback)

        async def answer(*args: Any, **options: Any) -> Any:
            try:
                with awaiting(name, by_caller=not opening.is_legacy):  # at 2026-07-28 it runs in the task of the call
                    return await callback(*args, **options)
            except MCPError:  # how a callback declines
                raise
            except Exception as exc:
                self._hub.log_exception(f"{name} raised", exc)
                raise

        return answer

    def _channel(self, opening: _Opening) -> Channel:
        return Channel(
            self._hub.server,
            self._policy,
            self._hub.redactor,
            opening.in_flight,
            self._errlog,
            on_start=opening.on_start,
            on_garbage=partial(self._on_garbage, opening),
            on_stream=opening.on_stream,
            on_end=opening.on_end,
            reason=lambda: None if opening.connection is None else opening.connection.reason,
        )

    def _on_garbage(self, opening: _Opening, sample: str) -> None:
        opening.garbage += 1
        if opening.garbage == 1:
            self._hub.emit(GarbageOnStdout(server=self._hub.server, generation=opening.generation, sample=sample))


class _Opening:
    """State shared by the parts of one connection, from its opening to its end."""

    def __init__(self, server: Server, generation: int, handshake: _Handshake, hub: Hub) -> None:
        self._server = server
        self.generation = generation
        self._redactor = hub.redactor
        self._log = hub.log_exception
        self.in_flight = InFlight()
        self.connection: Connection | None = None
        self.ended: Evidence | None = None
        self.garbage = 0
        self.began = anyio.current_time()
        self._process: ServerProcess | None = None
        self._notifications_ready = Flag()
        self._streamed = False
        self._handshake = handshake

    def connected(self, session: Session) -> Connection:
        """Complete the handshake and return the connection."""
        self.in_flight.forget(self._handshake)
        if not self._server.has_notification_stream or not session.is_legacy:
            self._notifications_ready.set()
        self.connection = Connection(
            self.generation,
            session,
            self.in_flight,
            is_process=self._server.is_process,
            redactor=self._redactor,
            notifications_ready=self._notifications_ready,
            is_stopped=self._is_stopped,
            log=self._log,
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
    def server_waits(self) -> Iterator[None]:
        """While the server waits for this client; see `Connection.server_waits`."""
        if self.connection is None:
            yield
        else:
            with self.connection.server_waits():
                yield

    @property
    def is_legacy(self) -> bool:
        """Whether the session is one up to 2025-11-25; also before it is negotiated."""
        return self.connection is None or self.connection.session.is_legacy

    def timed(self, callback: Any) -> Any:
        """A callback that answers server requests, wrapped so that the clocks stop while it runs."""

        async def answer(*args: Any, **options: Any) -> Any:
            with self.server_waits():
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
        self._notifications_ready.set()

    def on_end(self, evidence: Evidence) -> None:
        """The transport ended."""
        self.ended = self.ended or evidence
        if self.connection is not None:
            self.connection.end(evidence)

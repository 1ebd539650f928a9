"""Keeps one connection alive: its states, its restart policy, and a single reconnect however many callers saw it fail.

`idle → connecting → ready ⇄ reconnecting → suspended → … → closed`, and `failed` when a person has to change something
first. Nothing gives up silently: `suspended` retries by itself, `failed` says what to change. The supervisor runs in
its own task; each generation is opened, used and closed in one child task.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import anyio
import anyio.abc

from .._sdk.session import Session
from ..errors import ServerFailed, ServerUnavailable
from ..event_loop import Flag, Home, Signal, clock, start_in
from ..events import Connected, Disconnected, RestartScheduled, Starting, State, StateChanged
from ..evidence import Delivery, Evidence, FailureKind
from ..foreign_code import awaiting, running
from ..observability.hub import Hub
from ..policy import Policy
from ..strategies.backoff import exponential
from ..strategies.restart_meter import RestartMeter
from ..text.printable import describe, first_leaf
from ..verdicts.classifier import Prospect, is_absent, is_session_lost, prospect_of
from ..verdicts.remedies import Wording, reason_of, remedy_of
from ..verdicts.verdict import AttemptError
from .connector import Connector
from .generation import Connection

# States in which a call waits for the connection; in all others it fails immediately.
_WAITING = frozenset({State.CONNECTING, State.READY, State.RECONNECTING})


CLIENT_CLOSED = "the client was closed"
"""Why the last connection of a client ended."""
# Seconds a process that seems frozen has to answer a ping; calls wait for the outcome.
_PING_PATIENCE = 5.0
# Seconds after which a server that is still starting is reported, and again each time that time has doubled.
_SLOW_START = 5.0
# Back-off in seconds between connection attempts to a server that refuses the client: a person may be fixing the
# configuration, or a token may be rotated.
_REFUSED_BASE, _REFUSED_CAP = 30.0, 300.0
# Seconds before the second attempt at a server whose first answer was doubtful.
_SECOND_THOUGHT = 1.0
# This many sessions lost within this many seconds, by a server that could always be reached, are not a coincidence.
_LOST_SESSIONS, _LOST_WITHIN = 3, 120.0

_SCATTERED = (
    "{} sessions were lost within {:.0f} s: are there several servers behind one address, without sticky sessions?"
)

_CLOSED_BY_CLIENT = Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, CLIENT_CLOSED, by_client=True)

_RESTART_BY_CLIENT = Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "a restart was requested", by_client=True)

_UNDER_WAY = " A connection attempt is in progress; Policy.timeout.ready limits how long calls wait for it."

_NOT_YET = {State.IDLE: "the client was not started (enter it with `async with`)"}


class Supervisor:
    """Owns the connections to one server.

    Args:
        connector: Opens them.
        policy: The server's limits.
        hub: Where events are reported.
        wording: How messages name what the user configured.
        on_connected: Called for each new connection, before calls are admitted to it.
        background: Run beside the calls of each new connection, and are cancelled when it is lost.

    Attributes:
        state: The state of the connection.
        connection: The ready connection, or None.
        generation: The number of the latest connection attempt, counted from 1; 0 before the first.
        last_failure: Why the connection was last lost or could not be opened; kept after a reconnect.
        last_session: The session of the latest ready connection, or None.
        home: The event loop that it runs in; None before the start.
        wording: How messages name what the user configured.
    """

    def __init__(
        self,
        connector: Connector,
        policy: Policy,
        hub: Hub,
        wording: Wording,
        *,
        on_connected: Callable[[Connection], None] | None = None,
        background: Iterable[Callable[[Connection], Awaitable[None]]] = (),
    ) -> None:
        self._connector = connector
        self._policy = policy
        self._hub = hub
        self.wording = wording
        self._on_connected = on_connected
        self._background = background
        self._meter = RestartMeter(policy.restart)
        self._changed = Signal()
        self._hurry = Flag()
        self._closing = Flag()
        self._failure: AttemptError | None = None
        self.last_failure: AttemptError | None = None
        self._next_try = math.inf
        self._unproven = False
        self._is_opening = False
        self._failed_tries = 0
        self._refusals = 0
        self._doubts = 0
        self._was_connected = False
        self._sessions_lost: deque[float] = deque(maxlen=_LOST_SESSIONS)
        self._closed = Flag()
        self.state = State.IDLE
        self.connection: Connection | None = None
        self.generation = 0
        self.last_session: Session | None = None
        self.home: Home | None = None

    # --- its own task ---

    def begin(self) -> None:
        """Let calls wait for the connection from now on; `run` must follow, in the same event loop."""
        self.home = Home()
        self._enter(State.CONNECTING)

    async def run(self) -> None:
        """Connect, and reconnect, until `close` is called. Never raises: an unexpected error is one more failure."""
        try:
            while not self._closing.is_set():
                await self._run_once()
        finally:
            self.connection = None
            self._next_try = math.inf
            self._enter(State.CLOSED)

    async def _run_once(self) -> None:
        try:
            with running("the supervisor"):
                async with self._connector, anyio.create_task_group() as tg:
                    tg.start_soon(self._cycle, tg)
                    await self._closing.wait()
                    if self.connection is not None:
                        self.connection.end(_CLOSED_BY_CLIENT)
                        with anyio.move_on_after(self._policy.timeout.shutdown):
                            await self._closed.wait()
                    tg.cancel_scope.cancel()
        except Exception as exc:
            await self._recover(exc)

    async def _recover(self, exc: Exception) -> None:
        """Report an error that nobody expected, and wait before starting over; `restart` cuts the wait short."""
        self._hub.log_exception("the supervisor failed", exc)
        self.connection = None
        self._is_opening = False
        self._failure = self.last_failure = AttemptError(first_leaf(exc), None)
        self._next_try = until = clock.now() + _REFUSED_BASE
        self._enter(State.FAILED, reason_of(self._failure))
        while self.state is State.FAILED and not self._closing.is_set() and clock.now() < until:
            await clock.wait(self._changed, until - clock.now())
        self._hurry = Flag()
        self._next_try = math.inf
        if not self._closing.is_set():
            self._enter(State.RECONNECTING)

    async def _cycle(self, tg: anyio.abc.TaskGroup) -> None:
        """Open a generation, let calls use it until it is lost, wait as the policy says, and repeat."""
        while not self._closing.is_set():
            self.generation += 1
            began = anyio.current_time()
            outcome = await self._open(tg)
            self._failed_tries = 0 if isinstance(outcome, Connection) else self._failed_tries + 1
            if isinstance(outcome, Connection):
                await self._ready(outcome, anyio.current_time() - began)
                failure = AttemptError(None, outcome.reason)
            else:
                failure = outcome
                self._sessions_lost.clear()  # the server was away, which explains why it forgot its sessions
            if self._closing.is_set():  # the end of the last connection is not a failure to report
                return
            self._failure = failure
            if failure.evidence is not _RESTART_BY_CLIENT:  # a requested restart would hide the real last failure
                self.last_failure = failure
            await self._pause(failure, was_ready=isinstance(outcome, Connection))

    async def _open(self, tg: anyio.abc.TaskGroup) -> Connection | AttemptError:
        """Open the next generation; the connector limits how long it may take to start."""
        self._is_opening = True
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._report_slow_start)
                while True:
                    self._closed = Flag()
                    # A child of the supervisor's group, not of `beside`: the generation outlives this method, and has
                    # to close in the task that opened it, because its cancel scopes belong to that task.
                    outcome: Connection | AttemptError = await start_in(tg, self._live, self.generation)
                    if isinstance(outcome, Connection) or not outcome.premature:
                        break
                beside.cancel_scope.cancel()
            return outcome
        finally:
            self._is_opening = False

    async def _report_slow_start(self) -> None:
        wait = elapsed = _SLOW_START
        while True:
            await anyio.sleep(wait)
            self._hub.emit(Starting(server=self._hub.server, elapsed=elapsed, stderr=self.last_line))
            wait = elapsed
            elapsed *= 2

    async def _live(self, generation: int, *, task_status: anyio.abc.TaskStatus[Connection | AttemptError]) -> None:
        """Open, hold and close one generation in this task; reports the connection, or the failure to open it."""
        closed = self._closed  # over HTTP the next generation may replace the event before this one has closed
        connection: Connection | None = None
        try:
            with awaiting("the connection"):
                async with self._connector.open(generation) as connection:
                    task_status.started(connection)
                    await connection.lost.wait()
                    await connection.drain(self._policy.timeout.shutdown)
        except Exception as exc:
            failed = exc if isinstance(exc, AttemptError) else AttemptError(first_leaf(exc), None)
            if connection is None:
                task_status.started(failed)
            else:
                text = describe(failed.cause) if failed.cause is not None else "the connection broke"
                connection.end(failed.evidence or Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, text))
        finally:  # also when cancelled: no call may wait on a connection whose transport is gone
            if connection is not None:
                connection.end(
                    connection.reason or Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the connection closed")
                )
            closed.set()

    async def _ready(self, connection: Connection, elapsed: float) -> None:
        """Let calls use the connection until it is lost.

        Nothing is awaited before `State.READY`, so no call can use the connection before `on_connected` has run.
        """
        self.connection = connection
        self.last_session = connection.session
        self._was_connected = self._unproven = True
        self._failure = None
        self._hurry = Flag()  # a restart requested while connecting must not skip the next back-off
        version = connection.session.protocol_version
        name = self._hub.server
        self._hub.emit(
            Connected(server=name, generation=connection.generation, protocol_version=version, elapsed=elapsed)
        )
        if self._on_connected is not None:
            self._on_connected(connection)
        self._enter(State.READY)
        if not connection.lost.is_set():  # it may have been lost on its way here
            connection.at_rest = Flag()
            try:
                await self._beside(connection)
            finally:
                connection.at_rest.set()
        self.connection = None
        reason = connection.reason
        text = reason.detail if reason else "the connection was lost"
        if reason is not None and is_session_lost(reason):
            self._sessions_lost.append(clock.now())
            text = f"{text}; {self.diagnosis}" if self.diagnosis else text
        expected = reason is not None and reason.by_client
        lost = Disconnected(
            server=name, generation=connection.generation, reason=text, evidence=reason, expected=expected
        )
        self._hub.emit(lost)
        if not self._closing.is_set():
            self._enter(State.RECONNECTING, text)
            if self._connector.server.is_process:
                await self._closed.wait()  # two processes of one server must not run at the same time

    async def _beside(self, connection: Connection) -> None:
        """Run the background tasks of a connection until it is lost; count it as proven once it lived long enough."""
        async with anyio.create_task_group() as beside:
            if connection.is_process:
                beside.start_soon(self._check, connection)
            for function in self._background:
                beside.start_soon(self._guarded, function, connection)
            with anyio.move_on_after(self._policy.restart.proven_after) as young:
                await connection.lost.wait()
            if young.cancelled_caught:
                self.answered(connection)
                await connection.lost.wait()
            beside.cancel_scope.cancel()

    async def _guarded(self, function: Callable[[Connection], Awaitable[None]], connection: Connection) -> None:
        with awaiting("a background task of the connection", self._hub.log_exception):  # it must not end the connection
            await function(connection)

    async def _check(self, connection: Connection) -> None:
        """Replace a frozen process: one that is suspected and stays silent when pinged."""
        while not connection.lost.is_set():
            await connection.watch_for_freezing()
            connection.suspected.set()
            await connection.prove_alive(_PING_PATIENCE)
            self._enter(self.state)  # wakes the calls that wait while the connection is suspected

    async def _pause(self, failure: AttemptError, *, was_ready: bool) -> None:
        """Wait as long as the policy says before the next connection attempt; `restart` cuts the wait short.

        A doubtful refusal is tried once more after a second; a server that keeps refusing is `failed` and retried with
        a long back-off; a process that cannot start waits for `restart`; everything else is up to the restart policy.
        """
        evidence = failure.evidence
        prospect = Prospect.OPEN
        if not was_ready:
            prospect = prospect_of(failure.cause, evidence, self._policy, known=self._was_connected)
        self._doubts = self._doubts + 1 if prospect is Prospect.DOUBTFUL else 0
        hopeless = prospect is Prospect.NONE or self._doubts > 1
        self._refusals = self._refusals + 1 if hopeless else 0
        if self._doubts == 1:
            self._next_try = clock.now() + _SECOND_THOUGHT
            self._enter(State.RECONNECTING, reason_of(failure))
            await clock.wait(self._hurry, _SECOND_THOUGHT)
        elif hopeless and evidence is not None and evidence.exit is None:
            delay = exponential(self._refusals - 1, base=_REFUSED_BASE, cap=_REFUSED_CAP)
            self._next_try = clock.now() + delay
            self._enter(State.FAILED, reason_of(failure))
            await clock.wait(self._hurry, delay)
        elif hopeless:
            self._enter(State.FAILED, reason_of(failure))
            await self._hurry.wait()
        elif failure.evidence is _RESTART_BY_CLIENT:
            self._enter(State.RECONNECTING, reason_of(failure))
        else:
            unreachable = not self._connector.server.is_process and evidence is not None and not was_ready
            now = clock.now()
            step = self._meter.next(now, random.random(), metered=not unreachable)  # noqa: S311 - not a secret
            self._next_try = now + step.delay
            if step.delay:
                text = reason_of(failure)
                name = self._hub.server
                self._hub.emit(RestartScheduled(server=name, delay=step.delay, suspended=step.suspended, reason=text))
            self._enter(State.SUSPENDED if step.suspended else State.RECONNECTING, reason_of(failure))
            await clock.wait(self._hurry, step.delay)
        self._next_try = math.inf
        if self._hurry.is_set():  # consumed: it must not skip the wait after this one, too
            self._hurry = Flag()
        self._enter(State.RECONNECTING)

    # --- its callers ---

    @property
    def ready(self) -> Connection | None:
        """The connection, if it takes calls."""
        connection = self.connection
        return None if connection is None or connection.suspected.is_set() else connection

    @property
    def is_awaited(self) -> bool:
        """Whether a call waits for the connection; if not, it fails immediately."""
        return self.state in _WAITING

    @property
    def is_on_its_way(self) -> bool:
        """Whether none is ready, but one is expected and no attempt has failed since the last success."""
        return self.ready is None and self.is_awaited and not self._failed_tries

    async def wait_ready(self, deadline: float, longest: float | None = None, reach: float = math.inf) -> Connection:
        """Wait for the ready connection and return it.

        All times are event-loop times.

        Args:
            deadline: How long to wait for a server that is away.
            longest: How long to wait while a server is starting, which `timeout.connect` limits anyway; None for
                `deadline`.
            reach: How long to wait for a server that was never reached: the address or command may be wrong.

        Raises:
            ServerFailed: A person has to change something first.
            ServerUnavailable: No connection is expected soon, or the time is up.
        """
        while (connection := self.ready) is None:
            until = deadline if longest is None or not self._is_opening else max(deadline, longest)
            until = min(until, reach) if self._is_unreached else until
            if not self.is_awaited or anyio.current_time() >= until:
                raise self.unavailable(is_first=not math.isinf(reach))
            with anyio.CancelScope(deadline=until):
                await self._changed.wait()
        return connection

    @property
    def _is_unreached(self) -> bool:
        """Whether there was never a connection, and the latest attempt found no server at all."""
        failure = self._failure
        return failure is not None and not self._was_connected and is_absent(failure.cause, failure.evidence)

    @property
    def diagnosis(self) -> str:
        """The likely cause of the recently lost sessions; empty if there were too few to tell."""
        lost = list(self._sessions_lost)
        if len(lost) < _LOST_SESSIONS or self.home is None:
            return ""
        now = self.home.now()
        if now - lost[0] > _LOST_WITHIN:
            return ""
        return _SCATTERED.format(len(lost), max(1.0, now - lost[0]))

    async def wait_attempted(self) -> None:
        """Wait until the first connection attempt has succeeded or failed."""
        while self.state in {State.IDLE, State.CONNECTING}:
            await self._changed.wait()

    def lost(self, connection: Connection, evidence: Evidence) -> None:
        """Report that `connection` is unusable. Reports by many callers of one generation count once."""
        connection.lose(evidence)

    def answered(self, connection: Connection) -> None:
        """`connection` answered a call, or lived long enough: clear the restart count."""
        if self._unproven and connection is self.connection:
            self._unproven = False
            self._meter.proven()

    def restart(self) -> None:
        """Replace the connection now; also ends the wait of a suspended or failed server."""
        if self.connection is not None:
            self.connection.lose(_RESTART_BY_CLIENT)
            self.connection = None
            self._enter(State.RECONNECTING, _RESTART_BY_CLIENT.detail)
        elif self.state in {State.SUSPENDED, State.FAILED, State.RECONNECTING}:
            self._enter(State.RECONNECTING)
            self._hurry.set()

    def close(self) -> None:
        """End `run`."""
        self._closing.set()
        self._changed.notify()

    @property
    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    def unavailable(
        self, sent: str = "Nothing was sent.", *, is_first: bool = False, **context: Any
    ) -> ServerUnavailable:
        """The error that says why there is no connection and when the next attempt is due.

        Args:
            sent: How far the call got, as a sentence.
            is_first: Whether raising this error closes the client, so that there is no next attempt.
            **context: Further attributes of the error.
        """
        failure, name = self._failure, self._hub.server
        if self.state is State.CLOSED or self.is_closing:
            why = "" if self.is_closing else ", because the event loop that it was started in has ended"
            text = f"MCP server {name!r}: the client is closed{why}. {sent}"
            return ServerUnavailable(text, server=name, **context)
        reason = self._reason()
        exit_status = failure.evidence.exit if failure is not None and failure.evidence is not None else None
        facts: dict[str, Any] = {"server": name, "reason": reason, **context}
        if exit_status is not None:
            facts["exit_status"] = exit_status.code if exit_status.signal is None else -exit_status.signal
            facts["stderr"] = exit_status.stderr
        due = facts["retry_in"] = self.retry_in
        remedy = ""
        if failure is not None and (self.state is State.FAILED or self._is_unreached):
            facts["remedy"] = remedy_of(failure, self.wording)
            remedy = f" {facts['remedy']}"
        elif self.diagnosis:
            reason = f"{reason}; {self.diagnosis}"
        text = f"MCP server {name!r} is not available ({self.state.value}): {reason}.{remedy}"
        if self.state is State.FAILED:
            restart = "" if is_first else self.wording.restart
            plan = f" Then call {restart}." if restart else ""
            if (again := None if is_first else due) is not None:
                plan = f" The next attempt is in {again:.0f} s{f'; {restart} retries immediately' if restart else ''}."
            text = f"MCP server {name!r} cannot be used: {reason}.{remedy}{plan}"
            back = f"will be retried in {again:.0f} s" if again is not None else "will not come back by itself"
            advice = (
                f"The server {name!r} cannot be used and {back}: {reason}. {sent} Do not call it again: a person must "
                "change its configuration first."
            )
            return ServerFailed(text, advice=advice, **facts)
        if not is_first:
            plan = f" The next attempt is in {due:.1f} s." if due else _UNDER_WAY if self.is_awaited else ""
            text = f"{text}{plan}"
        back = f"It is expected back in {due:.0f} s; do not call it before then" if due else "Try again in a moment"
        if context.get("attempts"):
            text = f"{text} {sent}"
        advice = f"The server {name!r} is not available right now: {reason}. {sent} {back}."
        return ServerUnavailable(text, advice=advice, **facts)

    def _reason(self) -> str:
        """Why there is no connection, as a clause of a sentence."""
        failure = self._failure
        reason = reason_of(failure) if failure is not None else _NOT_YET.get(self.state, "it has not answered yet")
        if (started := self.starting_for) is not None and self._connector.server.is_process:
            said = f"; its last line on stderr: {self.last_line}" if self.last_line else ""
            starting = f"it has been starting for {started:.0f} s{said}"
            if failure is None:
                reason = starting
            elif started >= 1:  # an attempt that has just begun says less than the failure before it
                reason = f"{reason}; now {starting}"
        return reason.rstrip(".")

    @property
    def starting_for(self) -> float | None:
        """Seconds for which the server has been starting; None while no connection is being opened."""
        opening, home = self._connector.opening, self.home
        if home is None or opening is None or not self._is_opening:
            return None
        return home.time() - opening.began

    @property
    def last_line(self) -> str:
        """The last line that a starting process wrote to stderr, printable; empty if there is none."""
        opening = self._connector.opening
        return opening.last_line if self._is_opening and opening is not None else ""

    @property
    def retry_in(self) -> float | None:
        """Seconds until the next connection attempt, or None if none is scheduled."""
        due = self._next_try
        return None if math.isinf(due) or self.home is None else max(0.0, due - self.home.now())

    def _enter(self, state: State, reason: str = "") -> None:
        old, self.state = self.state, state
        self._changed.notify()
        if old is not state:
            self._hub.emit(StateChanged(server=self._hub.server, old=old, new=state, reason=reason))

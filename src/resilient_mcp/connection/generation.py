"""One generation: a transport and an SDK session, opened once, used, closed once, all in one task.

A connection is never repaired; the supervisor replaces it. Callers borrow its session through `Connection.call`, which
races the end of the connection and never outlives its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

from .._sdk.installed import MCPError, is_connection_closed, is_local_timeout
from .._sdk.session import Invoke, Session
from ..event_loop import loop_time
from ..evidence import Delivery, Evidence, FailureKind
from ..in_flight import Attempt, InFlight, current_attempt
from ..observability.hub import current_call
from ..text.printable import printable
from ..text.redact import Redactor
from ..verdicts.verdict import AttemptError

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

_CANCEL_PATIENCE = 1.0
"""Seconds to tell a server that a call was given up."""


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
    session: Session
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
            raise AttemptError(None, attempt.conclude(self.reason))
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
            raise AttemptError(
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
        late = Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, f"no answer within {timeout:g} s")
        raise AttemptError(None, attempt.conclude(late), silent=silent, earlier=attempt.requests > 1)

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
        except AttemptError as failed:
            if self.in_flight.heard == heard and failed.evidence is not None and not self._asking:
                text = f"the server process is frozen: silent for {silence:.0f} s, and no answer to a ping"
                self.end(Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, text))
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
        swallowed = closed or (self.lost.is_set() and is_connection_closed(exc))
        if attempt.answered and not swallowed:
            return None
        if not closed and not (self.wired and isinstance(exc, MCPError)):
            return None
        if is_local_timeout(exc):
            return attempt.conclude(Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, printable(str(exc))))
        attempt.ended = await self.why_closed(attempt.scope.deadline)
        self.end(attempt.ended)
        return attempt.conclude(attempt.ended)

    async def why_closed(self, deadline: float = math.inf) -> Evidence:
        """What the edge saw of the end that the SDK speaks of: it may know a moment later, and it knows more."""
        with anyio.CancelScope(deadline=min(deadline, anyio.current_time() + _END_PATIENCE)):
            await self.lost.wait()
        return self.reason or Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the connection closed")

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

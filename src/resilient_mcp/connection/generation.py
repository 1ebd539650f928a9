"""One generation: a transport and an SDK session, opened, used and closed in a single task.

A connection is never repaired; the supervisor replaces it. Callers borrow its session through `Connection.call`, which
ends when the connection ends and never outlives its deadline.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import anyio

from .._sdk.installed import MCPError, is_connection_closed, is_local_timeout
from .._sdk.requests import PING, Request
from .._sdk.session import Progress, Session
from ..event_loop import Flag, loop_time
from ..evidence import Delivery, Evidence, FailureKind
from ..foreign_code import Log, awaiting, guarded
from ..in_flight import Attempt, InFlight, current_attempt
from ..observability.hub import current_call
from ..text.printable import printable
from ..text.redact import Redactor
from ..verdicts.verdict import AttemptError

T = TypeVar("T")

# Seconds a call that the SDK woke with "Connection closed" waits for the transport to report why.
_END_PATIENCE = 2.0
# Seconds a response that was seen on the wire may take to reach its caller after its connection ended.
_ANSWER_PATIENCE = 1.0
# Seconds between two checks for a frozen process.
_LOOK = 5.0
# Seconds of silence after which a process is pinged, if a call has also run into its time limit.
_SILENCE = 60.0
# The same for a process that the operating system reports as stopped; no call has to run into its limit then.
_STOPPED_SILENCE = 30.0
# Seconds for which a server counts as alive after it sent a JSON-RPC message.
_LIVELY = 1.0
# Seconds for sending the cancellation of an abandoned call.
_CANCEL_PATIENCE = 1.0


@dataclass(eq=False)
class Connection:
    """A ready session that callers borrow.

    Attributes:
        generation: The number of this connection, counted from 1.
        session: The negotiated SDK session.
        in_flight: Its requests on the wire.
        is_process: Whether the server is a child process of this client.
        redactor: Removes secrets from the errors that calls raise.
        suspected: Set when the process seems to hang, and when the connection is lost.
        lost: Set when the connection takes no more calls.
        at_rest: Set when the tasks that run beside the calls have ended, which must precede the end of the session;
            None if there are no such tasks.
        notifications_ready: Set once server notifications can arrive, as far as is known.
        on_gap: Called when notifications may have been missed.
        is_stopped: Returns whether the operating system reports the process as stopped.
        log: Logs errors of the callers' progress callbacks, or None.
        reason: Why it was lost, or None.
        answered_at: When the server last answered a call; before the first answer, when the handshake completed.
    """

    generation: int
    session: Session
    in_flight: InFlight
    is_process: bool = False
    redactor: Redactor = field(default_factory=Redactor)
    suspected: Flag = field(default_factory=Flag)
    lost: Flag = field(default_factory=Flag)
    at_rest: Flag | None = None
    notifications_ready: Flag = field(default_factory=Flag)
    on_gap: Callable[[], object] = lambda: None
    is_stopped: Callable[[], bool] = lambda: False
    log: Log | None = None
    reason: Evidence | None = None
    answered_at: float = field(default_factory=anyio.current_time)
    _attempts: set[Attempt] = field(default_factory=set)
    _idle: Flag = field(default_factory=Flag)
    _asking: int = 0
    _overdue: bool = False

    @property
    def is_busy(self) -> bool:
        """Whether calls are in flight."""
        return bool(self._attempts)

    def lose(self, evidence: Evidence) -> None:
        """Take no more calls. Calls in flight may still get their results until the transport is closed."""
        if not self.lost.is_set():
            self.reason = evidence
            self.lost.set()
            self.suspected.set()

    def end(self, evidence: Evidence) -> None:
        """The transport is gone: end the calls in flight as well."""
        self.lose(evidence)
        for attempt in list(self._attempts):
            attempt.end(evidence, _ANSWER_PATIENCE)

    async def drain(self, limit: float) -> None:
        """Wait at most `limit` seconds for the calls in flight and the tasks that run beside them."""
        with anyio.move_on_after(limit):
            if self.at_rest is not None:
                await self.at_rest.wait()
            if self._attempts:
                await self._idle.wait()

    async def call(
        self,
        request: Request[T],
        *,
        timeout: float,
        deadline: float = math.inf,
        progress: Progress | None = None,
        meta: dict[str, object] | None = None,
    ) -> T:
        """Run one attempt of an operation.

        Args:
            request: The request.
            timeout: Seconds the attempt may take; progress restarts the limit.
            deadline: Event-loop time at which the attempt ends even if it makes progress; pauses extend it.
            progress: The caller's progress callback, or None.
            meta: What its requests carry in `_meta`, or None.

        Raises:
            AttemptError: The attempt failed; carries what is known about it.
        """
        scope = anyio.CancelScope(deadline=min(deadline, loop_time() + timeout))
        attempt = Attempt(scope, meta=meta)
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
                callback, callbacks_done = self._reporting(progress, attempt, timeout, deadline)
                with awaiting("the SDK's session", by_caller=True):
                    result = await request.perform(self.session, callback)
                settled = True
                self.answered_at = loop_time()
            if settled:  # outside `scope`: neither a time limit nor a lost connection can discard the result now
                await callbacks_done()
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
                silent=self.in_flight.heard == heard,
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
        silent = self.in_flight.heard == heard
        if silent and attempt.evidence is None and attempt.ended is None:
            self._overdue = True
        late = Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, f"no answer within {timeout:g} s")
        raise AttemptError(None, attempt.conclude(late), silent=silent, earlier=attempt.requests > 1)

    def _reporting(
        self, progress: Progress | None, attempt: Attempt, timeout: float, deadline: float
    ) -> tuple[Progress | None, Callable[[], Awaitable[None]]]:
        """The progress callback of an attempt, and what to await before its result is returned.

        That is the end of the callbacks of earlier messages, as the SDK awaits it on 1.x.
        """
        runner = self.session.callback_runner
        lane = None if runner is None or progress is None else runner.lane()
        done = _nothing if runner is None else partial(runner.caught_up, lane)
        if progress is None:
            return None, done
        callback = guarded("progress_callback", progress, self.log)
        return _restarting(callback if lane is None else lane.later(callback), attempt, timeout, deadline), done

    @contextmanager
    def server_waits(self) -> Iterator[None]:
        """While the server waits for this client: stop the clocks of all attempts, and ignore its silence."""
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
        """Seconds for which the server has been silent while a request was pending."""
        since = self.in_flight.waiting_since
        return 0.0 if since is None or self._asking else anyio.current_time() - since

    async def watch_for_freezing(self) -> None:
        """Wait until the process may be frozen.

        It is pinged only then: many servers run tools in their event loop and answer nothing else meanwhile.
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
        """Ping a suspected process; end the connection if it sends not a single byte in `timeout` seconds."""
        heard, silence = self.in_flight.heard, self.silence
        try:
            await self.call(PING, timeout=timeout)
        except AttemptError as failed:
            if self.in_flight.heard == heard and failed.evidence is not None and not self._asking:
                text = f"the server process is frozen: silent for {silence:.0f} s, and no answer to a ping"
                self.end(Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, text))
        if self.reason is None:
            self.in_flight.excuse()
            self._overdue = False
            self.suspected = Flag()

    async def _explain(self, exc: Exception, attempt: Attempt) -> Evidence | None:
        """The evidence behind what the SDK raised; None if the server's own answer or the caller's code raised it."""
        if attempt.evidence is not None:  # the transport knows more than the SDK's error says
            return attempt.evidence
        closed = isinstance(exc, anyio.ClosedResourceError | anyio.BrokenResourceError)
        # A response that was seen on the wire can still be lost before it reaches the caller, if the session ends in
        # between. "Connection closed" proves that only on a lost connection: a server may send the same error.
        swallowed = closed or (self.lost.is_set() and is_connection_closed(exc))
        if attempt.answered and not swallowed:  # the server's own error, or a result that failed validation
            return None
        # Neither a closed stream nor an SDK error: raised locally, by the request itself.
        if not closed and not isinstance(exc, MCPError):
            return None
        # No response came, so the SDK made the error itself: its own time limit, or the end of the session.
        if is_local_timeout(exc):
            return attempt.conclude(Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, printable(str(exc))))
        attempt.ended = await self.why_closed(attempt.scope.deadline)
        # The session is over even if the transport has not reported it: no other call may borrow this connection.
        self.end(attempt.ended)
        return attempt.conclude(attempt.ended)

    async def why_closed(self, deadline: float = math.inf) -> Evidence:
        """Why the session ended, as the transport saw it.

        The SDK may report the end a moment before the transport does, so this waits up to `_END_PATIENCE` seconds.
        """
        with anyio.CancelScope(deadline=min(deadline, anyio.current_time() + _END_PATIENCE)):
            await self.lost.wait()
        return self.reason or Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the connection closed")

    async def _tell_server(self, attempt: Attempt) -> None:
        """Send the cancellation of an abandoned call where the SDK does not (1.x)."""
        if attempt.delivery is Delivery.UNKNOWN and attempt.request_id is not None and not self.lost.is_set():
            with anyio.move_on_after(_CANCEL_PATIENCE, shield=True):
                try:
                    await self.session.cancel(attempt.request_id, "the caller gave up")
                except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                    return


async def _nothing() -> None:
    pass


def _restarting(progress: Progress, attempt: Attempt, timeout: float, deadline: float) -> Progress:
    """The caller's progress callback, which also restarts the attempt's time limit."""

    async def callback(value: float, total: float | None, message: str | None) -> None:
        attempt.restart(timeout, deadline)
        await progress(value, total, message)

    return callback

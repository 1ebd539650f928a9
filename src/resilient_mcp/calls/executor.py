"""Runs one call to its end: borrow a connection, send, judge, and retry only if that helps and is allowed."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import anyio

from .._sdk.results import is_error_result
from ..connection.generation import Connection
from ..connection.supervisor import Supervisor
from ..errors import (
    ResilienceError,
    ServerUnavailable,
)
from ..event_loop import clock
from ..events import RetryScheduled
from ..evidence import Delivery
from ..foreign_code import calling
from ..observability.calls import Observer
from ..observability.hub import Hub, current_call
from ..policy import Policy, RetryPolicy
from ..strategies.backoff import full_jitter
from ..text.printable import add_note, describe
from ..verdicts.classifier import Classifier
from ..verdicts.verdict import AttemptError, Category, Failure, Verdict
from .catalog import Catalog
from .ending import Ending, error_of
from .gate import Admission, Gate
from .loop_watch import LoopWatch
from .operation import History, Operation

T = TypeVar("T")

# Longest wait in seconds between retries of a request that was never sent: a server that is back is noticed quickly.
_FREE_CAP = 1.0
# Seconds to wait for one answer to the tool listing that decides whether a call may be repeated.
_LISTING_PATIENCE = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class _FailedAttempt:
    """An attempt that failed, or that returned an `isError` result worth retrying."""

    verdict: Verdict
    failed: AttemptError


@dataclass(frozen=True, slots=True)
class _NextAttempt:
    """The decision to retry: the delay in seconds, and whether the retry is free or charged to the retry budget."""

    delay: float
    free: bool
    paid: bool = False


@dataclass(slots=True, eq=False)
class _Call:
    """What one call has used up so far.

    Attributes:
        limited: Whether the user set the time limit per attempt.
        tries: Attempts that count against `RetryPolicy.attempts`.
        free: Retries that do not count.
        own_errors: Attempts that ended in a server error with `Verdict.once` set, which is usually a bug in the tool.
        connections_lost: Attempts during which the connection ended.
        denied: Whether a connection on which the call may have run listed the tool as not repeatable.
        absent_since: When the call began to wait for an absent server, or None.
        last: The last failure, or None.
        answer: The last `isError` result, or None.
        again: The retry in progress, or None.
        fault: The error in the user's `wait` or `stop` that ended the retries, or empty.
    """

    operation: Operation[Any]
    retry: RetryPolicy
    timeout: float
    limited: bool
    began: float
    deadline: float
    history: History = field(default_factory=History)
    tries: int = 0
    free: int = 0
    own_errors: int = 0
    connections_lost: int = 0
    denied: bool = False
    absent_since: float | None = None
    last: _FailedAttempt | None = None
    answer: Any = None
    again: _NextAttempt | None = None
    operation_id: str | None = None
    fault: str = ""

    def meta(self) -> dict[str, object] | None:
        """The `_meta` of the next attempt, or None."""
        if self.operation_id is None:
            return None
        return {"resilient-mcp/operation-id": self.operation_id, "resilient-mcp/attempt": self.history.sent + 1}


class Executor:
    """Runs operations for one server.

    Args:
        supervisor: Provides connections.
        gate: Admits attempts.
        catalog: Knows the tools' annotations.
        policy: The server's policy.
        hub: Receives events.
        classifier: Judges failures.
        observer: Records calls.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        *,
        catalog: Catalog,
        policy: Policy,
        hub: Hub,
        classifier: Classifier,
        observer: Observer | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._catalog = catalog
        self._policy = policy
        self._hub = hub
        self._classifier = classifier
        self._observer = observer or Observer(hub)
        self._loops = LoopWatch(policy)

    async def run(self, operation: Operation[T]) -> T:
        """Run one operation to its end.

        Raises:
            ResilienceError: There is no answer; the subclass says why, and `may_have_run` whether it may have run.
            MCPError: The server's own error, as the SDK raises it.
        """
        with self._observer.call(operation) as watch:
            result = watch.answered(await self._run(self._begin(operation, watch.operation_id)))
        if self._loops.is_on and operation.tool is not None:
            result = self._loops.checked(operation.tool, result)
        return cast("T", result)

    def _begin(self, operation: Operation[Any], operation_id: str) -> _Call:
        timeout = self._policy.timeout
        retry = self._policy.retry
        limit, name = (timeout.attempt, "attempt") if operation.method == "tools/call" else (timeout.request, "request")
        own = operation.timeout
        if operation.tool is not None and self._policy.tools:
            tool = self._policy.tool(operation.tool)
            retry = tool.retry or retry
            own = tool.attempt_timeout if own is None else own
        limited = own is not None or name in timeout.model_fields_set
        deadline = operation.began + timeout.total
        call = _Call(operation, retry, limit if own is None else own, limited, operation.began, deadline)
        if self._policy.send_operation_id:
            call.operation_id = operation_id
        return call

    async def _run(self, call: _Call) -> Any:
        try:
            outcome = await self._drive(call)
        except ResilienceError:  # the next attempt was not admitted, or there was no server
            if call.answer is not None:
                return call.answer
            if not call.history.may_have_run or call.history.repeatable:
                raise
            # This refusal would hide what matters most: an earlier attempt may have run, and the call must not run
            # twice. So the failure of that attempt is reported instead.
            outcome = call.last
        if not isinstance(outcome, _FailedAttempt):
            return outcome
        if call.answer is not None:
            return call.answer  # the server did answer: a failed retry must not turn that into an exception
        error, cause = error_of(self._ending(call, outcome)), outcome.failed.cause
        if call.fault:
            add_note(error, call.fault)
        if error is cause:
            raise error  # keeps its own __cause__
        raise error from cause

    async def _drive(self, call: _Call) -> Any:
        """Send, decide, wait, and send again, until there is an answer or no retry helps or is allowed.

        A free retry keeps its admission: the request never reached the server, so nothing is counted and the call
        keeps its place under the concurrency limit. Any other failure gives the admission up and queues again.

        Returns:
            The answer, or the last `_FailedAttempt`.

        Raises:
            ResilienceError: An attempt was not admitted, or there was no server.
        """
        admission: Admission | None = None
        try:
            while True:
                admission = await self._enter(call, admission)
                outcome = await self._attempt(call, admission)
                if (
                    not isinstance(outcome, _FailedAttempt) or outcome is call.last
                ):  # `call.last`: nothing was sent this time
                    return outcome
                call.last = outcome
                call.again = self._free_retry(call, outcome)
                if call.again is None:
                    # Count first: `leave` releases the breaker's permit, and an outcome without one is not counted.
                    # Leave before any wait: a call in back-off must not hold a place that others queue for.
                    self._count(call, admission, outcome)
                    self._gate.leave(admission)
                    admission = None  # so that `finally` does not leave twice
                    call.again = await self._paid_retry(call, outcome)
                if call.again is None:
                    return outcome
                self._report(call, outcome, call.again)
                await clock.sleep(call.again.delay)
        finally:
            if admission is not None:
                self._gate.leave(admission)

    async def _enter(self, call: _Call, admission: Admission | None) -> Admission:
        """Pass the gate. A free retry keeps its permit and its place, and only takes new rate-limit tokens."""
        if admission is not None:
            admission.deadline = call.deadline
            await self._gate.again(admission)
            return admission
        if self._gate.is_open and self._supervisor.is_on_its_way:
            await self._borrow(call)  # a new connection half-opens the circuit
        now, deadline = anyio.current_time(), call.deadline
        # A new call fails fast at an open circuit; a retry waits as long as it would for an absent server.
        patience = 0.0 if call.last is None else self._ready_deadline(call) - now
        if call.answer is not None:  # an answer is at hand: do not hold it back for long
            deadline = min(deadline, now + call.retry.max_retry_after)
        return await self._gate.enter(call.operation, deadline=deadline, history=call.history, patience=patience)

    # --- one attempt ---

    async def _attempt(self, call: _Call, admission: Admission) -> Any:
        """Send once.

        Returns:
            The result, or a `_FailedAttempt`; this is `call.last` itself if it turned out that no retry is allowed.

        Raises:
            ServerUnavailable: There is no server.
        """
        connection = await self._connection_for(call, admission)
        if call.again is not None:
            # Pay only now: a retry that ends in the waits before this point must not cost anything.
            if connection is None or (call.again.paid and not self._gate.pay(admission)):
                return call.last
            self._observer.sent_again(transparent=call.again.free)
        assert connection is not None  # None only if an earlier attempt may have run, and then `again` is set
        try:
            result = await self._send(call, connection, admission)
        except AttemptError as failed:
            return self._missed(call, connection, failed)
        self._supervisor.answered(connection)
        self._gate.succeeded(admission)
        if call.operation.tool is not None and is_error_result(result):
            return self._read_error(call, result)
        return result

    async def _connection_for(self, call: _Call, admission: Admission | None = None) -> Connection | None:
        """The connection to send on; None if the call may have run and this connection does not list it as repeatable.

        Raises:
            ServerUnavailable: There is no server.
        """
        # The check may wait for the tool listing. If the connection is lost meanwhile, the listing of the next one
        # decides: the same name may be a different tool there.
        while True:
            connection = self._supervisor.ready or await self._borrow(call, admission)
            if not call.history.may_have_run or await self._is_repeatable(call, connection, wait=call.answer is None):
                return connection
            if not connection.lost.is_set():
                return None

    async def _send(self, call: _Call, connection: Connection, admission: Admission) -> Any:
        """Send one request on one connection. Unless it was provably not sent, tokens and budget count as used."""
        operation = call.operation
        admission.used = True
        try:
            return await connection.call(
                operation.request,
                timeout=call.timeout,
                deadline=call.deadline,
                progress=operation.progress,
                meta=call.meta(),
            )
        except BaseException as exc:
            running = current_call.get()
            attempt = running.attempt if running is not None else None
            delivery = attempt.delivery if attempt is not None else Delivery.NOT_SENT
            admission.used = (exc.delivery if isinstance(exc, AttemptError) else delivery) is not Delivery.NOT_SENT
            # Time that people and callbacks took is not charged to the call.
            call.deadline += attempt.paused if attempt is not None else 0.0
            raise

    def _missed(self, call: _Call, connection: Connection, failed: AttemptError) -> _FailedAttempt:
        """Decide the verdict on a failed attempt, once, and record it."""
        verdict = self._judge(call.operation, failed)
        call.history.add(verdict)
        trust, tool = self._policy.trust_annotations, call.operation.tool
        if tool is not None and trust and not verdict.safe:
            call.denied = call.denied or self._catalog.is_repeatable(tool, connection, trust=trust) is False
        if verdict.reconnect and failed.evidence is not None:
            call.connections_lost += 1
            self._supervisor.lost(connection, failed.evidence)
        self._observer.attempt_failed(verdict, transparent=self._is_free(call, verdict), error=failed.cause)
        return _FailedAttempt(verdict, failed)

    def _judge(self, operation: Operation[Any], failed: AttemptError, result: Any = None) -> Verdict:
        failure = Failure(
            operation.method,
            operation.target,
            failed.cause,
            failed.evidence,
            result,
            delivery=failed.delivery,
            earlier=failed.earlier,
        )
        return self._classifier.judge(failure, now=time.time())

    def _read_error(self, call: _Call, result: Any) -> Any:
        """Read an `isError` result. It is an answer; but if it says a retry may help, it becomes a `_FailedAttempt`."""
        failed = AttemptError(None, None)
        try:
            verdict = self._judge(call.operation, failed, result)
        except Exception as exc:  # a fault in judging it must not cost the caller the answer
            self._hub.log_exception("an isError result could not be classified", exc)
            return result
        if not verdict.retryable:
            return result
        call.history.add(verdict)
        call.answer = result
        self._observer.attempt_failed(verdict, transparent=False, result=result)
        return _FailedAttempt(verdict, failed)

    async def _borrow(self, call: _Call, admission: Admission | None = None) -> Connection:
        """Wait for a connection, no longer than a call may wait for an absent server."""
        try:
            return await self._supervisor.wait_ready(min(call.deadline, self._ready_deadline(call)), call.deadline)
        except ServerUnavailable as exc:
            # The wait ran out while a connection was still expected: that failure counts. A server that is suspended or
            # failed is refused by the supervisor immediately, so the circuit has nothing to add.
            if admission is not None and self._supervisor.is_awaited:
                self._gate.count(admission, str(exc))
        history = call.history
        raise self._supervisor.unavailable(str(history), operation=str(call.operation), **history.facts)

    def _ready_deadline(self, call: _Call) -> float:
        if call.absent_since is None:
            call.absent_since = anyio.current_time()
        return call.absent_since + self._policy.timeout.ready

    # --- another attempt? ---

    def _is_free(self, call: _Call, verdict: Verdict) -> bool:
        """Whether a retry is free: the request was never sent, or was rejected because its session was gone.

        After two connections have ended during the same call it is not: the call itself may be what ends them.
        """
        if call.connections_lost > 1:
            return False
        if verdict.category is Category.SESSION_LOST:
            return verdict.safe
        return verdict.delivery is Delivery.NOT_SENT and verdict.category in _NEVER_LEFT

    def _free_retry(self, call: _Call, attempt: _FailedAttempt) -> _NextAttempt | None:
        """A free retry, if there is still time: a call waits up to `timeout.ready` for an absent server."""
        if not self._is_free(call, attempt.verdict):
            return None
        delay = 0.0
        if not attempt.verdict.reconnect:
            chance = random.random()  # noqa: S311 - jitter, not a secret
            delay = full_jitter(call.free, base=self._policy.retry.base, cap=_FREE_CAP, random=chance)
        if anyio.current_time() + delay > min(call.deadline, self._ready_deadline(call)):
            return None
        call.free += 1
        return _NextAttempt(delay, free=True)

    async def _paid_retry(self, call: _Call, attempt: _FailedAttempt) -> _NextAttempt | None:
        """A retry that counts, if both answers are yes: could another attempt help, and is it allowed?"""
        verdict, gate = attempt.verdict, self._gate
        if self._is_free(call, verdict):
            return None  # it qualified for a free retry, but there was no time left
        call.tries += 1
        call.absent_since = None
        paid = not verdict.reconnect or call.connections_lost > 1  # the first reconnect adds no load to the server
        try:
            delay = self._delay(call, attempt) if self._may_help(call, attempt) else None
        except Exception as exc:  # a fault in `wait` or `stop` must not cost the caller the answer, or the real error
            self._hub.log_exception(f"RetryPolicy.wait or stop raised, so {call.operation} is not retried", exc)
            call.fault = f"not retried, since RetryPolicy.wait or stop raised {describe(exc)}"
            delay = None
        if paid and (gate.is_isolated or not gate.can_pay):
            delay = None
        # Asked even if there will be no retry: the error reports `repeatable`. But an answer at hand, or a final
        # failure, is not held back to wait for the tool listing.
        allowed = await self._may_repeat(call, wait=delay is not None and call.answer is None)
        if delay is None or not allowed or anyio.current_time() + delay > call.deadline:
            return None
        return _NextAttempt(delay, free=False, paid=paid)

    def _may_help(self, call: _Call, attempt: _FailedAttempt) -> bool:
        """Whether another attempt could help."""
        verdict, failed = attempt.verdict, attempt.failed
        if verdict.category is Category.TIMEOUT and failed.cause is None and not call.limited:
            return False  # it would take as long again, and the user did not ask for this limit
        if verdict.once:
            call.own_errors += 1
            return call.own_errors == 1
        evidence = failed.evidence
        if evidence is not None and evidence.exit is not None and call.connections_lost >= call.retry.crashes:
            return False
        return verdict.retryable

    async def _may_repeat(self, call: _Call, *, wait: bool) -> bool:
        """Whether a retry is allowed as far as is known. With `wait`, wait for a connection whose listing decides."""
        repeatable = await self._is_repeatable(call, self._supervisor.ready, wait=False)
        if repeatable or not call.history.may_have_run:
            return True
        return wait and repeatable is None and await self._connection_for(call) is not None

    async def _is_repeatable(self, call: _Call, connection: Connection | None, *, wait: bool) -> bool | None:
        """Whether running it twice has the same effect as running it once; None if that is not known.

        Annotations count only as `connection` lists them, and not at all if a connection on which the call may have
        run listed the tool as not repeatable. With `wait`, wait for a listing that is not there yet.
        """
        operation = call.operation
        call.history.repeatable = False
        repeatable: bool | None
        if operation.method != "tools/call":
            repeatable = True
        elif (chosen := self._policy.tool(operation.target or "").repeatable) is not None:
            repeatable = chosen
        elif not self._policy.trust_annotations or operation.target is None or call.denied:
            repeatable = False
        elif connection is None:
            repeatable = None
        else:
            trust = self._policy.trust_annotations
            repeatable = self._catalog.is_repeatable(operation.target, connection, trust=trust)
            if repeatable is None and wait:
                deadline = min(call.deadline, self._ready_deadline(call))
                await self._catalog.wait_listed(connection, deadline, _LISTING_PATIENCE)
                repeatable = self._catalog.is_repeatable(operation.target, connection, trust=trust)
        call.history.repeatable = bool(repeatable)
        return repeatable

    def _delay(self, call: _Call, attempt: _FailedAttempt) -> float | None:
        """Seconds until the next attempt; None if the policy stops here."""
        verdict, retry = attempt.verdict, call.retry
        state: Any = None
        if retry.wait is not None or retry.stop is not None:
            state = _retry_state(call, attempt)
        if verdict.retry_after is not None:
            if verdict.retry_after > retry.max_retry_after:
                return None
            delay = verdict.retry_after
        elif verdict.reconnect and call.connections_lost <= 1:
            delay = 0.0  # the reconnect itself takes its time
        elif retry.wait is not None:
            with calling("RetryPolicy.wait"):
                delay = float(retry.wait(state))
        else:
            slow_down = verdict.category is Category.THROTTLED or attempt.failed.is_shed
            base = retry.throttled_base if slow_down else retry.base
            chance = random.random()  # noqa: S311 - jitter, not a secret
            delay = full_jitter(call.tries - 1, base=base, cap=retry.max_delay, random=chance)
        if retry.stop is None:
            return delay if call.tries < retry.attempts else None
        state.upcoming_sleep = delay
        with calling("RetryPolicy.stop"):
            stops = bool(retry.stop(state))
        return None if stops else delay

    def _count(self, call: _Call, admission: Admission, attempt: _FailedAttempt) -> None:
        """Report a failure to the circuit breaker. An `isError` result was already counted as a success."""
        if attempt.verdict.delivery is not Delivery.ANSWERED:
            self._gate.failed(admission, attempt.verdict, attempt.failed, max_retry_after=call.retry.max_retry_after)

    def _report(self, call: _Call, attempt: _FailedAttempt, again: _NextAttempt) -> None:
        self._hub.emit(
            RetryScheduled(
                server=self._hub.server,
                operation=str(call.operation),
                attempt=call.history.sent,
                delay=again.delay,
                transparent=again.free,
                reason=attempt.verdict.reason,
            )
        )

    def _ending(self, call: _Call, attempt: _FailedAttempt) -> Ending:
        now = anyio.current_time()
        return Ending(
            self._hub.server,
            str(call.operation),
            attempt.verdict,
            attempt.failed,
            call.history,
            elapsed=now - call.began,
            expired=call.deadline <= now,
            credentials=self._supervisor.wording.credentials,
            diagnosis=self._supervisor.diagnosis,
        )


def _retry_state(call: _Call, attempt: _FailedAttempt) -> Any:
    """The state that tenacity's `wait` and `stop` are called with."""
    import tenacity  # noqa: PLC0415 - slow, and a policy that sets one has imported it already

    error = attempt.failed.cause or RuntimeError(attempt.verdict.reason)
    state = tenacity.RetryCallState(retry_object=cast("Any", None), fn=None, args=(), kwargs={})
    state.attempt_number = call.tries
    state.start_time -= anyio.current_time() - call.began
    state.set_exception((type(error), error, error.__traceback__))
    return state


# Categories in which a request that was provably not sent is retried for free.
_NEVER_LEFT = frozenset({Category.TRANSIENT, Category.CONNECTION_LOST})

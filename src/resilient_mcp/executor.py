"""The journey of one call: borrow a connection, try, judge, and try again only when that helps and is allowed."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import anyio
import tenacity

from . import _sdk
from .catalog import Catalog
from .classifier import Category, Classifier, Failure, Verdict
from .connection import Connection, Failed
from .errors import (
    ConnectionLost,
    DeadlineExceeded,
    RateLimitExceeded,
    ResilienceError,
    ServerFailed,
    ServerUnavailable,
    add_note,
    data_of,
    hints,
)
from .events import Hub, RetryScheduled
from .evidence import Delivery, printable
from .gate import Gate
from .observer import Observer
from .operation import Operation
from .policy import Policy, RetryPolicy
from .strategies.backoff import full_jitter
from .strategies.loop_guard import RefusalCounter
from .supervisor import Supervisor
from .waits import clock, loop_time

_TRANSPARENT_CAP = 1.0
"""The longest wait between two tries that never left: a server that is back is noticed soon."""
_TOOLS_KEPT = 1024
"""Tools whose refusals in a row are counted; a model may invent any number of names."""


class _Unanswered(Exception):  # noqa: N818 - a signal within this module
    """One attempt failed, or was answered by an `isError` result that may be worth another try; `final` allows none."""

    def __init__(self, verdict: Verdict, failed: Failed, *, final: bool = False) -> None:
        super().__init__(verdict)
        self.verdict = verdict
        self.failed = failed
        self.final = final


@dataclass(slots=True, eq=False)
class _Call:
    """What one call has used up so far."""

    operation: Operation
    retry: RetryPolicy
    timeout: float
    began: float
    deadline: float
    attempts: int = 0
    transparent: int = 0
    absent_since: float | None = None
    repeatable: bool = False
    last: _Unanswered | None = None
    answer: Any = None
    operation_id: str | None = None

    def meta(self) -> dict[str, object] | None:
        """What the next attempt carries in its `_meta`, or None."""
        if self.operation_id is None:
            return None
        return {"resilient-mcp/operation-id": self.operation_id, "resilient-mcp/attempt": self.attempts + 1}


class Executor:
    """Runs operations for one server.

    Args:
        supervisor: Lends connections.
        gate: Lets attempts through.
        catalog: Knows the tools' annotations.
        policy: The server's numbers.
        hub: Where to report.
        classifier: Judges failures.
        observer: Watches the calls.
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
        self._guards_loops = bool(policy.loop_guard or any(tool.loop_guard for tool in policy.tools.values()))
        self._refusals: OrderedDict[str, RefusalCounter] = OrderedDict()

    async def run(self, operation: Operation) -> Any:
        """Run one operation to its end.

        Raises:
            ResilienceError: It could not be had; the subclass says why, and whether it may have run.
            MCPError: The server's own error, as the SDK raises it.
        """
        with self._observer.call(operation) as watch:
            result = watch.answered(await self._run(self._begin(operation, watch.operation_id)))
        if self._guards_loops and operation.tool is not None:
            return self._guard(operation.tool, result)
        return result

    def _begin(self, operation: Operation, operation_id: str) -> _Call:
        timeout = self._policy.timeout
        retry = self._policy.retry
        attempt_timeout = timeout.attempt
        if operation.tool is not None and self._policy.tools:
            tool = self._policy.tool(operation.tool)
            retry = tool.retry or retry
            attempt_timeout = tool.attempt_timeout or attempt_timeout
        if operation.timeout is not None:
            attempt_timeout = operation.timeout
        began = loop_time()
        call = _Call(operation, retry, attempt_timeout, began, began + timeout.total)
        if self._policy.send_operation_id:
            call.operation_id = operation_id
        return call

    async def _run(self, call: _Call) -> Any:
        try:
            return await self._send(call)
        except _Unanswered as exc:
            first = exc
        error: Exception
        cause: Exception | None
        try:
            return await self._retry(call, first)
        except _Unanswered as last:
            error, cause = self._final(call, last.verdict, last.failed), last.failed.cause
        except ResilienceError as refused:  # the next attempt was not let through, or found no server
            error, cause = refused, None
        if call.answer is not None:
            return call.answer  # is never raised, whatever became of the tries after it
        raise error from (None if error is cause else cause)

    # --- one attempt ---

    async def _send(self, call: _Call) -> Any:
        """One attempt, from the gate to its outcome.

        Raises:
            _Unanswered: It was sent and failed, or another answer may be had.
            ResilienceError: It was not let through, or there is no server.
        """
        operation, gate = call.operation, self._gate
        if gate.is_open and self._supervisor.is_on_its_way:
            await self._borrow(call)  # a new connection half-opens the circuit
        admission = await gate.enter(operation, deadline=call.deadline, attempts=call.attempts)
        try:
            result = await self._deliver(call)
            gate.succeeded(admission)
        except _Unanswered as exc:
            limit = call.retry.max_retry_after
            gate.failed(admission, exc.verdict, exc.failed, max_retry_after=limit)
            raise
        except ServerUnavailable as exc:
            if self._supervisor.is_awaited:
                gate.count(admission, str(exc))
            raise
        finally:
            gate.leave(admission)
        if operation.tool is not None and _sdk.is_error_result(result):
            self._read_error(call, result)
        return result

    async def _deliver(self, call: _Call) -> Any:
        """Send until it has left once: what provably was not run is sent again and costs no attempt."""
        operation = call.operation
        while True:
            connection = self._supervisor.ready
            if connection is None:
                connection = await self._borrow(call)
            try:
                result = await connection.call(
                    operation.invoke,
                    timeout=call.timeout,
                    deadline=call.deadline,
                    progress=operation.progress,
                    meta=call.meta(),
                )
            except Failed as failed:
                verdict = self._judge(operation, failed)
                if failed.evidence is not None and verdict.reconnect:
                    self._supervisor.lost(connection, failed.evidence)
                self._observer.attempt_failed(verdict, transparent=_is_transparent(verdict), error=failed.cause)
                if _is_transparent(verdict):
                    await self._wait_transparently(call, connection, verdict, failed)
                    continue
                call.attempts += 1
                call.absent_since = None
                raise _Unanswered(verdict, failed) from failed.cause
            self._supervisor.answered(connection)
            return result

    def _judge(self, operation: Operation, failed: Failed, result: Any = None) -> Verdict:
        method, target = operation.method, operation.target
        failure = Failure(method, target, failed.cause, failed.evidence, result, failed.earlier)
        return self._classifier.judge(failure, now=time.time())

    def _read_error(self, call: _Call, result: Any) -> None:
        """An `isError` result is an answer; one that says that another try could help may get one."""
        failed = Failed(None, None)
        verdict = self._judge(call.operation, failed, result)
        if verdict.retryable:
            call.attempts += 1
            call.answer = result
            self._observer.attempt_failed(verdict, transparent=False, result=result)
            raise _Unanswered(verdict, failed)

    async def _borrow(self, call: _Call) -> Connection:
        """Wait for a connection, as long as a call may wait for a server that is not there."""
        try:
            return await self._supervisor.lend(min(call.deadline, self._ready_deadline(call)))
        except ServerUnavailable:
            verdict = call.last.verdict if call.last is not None else None
            error = self._supervisor.unavailable(operation=str(call.operation), attempts=call.attempts, verdict=verdict)
        raise error

    def _ready_deadline(self, call: _Call) -> float:
        if call.absent_since is None:
            call.absent_since = anyio.current_time()
        return call.absent_since + self._policy.timeout.ready

    async def _wait_transparently(self, call: _Call, connection: Connection, verdict: Verdict, failed: Failed) -> None:
        """Wait for a server that is not there, until it is given up."""
        n = call.transparent
        call.transparent += 1
        delay = 0.0
        if not connection.lost.is_set():
            base, chance = self._policy.retry.base, random.random()  # noqa: S311 - jitter, no secret
            delay = full_jitter(n, base=base, cap=_TRANSPARENT_CAP, random=chance)
        now = anyio.current_time()
        if now + delay > min(call.deadline, self._ready_deadline(call)):
            raise _Unanswered(verdict, failed, final=True) from failed.cause
        call.last = _Unanswered(verdict, failed)
        self._report(call, delay, transparent=True)
        await clock.sleep(delay)

    # --- more attempts ---

    async def _retry(self, call: _Call, first: _Unanswered) -> Any:
        """Send again, by the policy. Tenacity counts, waits and stops; its first try is the one that failed."""
        pending: _Unanswered | None = first

        async def attempt() -> Any:
            nonlocal pending
            failed, pending = pending, None
            if failed is None:
                assert call.last is not None
                if not await self._is_still_repeatable(call):
                    call.repeatable = False
                    raise _Unanswered(call.last.verdict, call.last.failed, final=True)
                try:
                    return await self._send(call)
                except _Unanswered as exc:
                    failed = exc
            call.last = failed
            call.repeatable = failed.verdict.safe or await self._is_repeatable(call)
            raise failed

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception(lambda exc: isinstance(exc, _Unanswered) and _may_repeat(call)),
            stop=lambda state: (
                (call.retry.stop or tenacity.stop_after_attempt(call.retry.attempts))(state)
                or anyio.current_time() + state.upcoming_sleep > call.deadline
                or not self._may_spend(call, state.upcoming_sleep)
            ),
            wait=lambda state: self._delay(call, state),
            before_sleep=lambda state: self._report(call, state.upcoming_sleep, transparent=False),
            sleep=clock.sleep,
            reraise=True,
        )
        return await retrying(attempt)

    def _may_spend(self, call: _Call, delay: float) -> bool:
        """Whether the server may be asked once more, in `delay` seconds: that costs its budget.

        On a new connection it is free, and the circuit will be tried: a server that was restarted is not unwell.
        """
        assert call.last is not None
        return call.last.verdict.reconnect or (not self._gate.refuses_for(delay) and self._gate.spend())

    async def _is_repeatable(self, call: _Call) -> bool:
        """Whether sending it twice does no more than sending it once."""
        operation = call.operation
        if operation.method != "tools/call":
            return True
        target = operation.target or ""
        chosen = self._policy.tool(target).repeatable
        if chosen is not None:
            return chosen
        if not self._policy.trust_annotations:
            return False
        known = self._catalog.is_repeatable(target)
        if known is not None:
            return known
        return await self._listed_as_repeatable(call, target) or False

    async def _is_still_repeatable(self, call: _Call) -> bool:
        """Whether the annotations of the connection on which it is to be sent again allow that."""
        assert call.last is not None
        verdict, tool = call.last.verdict, call.operation.tool
        if tool is None or verdict.safe or not verdict.reconnect or not self._policy.trust_annotations:
            return True
        if self._policy.tool(tool).repeatable is not None:
            return True
        return await self._listed_as_repeatable(call, tool) is not False

    async def _listed_as_repeatable(self, call: _Call, tool: str) -> bool | None:
        """What the listing of the next connection says of `tool`; None when it has no such tool, or there is none."""
        deadline = min(call.deadline, self._ready_deadline(call))
        try:
            await self._catalog.listed(await self._supervisor.lend(deadline), deadline)
        except ServerUnavailable:
            return None
        return self._catalog.is_repeatable(tool)

    def _delay(self, call: _Call, state: tenacity.RetryCallState) -> float:
        assert call.last is not None
        verdict = call.last.verdict
        if verdict.retry_after is not None:
            return min(verdict.retry_after, call.retry.max_retry_after)
        if verdict.reconnect:
            return 0.0  # the next generation is wait enough
        if call.retry.wait is not None:
            return float(call.retry.wait(state))
        base = call.retry.throttled_base if verdict.category is Category.THROTTLED else call.retry.base
        chance = random.random()  # noqa: S311 - jitter, no secret
        return full_jitter(state.attempt_number - 1, base=base, cap=call.retry.max_delay, random=chance)

    def _report(self, call: _Call, delay: float, *, transparent: bool) -> None:
        assert call.last is not None
        self._hub.emit(
            RetryScheduled(
                server=self._hub.server,
                operation=str(call.operation),
                attempt=call.attempts,
                delay=delay,
                transparent=transparent,
                reason=call.last.verdict.reason,
            )
        )

    # --- the end ---

    def _guard(self, tool: str, result: Any) -> Any:
        """Tell the model, in front of the answer, when a tool refuses every call."""
        policy = self._policy.tool(tool).loop_guard or self._policy.loop_guard
        if policy is None:
            return result
        if (counter := self._refusals.get(tool)) is None:
            counter = self._refusals[tool] = RefusalCounter(policy)
            if len(self._refusals) > _TOOLS_KEPT:
                self._refusals.popitem(last=False)
        count = counter.record(anyio.current_time(), refused=_sdk.is_error_result(result))
        if count is None:
            return result
        name = printable(tool, 100)
        return _sdk.with_text_before(
            result,
            f"The tool {name!r} is reachable, but it refused the last {count} calls: do not repeat the call as it is. "
            "Read the answer below, then change the arguments or go another way.",
        )

    def _final(self, call: _Call, verdict: Verdict, failed: Failed) -> Exception:
        """What the caller gets when the tries are spent, or another is not allowed."""
        server, operation, attempts = self._hub.server, str(call.operation), call.attempts
        times = "once" if attempts == 1 else f"{attempts} times"
        cause = failed.cause
        refused = failed.evidence is not None and failed.evidence.own_error and verdict.category not in _OURS
        if cause is not None and (failed.evidence is None or refused):
            if attempts > 1:
                add_note(cause, f"{operation} was sent to the MCP server {server!r} {times}")
            if said := hints(data_of(cause)):
                add_note(cause, f"the server says: {said}")
            return cause
        elapsed = anyio.current_time() - call.began
        context: dict[str, Any] = {
            "server": server,
            "operation": operation,
            "attempts": attempts,
            "verdict": verdict,
            "data": data_of(cause),
        }
        fate = "It is safe to repeat." if call.repeatable else _MAY_HAVE_RUN
        where = f"{operation} on MCP server {server!r}"
        sent = f"It was sent {times}" if attempts else "It was not sent"
        if verdict.category is Category.AUTH and verdict.safe:
            text = f"{where} was refused: {verdict.reason}. Check the credentials given to the HTTP client."
            advice = (
                f"The server {server!r} refused the credentials ({verdict.reason}), so nothing was run. Do not repeat "
                "the call: it will not help until a person has changed them."
            )
            return ServerFailed(text, advice=advice, **context)
        if verdict.category is Category.TIMEOUT and verdict.delivery is not Delivery.NOT_SENT:
            text = f"{where} was given up after {elapsed:.1f} s: {verdict.reason}. {sent}. {fate}"
            return DeadlineExceeded(text, elapsed=elapsed, advice=text, **context)
        if verdict.delivery is Delivery.UNKNOWN:
            text = f"{where} got no answer: {verdict.reason}. {sent}. {fate}"
            return ConnectionLost(text, advice=text, **context)
        return self._not_run(call, verdict, f"{where} was", sent, context)

    def _not_run(self, call: _Call, verdict: Verdict, was: str, sent: str, context: dict[str, Any]) -> ResilienceError:
        """The end of a call that provably was not run."""
        if verdict.category is Category.TIMEOUT or call.deadline <= anyio.current_time():
            elapsed = anyio.current_time() - call.began
            text = f"{was} given up after {elapsed:.1f} s, before it was run: {verdict.reason}. {sent}."
            return DeadlineExceeded(text, elapsed=elapsed, advice=text, **context)
        if verdict.category is Category.PERMANENT:
            text = f"{was} refused: {verdict.reason}. It was not run, and repeating it as it is will not help."
            return ResilienceError(text, advice=text, **context)
        wait = verdict.retry_after
        when = "Try again later." if wait is None else f"Try again in {wait:.0f} s; do not call it before."
        text = f"{was} not run: {verdict.reason}. {sent}. {when}"
        error = RateLimitExceeded if verdict.category is Category.THROTTLED else ServerUnavailable
        return error(text, advice=text, retry_in=wait, **context)


_OURS = frozenset({Category.AUTH, Category.THROTTLED, Category.SESSION_LOST, Category.TRANSIENT, Category.TIMEOUT})
_MAY_HAVE_RUN = "The server may have run it, and may still be running it: check before repeating it."


def _is_transparent(verdict: Verdict) -> bool:
    """Whether sending it once more costs nothing: it never left, or the session it named was gone."""
    if verdict.category is Category.SESSION_LOST:
        return verdict.safe
    return verdict.delivery is Delivery.NOT_SENT and verdict.category in _NEVER_LEFT


_NEVER_LEFT = frozenset({Category.TRANSIENT, Category.CONNECTION_LOST})


def _may_repeat(call: _Call) -> bool:
    """Both questions: could another try help, and is it allowed?"""
    assert call.last is not None
    return call.last.verdict.retryable and not call.last.final and call.repeatable

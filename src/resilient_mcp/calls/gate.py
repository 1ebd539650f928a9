"""The gate every attempt passes, always in this order: circuit breaker, rate limit, concurrency limit.

The state machines are in `strategies`; this module is the thin async shell around them. An attempt that is not admitted
raises, and nothing is sent. The server's retry budget is kept here, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import anyio

from .._sdk.installed import MCPError
from ..bounded import LruDict
from ..errors import CircuitOpen, DeadlineExceeded, Overloaded, RateLimitExceeded, ResilienceError
from ..event_loop import Home, Signal, clock
from ..events import BreakerChanged, Throttled
from ..observability.hub import Hub
from ..policy import Policy, RateLimit
from ..strategies.breaker import Breaker, BreakerState, Permit
from ..strategies.budget import RetryBudget
from ..strategies.concurrency import Bulkhead, Ticket
from ..strategies.rate_limit import TICK, TokenBucket
from ..verdicts.verdict import AttemptError, Category, Verdict
from .operation import History, Operation

_GATEWAY_TIMEOUT = 504
# Tools whose own token buckets are kept. Bounded, because a model may invent any number of names.
_TOOLS_KEPT = 1024
# Seconds that a new call at an open circuit waits for a probe, which may show that the server has recovered.
_PROBE_PATIENCE = 1.0
# Seconds for which a failed probe counts: a call that arrives within them is refused without waiting for another probe.
_FRESH = 2.0


@dataclass(slots=True, eq=False)
class Admission:
    """An attempt at the gate. Always pass it to `Gate.leave` in the end, whatever the outcome.

    Attributes:
        operation: The operation.
        deadline: When the call ends in any case.
        history: Its earlier attempts.
        permit: The breaker's permit.
        ticket: Its place under the concurrency limit, or in the queue for one.
        tokens: The rate-limit tokens it took: each bucket, and when the token falls due.
        paid: Whether it took from the retry budget.
        used: Whether it was sent. If it was not, tokens and budget are given back.
    """

    operation: Operation[Any]
    deadline: float
    history: History
    permit: Permit | None = None
    ticket: Ticket | None = None
    tokens: list[tuple[TokenBucket, float]] = field(default_factory=list)
    paid: bool = False
    used: bool = False


class Circuit:
    """The circuit breaker of one server, to inspect and operate by hand.

    Closed admits every call. Open refuses every call until the server shows a sign of life or the open time has
    elapsed. Half-open admits one trial call. Isolated refuses every call until `reset`.
    """

    def __init__(self, gate: Gate, breaker: Breaker) -> None:
        self._gate = gate
        self._breaker = breaker

    @property
    def state(self) -> BreakerState:
        """The current state."""
        return self._breaker.state

    def isolate(self) -> None:
        """Refuse every call until `reset`; callable from any thread, like `reset`."""
        self._operate("isolated by hand", lambda: self._breaker.isolate(clock.now()))

    def reset(self) -> None:
        """Close the circuit and forget all failures."""
        self._operate("reset by hand", self._breaker.reset)

    def _operate(self, reason: str, change: Callable[[], None]) -> None:
        def operate() -> None:
            with self._gate.watched(reason):
                change()

        if self._gate.home is None:
            operate()
        else:  # it wakes the calls that wait for the circuit, which only their own thread may do
            self._gate.home.run(operate)


class _Watched:
    """Reports a change of the breaker's state, whatever caused it."""

    def __init__(self, gate: Gate, breaker: Breaker, reason: str) -> None:
        self._gate, self._breaker, self._reason = gate, breaker, reason

    def __enter__(self) -> None:
        self._old = self._breaker.state

    def __exit__(self, *exc_info: object) -> None:
        if (new := self._breaker.state) is not self._old:
            self._gate.moved(self._old, new, self._reason)


class Gate:
    """Admits attempts at one server, or refuses them.

    Args:
        policy: The server's policy.
        hub: Receives events.

    Attributes:
        circuit: The breaker, or None if the policy has none.
        home: The event loop of the calls; None before the start.
        waiting: How many calls wait for the circuit to admit them.
        probing: Whether the server is probed while the circuit is open.
    """

    def __init__(self, policy: Policy, hub: Hub) -> None:
        self._policy = policy
        self._hub = hub
        self._breaker = Breaker(policy.breaker) if policy.breaker is not None else None
        self._budget = RetryBudget(policy.budget) if policy.budget is not None else None
        self._bucket = _bucket(policy.rate_limit)
        self._bulkhead = Bulkhead(policy.concurrency.limit, policy.concurrency.queue) if policy.concurrency else None
        self._tool_buckets: LruDict[str, TokenBucket] = LruDict(_TOOLS_KEPT)
        self._tools_are_limited = any(tool.rate_limit is not None for tool in policy.tools.values())
        self._unlimited = policy.rate_limit is None and not self._tools_are_limited and self._bulkhead is None
        self._woken: dict[Ticket, anyio.Event] = {}
        self._reason = ""
        self.circuit = Circuit(self, self._breaker) if self._breaker is not None else None
        self.home: Home | None = None
        self._moved = Signal()
        self._asked = Signal()
        self._opened_at = self._probed_at = -math.inf
        self._ready = policy.timeout.ready
        self.waiting = 0
        self.probing = False

    # --- in and out ---

    async def enter(
        self, operation: Operation[Any], *, deadline: float, history: History, patience: float = 0.0
    ) -> Admission:
        """Admit an attempt, waiting for rate-limit tokens and a place under the concurrency limit as needed.

        Args:
            operation: The operation.
            deadline: When the call ends in any case.
            history: Its earlier attempts.
            patience: Seconds to wait for an open circuit to admit it.

        Raises:
            CircuitOpen: The circuit is open.
            RateLimitExceeded: No token would be available before the deadline.
            Overloaded: The queue for the concurrency limit is full.
            DeadlineExceeded: No place became free before the deadline.
        """
        now = clock.now()
        admission = Admission(operation, deadline, history)
        if not self._admit(admission, now):
            await self._wait_for_circuit(admission, patience)
        if self._unlimited and not self._bucket.retry_in(now):
            return admission
        try:
            await self._take_tokens(admission)
            if self._bulkhead is not None:
                await self._find_place(self._bulkhead, admission)
            if self._breaker is not None and self._breaker.state is not BreakerState.CLOSED:
                # The circuit may have opened while this call waited. The permit predates that, so swap it for a new
                # one: otherwise a whole queue would still be sent to a server just found to be failing.
                self._release(admission)
                if not self._admit(admission, clock.now()):
                    await self._wait_for_circuit(admission, patience)
        except BaseException:
            self.leave(admission)
            raise
        return admission

    async def again(self, admission: Admission) -> None:
        """Admit the same attempt again: it keeps its permit and its place, and only takes new tokens.

        Raises:
            RateLimitExceeded: No token would be available before the deadline.
        """
        self._give_back(admission)
        if not self._unlimited or self._bucket.retry_in(clock.now()):
            await self._take_tokens(admission)

    def pay(self, admission: Admission) -> bool:
        """Take the cost of a retry, just before it is sent. Returns False if the budget is exhausted."""
        if self._budget is None or admission.paid:
            return True
        admission.paid = self._budget.spend()
        return admission.paid

    def leave(self, admission: Admission) -> None:
        """The attempt is over. If neither `succeeded` nor `failed` was called, the outcome is not counted."""
        self._release(admission)
        self._give_back(admission)
        if admission.paid and not admission.used and self._budget is not None:
            self._budget.give_back()
        admission.paid = False
        if admission.ticket is not None and self._bulkhead is not None:
            following = self._bulkhead.leave(admission.ticket)
            self._woken.pop(admission.ticket, None)
            admission.ticket = None
            if following is not None:
                self._woken[following].set()

    def succeeded(self, admission: Admission) -> None:
        """The call was answered."""
        if self._budget is not None:
            self._budget.earn()
        self._alive(admission)

    def _alive(self, admission: Admission) -> None:
        breaker = self._breaker
        if breaker is not None and admission.permit is not None:
            if admission.permit.trial:
                with self.watched("the trial call was answered"):
                    breaker.succeeded(admission.permit, clock.now())
            else:
                breaker.succeeded(admission.permit, clock.now())

    def failed(self, admission: Admission, verdict: Verdict, failed: AttemptError, *, max_retry_after: float) -> None:
        """The attempt failed: count it if it shows that the server is unwell, and honour a push-back.

        Args:
            admission: The attempt.
            verdict: The classifier's verdict.
            failed: The SDK's exception and the transport's evidence.
            max_retry_after: The longest push-back imposed on all calls, in seconds.
        """
        evidence = failed.evidence
        if verdict.category is Category.THROTTLED and evidence is not None and verdict.retry_after:
            self._push_back(min(verdict.retry_after, max_retry_after), verdict.reason)
        if _is_unwell(verdict, failed):
            self.count(admission, verdict.reason)
        elif (evidence is None and isinstance(failed.cause, MCPError)) or _is_slow(verdict, failed):
            self._alive(admission)

    def count(self, admission: Admission, reason: str) -> None:
        """Count one failure against the circuit."""
        if self._breaker is None or admission.permit is None:
            return
        self._reason = reason
        with self.watched(reason):
            self._breaker.failed(admission.permit, clock.now())

    @property
    def can_pay(self) -> bool:
        """Whether the retry budget of the server suffices for one more retry."""
        return self._budget is None or self._budget.suffices

    def connected(self) -> None:
        """A new connection was made."""
        self.readmit("a new connection was made")

    def readmit(self, reason: str) -> None:
        """The server showed a sign of life: half-open an open circuit."""
        if self._breaker is not None:
            with self.watched(reason):
                self._breaker.hint(clock.now())

    @property
    def is_isolated(self) -> bool:
        """Whether the circuit was opened by hand, so that calls are refused until `reset`."""
        return self._breaker is not None and self._breaker.state is BreakerState.ISOLATED

    @property
    def is_closed(self) -> bool:
        """Whether there is nothing to probe for: the circuit is closed, isolated by hand, or absent."""
        return self._breaker is None or self._breaker.state not in {BreakerState.OPEN, BreakerState.HALF_OPEN}

    async def wait_open(self) -> None:
        """Wait until the circuit is open."""
        while not self.is_open:
            await self._moved.wait()

    async def wait_asked(self) -> None:
        """Wait until a call waits for the open circuit."""
        while not self.waiting:
            await self._asked.wait()

    def probe_failed(self) -> None:
        """A probe went unanswered."""
        self._probed_at = clock.now()
        self._moved.notify()

    @property
    def is_open(self) -> bool:
        """Whether calls are refused until the server shows a sign of life or the open time has elapsed."""
        return self._breaker is not None and self._breaker.state is BreakerState.OPEN

    @property
    def openings(self) -> int:
        """How often the circuit has opened without closing in between."""
        return 0 if self._breaker is None else self._breaker.openings

    # --- breaker ---

    def _admit(self, admission: Admission, now: float) -> bool:
        """Whether the circuit admits the attempt; if so, it has a permit."""
        breaker = self._breaker
        if breaker is None:
            return True
        if breaker.state is BreakerState.CLOSED:
            admission.permit = breaker.admit(now)
            return True
        with self.watched("its open time has elapsed"):
            admission.permit = breaker.admit(now)
        return admission.permit is not None

    async def _wait_for_circuit(self, admission: Admission, patience: float) -> None:
        """Wait for a circuit that does not admit the attempt.

        The wait is `patience`, or longer in three cases:

        - The circuit is half-open: wait up to `timeout.ready` for the outcome of the trial call.
        - It first opened recently and the server is probed: wait until `timeout.ready` after that, as for an absent
          server.
        - No probe has failed recently: wait `_PROBE_PATIENCE` for one.

        Raises:
            CircuitOpen: The attempt was not admitted in time.
        """
        assert self._breaker is not None
        breaker, began = self._breaker, clock.now()
        deadline, openings = self._clock_deadline(admission), breaker.openings
        self.waiting += 1
        self._asked.notify()
        try:
            while breaker.state is not BreakerState.ISOLATED:
                now = clock.now()
                wait = patience
                if breaker.state is BreakerState.HALF_OPEN:
                    wait = max(patience, self._ready)
                elif self.probing:
                    wait = max(patience, self._opened_at + self._ready - began)
                    # A trial that failed meanwhile (one more opening) is as good as a failed probe.
                    if breaker.openings == openings and began - self._probed_at > _FRESH:
                        wait = max(wait, _PROBE_PATIENCE)
                left = min(began + wait, deadline) - now
                if left <= 0:
                    break
                await clock.wait(self._moved, min(left, breaker.retry_in(now) or 0.0))
                if self._admit(admission, clock.now()):
                    return
        finally:
            self.waiting -= 1
        await anyio.lowlevel.checkpoint()  # a caller that retries in a tight loop must not starve the probe
        raise self._circuit_open(admission, breaker, clock.now())

    def _clock_deadline(self, admission: Admission) -> float:
        """The deadline of the attempt on the clock that waits are measured by."""
        return clock.now() + admission.deadline - anyio.current_time()

    def _circuit_open(self, admission: Admission, breaker: Breaker, now: float) -> ResilienceError:
        retry_in = breaker.retry_in(now)
        if breaker.state is BreakerState.ISOLATED:
            why, when = "it was isolated by hand", "Someone has to reset it."
        else:
            why = f"it failed too often: {self._reason}"
            when = "" if retry_in is None else f"Do not call it again for {_span(retry_in)}."
        circuit = f"the circuit of MCP server {self._hub.server!r} is {breaker.state.value}"
        fate = f"was refused: {circuit}, because {why}. {admission.history} {when}"
        return self._refusal(CircuitOpen, admission, fate, retry_in=retry_in)

    def _refusal(self, kind: type[ResilienceError], admission: Admission, fate: str, **facts: Any) -> ResilienceError:
        """The error for an attempt that was not admitted."""
        operation = str(admission.operation)  # once: it redacts secrets, and a refusal must be quick
        text = f"{operation} {fate}"
        facts |= admission.history.facts
        return kind(text, server=self._hub.server, operation=operation, **facts)

    def _release(self, admission: Admission) -> None:
        if self._breaker is not None and admission.permit is not None:
            self._breaker.released(admission.permit)
            if admission.permit.trial:
                self._moved.notify()  # another call may make the trial now
            admission.permit = None

    def watched(self, reason: str) -> Any:
        """A context manager that reports a change of the breaker's state made inside it."""
        assert self._breaker is not None
        return _Watched(self, self._breaker, reason)

    def moved(self, old: BreakerState, new: BreakerState, reason: str) -> None:
        """The breaker's state changed."""
        assert self._breaker is not None
        if new is BreakerState.OPEN:
            self._probed_at = -math.inf
            if self._breaker.openings == 1:
                self._opened_at = clock.now()
        self._moved.notify()
        retry_in = None if new is BreakerState.CLOSED else self._breaker.retry_in(clock.now())
        self._hub.emit(BreakerChanged(server=self._hub.server, old=old, new=new, reason=reason, retry_in=retry_in))

    # --- rate limit ---

    def _buckets(self, tool: str | None) -> list[TokenBucket]:
        """The buckets that an attempt takes a token from: its tool's, if it has one, then the server's."""
        if tool is None or not self._tools_are_limited:
            return [self._bucket]
        limit = self._policy.tool(tool).rate_limit
        if limit is None:
            return [self._bucket]
        bucket = self._tool_buckets.get(tool)
        if bucket is None:
            bucket = self._tool_buckets[tool] = _bucket(limit)
        return [bucket, self._bucket]

    async def _take_tokens(self, admission: Admission) -> None:
        """Wait for a token from each bucket that applies, and for the end of a push-back."""
        admission.used = False
        # Appended one by one: if the second wait fails, `leave` gives the first token back.
        for bucket in self._buckets(admission.operation.tool):
            admission.tokens.append((bucket, await self._take(bucket, admission)))

    def _give_back(self, admission: Admission) -> None:
        now = clock.now()
        while admission.tokens:
            bucket, due = admission.tokens.pop()
            if not admission.used:
                bucket.give_back(due, now)

    async def _take(self, bucket: TokenBucket, admission: Admission) -> float:
        """Wait for a token.

        Returns:
            When it fell due, on the clock of the waits.
        """
        now = clock.now()
        wait = bucket.reserve(now, admission.deadline - anyio.current_time())
        if wait is None:
            raise self._no_token(bucket.retry_in(now), admission)
        due = now + wait
        left = wait
        try:
            while left > 0 and left <= admission.deadline - anyio.current_time():
                await clock.sleep(left)
                now = clock.now()
                # A push-back may have come during the sleep. Then the reservation was moved behind it.
                left = bucket.paused(due, now)
                if left > TICK:
                    due = now + left
        except BaseException:
            bucket.give_back(due, clock.now())
            raise
        if left > 0 or anyio.current_time() > admission.deadline:
            bucket.give_back(due, now)
            raise self._no_token(left, admission)
        return due

    def _no_token(self, retry_in: float, admission: Admission) -> ResilienceError:
        fate = (
            f"was refused: the rate limit of MCP server {self._hub.server!r} has no token for it before its deadline. "
            f"{admission.history} Try again in {_span(retry_in)}."
        )
        return self._refusal(RateLimitExceeded, admission, fate, retry_in=retry_in)

    def _push_back(self, delay: float, reason: str) -> None:
        """Honour a push-back: every caller waits, so that the server need not refuse each of them."""
        self._bucket.pause(clock.now() + delay)
        self._hub.emit(Throttled(server=self._hub.server, delay=delay, reason=reason))

    # --- concurrency limit ---

    async def _find_place(self, bulkhead: Bulkhead, admission: Admission) -> None:
        """Take a place under the concurrency limit, waiting in the queue for one.

        Raises:
            Overloaded: The queue is full.
            DeadlineExceeded: No place became free before the deadline.
        """
        began = anyio.current_time()
        ticket = bulkhead.enter()
        busy = f"{bulkhead.running} calls are running on MCP server {self._hub.server!r}"
        if ticket is None:
            fate = (
                f"was refused: {busy} (and {bulkhead.waiting} queued), which is all that its concurrency limit "
                f"allows. {admission.history} Try again later."
            )
            raise self._refusal(Overloaded, admission, fate)
        # Recorded before the wait: `leave` hands a place to the queue's head in one step, without asking whether that
        # call is still there. One that is cancelled or times out at this moment has an admitted ticket, and would leak
        # the place for good unless its own `leave` passed it on.
        admission.ticket = ticket
        if ticket.admitted:
            return
        # No await since `enter`, so whoever admits this ticket finds its event.
        self._woken[ticket] = event = anyio.Event()
        with anyio.CancelScope(deadline=admission.deadline):
            await event.wait()
            return
        elapsed = anyio.current_time() - began
        fate = (
            f"timed out after {elapsed:.1f} s in the queue: {busy}, which is its concurrency limit. "
            f"{admission.history} Try again later."
        )
        raise self._refusal(DeadlineExceeded, admission, fate, elapsed=elapsed)


def _is_unwell(verdict: Verdict, failed: AttemptError) -> bool:
    """Whether a failure shows that the server cannot answer: a lost connection, a silent time limit, a 5xx.

    Not counted are JSON-RPC errors (only one tool may be broken), push-backs (they have a pause of their own), a 503 or
    a time limit while the server was heard, and what this client did itself.
    """
    evidence = failed.evidence
    if evidence is None or evidence.by_client or failed.is_shed or not verdict.counts_for_breaker:
        return False
    if _is_time_limit(verdict, failed):
        return failed.silent
    return verdict.category is not Category.THROTTLED


def _is_time_limit(verdict: Verdict, failed: AttemptError) -> bool:
    """Whether a time limit ended the attempt, this client's or a gateway's."""
    status = None if failed.evidence is None else failed.evidence.http_status
    return verdict.category is Category.TIMEOUT or status == _GATEWAY_TIMEOUT


def _is_slow(verdict: Verdict, failed: AttemptError) -> bool:
    """Whether the attempt only took too long while the server was heard."""
    return _is_time_limit(verdict, failed) and not failed.silent


def _bucket(limit: RateLimit | None) -> TokenBucket:
    return TokenBucket(math.inf, 1) if limit is None else TokenBucket(limit.rate, limit.burst)


def _span(seconds: float) -> str:
    """Seconds as text; at least 0.1, so that a wait is never shown as "0.0 s"."""
    return f"{max(seconds, 0.1):.1f} s"

"""What stands before every attempt, in one order: circuit breaker, rate limit, concurrency limit.

The state machines are in `strategies`; this is the thin shell that waits where they say so. A call that is not let
through raises, and nothing is sent. The retry budget of the server lives here, too.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import anyio

from . import _sdk
from .classifier import Category, Verdict
from .connection import Failed
from .errors import CircuitOpen, DeadlineExceeded, Overloaded, RateLimitExceeded, ResilienceError
from .events import BreakerChanged, Hub, Throttled
from .evidence import Delivery, Evidence, Kind
from .operation import History, Operation
from .policy import Policy, RateLimit
from .strategies.breaker import Breaker, BreakerState, Permit
from .strategies.budget import RetryBudget
from .strategies.concurrency import Bulkhead, Ticket
from .strategies.rate_limit import TICK, TokenBucket
from .waits import clock

_TOOLS_KEPT = 1024
"""Tools whose own token buckets are remembered; a model may invent any number of names."""


@dataclass(slots=True, eq=False)
class Admission:
    """An attempt at the gate; `Gate.leave` it in the end, whatever became of it.

    Attributes:
        operation: What is asked.
        deadline: When the call ends in any case.
        history: What became of it before.
        permit: The breaker's.
        ticket: Its place under the concurrency limit.
        tokens: What it took of the rate limits: each bucket, and when its token falls due.
        paid: Whether it took from the retry budget.
        used: Whether it was sent. What was taken for an attempt that was not goes back.
    """

    operation: Operation
    deadline: float
    history: History
    permit: Permit | None = None
    ticket: Ticket | None = None
    tokens: list[tuple[TokenBucket, float]] = field(default_factory=list)
    paid: bool = False
    used: bool = False


class Circuit:
    """The circuit breaker of one server, for the hands of a person.

    Closed lets every call through; open refuses them all until the server showed a sign of life or its time has
    passed; half-open lets one call through to find out; isolated refuses them all until `reset`.
    """

    def __init__(self, gate: Gate, breaker: Breaker) -> None:
        self._gate = gate
        self._breaker = breaker

    @property
    def state(self) -> BreakerState:
        """Where it stands."""
        return self._breaker.state

    def isolate(self) -> None:
        """Refuse every call from now on, until `reset`."""
        with self._gate.watched("isolated by hand"):
            self._breaker.isolate(clock.now())

    def reset(self) -> None:
        """Close it and forget all failures."""
        with self._gate.watched("reset by hand"):
            self._breaker.reset()


class _Watched:
    """Tells of a change of the breaker's state, whatever made it."""

    def __init__(self, gate: Gate, breaker: Breaker, reason: str) -> None:
        self._gate, self._breaker, self._reason = gate, breaker, reason

    def __enter__(self) -> None:
        self._old = self._breaker.state

    def __exit__(self, *exc_info: object) -> None:
        if (new := self._breaker.state) is not self._old:
            self._gate.moved(self._old, new, self._reason)


class Gate:
    """Lets attempts at one server through, or refuses them.

    Args:
        policy: The server's numbers.
        hub: Where to report.

    Attributes:
        circuit: The breaker, or None when the policy has none.
        unheard: Set while the circuit is open because the server was not heard of: a probe may tell more.
    """

    def __init__(self, policy: Policy, hub: Hub) -> None:
        self._policy = policy
        self._hub = hub
        self._breaker = Breaker(policy.breaker) if policy.breaker is not None else None
        self._budget = RetryBudget(policy.budget) if policy.budget is not None else None
        self._bucket = _bucket(policy.rate_limit)
        self._bulkhead = Bulkhead(policy.concurrency.limit, policy.concurrency.queue) if policy.concurrency else None
        self._tool_buckets: OrderedDict[str, TokenBucket] = OrderedDict()
        self._tools_are_limited = any(tool.rate_limit is not None for tool in policy.tools.values())
        self._unlimited = policy.rate_limit is None and not self._tools_are_limited and self._bulkhead is None
        self._woken: dict[Ticket, anyio.Event] = {}
        self._reason = ""
        self.circuit = Circuit(self, self._breaker) if self._breaker is not None else None
        self.unheard = anyio.Event()

    # --- in and out ---

    async def enter(self, operation: Operation, *, deadline: float, history: History) -> Admission:
        """Let an attempt through, waiting for a token and a place where the policy has such.

        Args:
            operation: What is asked.
            deadline: When the call ends in any case.
            history: What became of it before.

        Raises:
            CircuitOpen: The circuit is open.
            RateLimitExceeded: No token would be there before the deadline.
            Overloaded: The queue in front of the concurrency limit is full.
            DeadlineExceeded: No place got free before the deadline.
        """
        now = clock.now()
        admission = Admission(operation, deadline, history)
        self._admit(admission, now)
        if self._unlimited and not self._bucket.retry_in(now):
            return admission
        try:
            await self._take_tokens(admission)
            if self._bulkhead is not None:
                await self._find_place(self._bulkhead, admission)
            if self._breaker is not None and self._breaker.state is not BreakerState.CLOSED:
                self._release(admission)  # the circuit may have opened while this call waited
                self._admit(admission, clock.now())
        except BaseException:
            self.leave(admission)
            raise
        return admission

    async def again(self, admission: Admission) -> None:
        """The attempt is made once more, in the same place and at no cost but that of every request: a token.

        Raises:
            RateLimitExceeded: No token would be there before the deadline.
        """
        self._give_back(admission)
        if not self._unlimited or self._bucket.retry_in(clock.now()):
            await self._take_tokens(admission)

    def pay(self, admission: Admission) -> bool:
        """Take what a retry costs, just before it is sent; False when the budget has no room for it."""
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

    def failed(self, admission: Admission, verdict: Verdict, failed: Failed, *, max_retry_after: float) -> None:
        """The attempt failed: count it where it says that the server is unwell, and obey a push-back.

        Args:
            admission: The attempt.
            verdict: What the classifier said.
            failed: What the SDK raised and what the edges saw.
            max_retry_after: The longest push-back that is obeyed, in seconds.
        """
        evidence = failed.evidence
        if verdict.category is Category.THROTTLED and evidence is not None and verdict.retry_after:
            self._push_back(min(verdict.retry_after, max_retry_after), verdict.reason)
        own = evidence is None and isinstance(failed.cause, _sdk.MCPError)
        heard = own or (evidence is not None and evidence.http_status is not None)
        if _is_unwell(verdict, evidence):
            self.count(admission, verdict.reason, shared=_ended_many(evidence), heard=heard)
        elif heard:
            self._alive(admission)

    def count(self, admission: Admission, reason: str, *, shared: bool = False, heard: bool = False) -> None:
        """One failure for the breaker; `shared` when one event ended many calls, `heard` when the server answered."""
        if self._breaker is None or admission.permit is None:
            return
        self._reason = reason
        with self.watched(reason):
            self._breaker.failed(admission.permit, clock.now(), shared=shared)
        if not heard and self._breaker.state is BreakerState.OPEN:
            self.unheard.set()

    @property
    def can_pay(self) -> bool:
        """Whether the budget of the server has room for one more retry."""
        return self._budget is None or self._budget.suffices

    def connected(self) -> None:
        """There is a new connection."""
        self.hint("there is a new connection")

    def hint(self, reason: str) -> None:
        """The server showed a sign of life: an open circuit may be tried now."""
        self.unheard = anyio.Event()
        if self._breaker is not None:
            with self.watched(reason):
                self._breaker.hint(clock.now())

    def refuses_for(self, seconds: float) -> bool:
        """Whether the circuit stays open for at least `seconds`, as far as is known."""
        breaker = self._breaker
        if breaker is None or breaker.state not in {BreakerState.OPEN, BreakerState.ISOLATED}:
            return False
        retry_in = breaker.retry_in(clock.now())
        return retry_in is None or retry_in > seconds

    @property
    def is_open(self) -> bool:
        """Whether calls are refused until the server shows a sign of life, or the breaker's time is up."""
        return self._breaker is not None and self._breaker.state is BreakerState.OPEN

    @property
    def openings(self) -> int:
        """How often in a row the circuit was opened."""
        return 0 if self._breaker is None else self._breaker.openings

    # --- breaker ---

    def _admit(self, admission: Admission, now: float) -> None:
        breaker = self._breaker
        if breaker is None:
            return
        if breaker.state is BreakerState.CLOSED:
            admission.permit = breaker.admit(now)
            return
        with self.watched("its open time is over"):
            admission.permit = breaker.admit(now)
        if admission.permit is not None:
            return
        retry_in = breaker.retry_in(now)
        if breaker.state is BreakerState.ISOLATED:
            why, when = "it was isolated by hand", "Somebody has to reset it."
        else:
            why = f"it failed too often: {self._reason}"
            when = "" if retry_in is None else f"Do not call it again before {_span(retry_in)} have passed."
        circuit = f"the circuit of MCP server {self._hub.server!r} is {breaker.state.value}"
        fate = f"was refused: {circuit}, because {why}. {admission.history} {when}"
        raise self._refusal(CircuitOpen, admission, fate, retry_in=retry_in)

    def _refusal(self, kind: type[ResilienceError], admission: Admission, fate: str, **facts: Any) -> ResilienceError:
        """The error that says what became of an attempt that was not let through."""
        operation = str(admission.operation)  # once: it is cleaned of secrets, and a refusal is to be quick
        text = f"{operation} {fate}"
        facts |= admission.history.facts
        return kind(text, advice=text, server=self._hub.server, operation=operation, **facts)

    def _release(self, admission: Admission) -> None:
        if self._breaker is not None and admission.permit is not None:
            self._breaker.released(admission.permit)
            admission.permit = None

    def watched(self, reason: str) -> Any:
        """A context in which a change of the breaker's state is told."""
        assert self._breaker is not None
        return _Watched(self, self._breaker, reason)

    def moved(self, old: BreakerState, new: BreakerState, reason: str) -> None:
        """The breaker's state changed."""
        assert self._breaker is not None
        if new is not BreakerState.OPEN:
            self.unheard = anyio.Event()
        retry_in = None if new is BreakerState.CLOSED else self._breaker.retry_in(clock.now())
        self._hub.emit(BreakerChanged(server=self._hub.server, old=old, new=new, reason=reason, retry_in=retry_in))

    # --- rate limit ---

    def _buckets(self, tool: str | None) -> list[TokenBucket]:
        """The buckets that an attempt takes a token of: its tool's, then the server's."""
        if tool is None or not self._tools_are_limited:
            return [self._bucket]
        limit = self._policy.tool(tool).rate_limit
        if limit is None:
            return [self._bucket]
        bucket = self._tool_buckets.get(tool)
        if bucket is None:
            bucket = self._tool_buckets[tool] = _bucket(limit)
            if len(self._tool_buckets) > _TOOLS_KEPT:
                self._tool_buckets.popitem(last=False)
        else:
            self._tool_buckets.move_to_end(tool)
        return [bucket, self._bucket]

    async def _take_tokens(self, admission: Admission) -> None:
        """Wait for a token of each limit that holds for the attempt, and for the end of a push-back."""
        admission.used = False
        for bucket in self._buckets(admission.operation.tool):
            admission.tokens.append((bucket, await self._take(bucket, admission)))

    def _give_back(self, admission: Admission) -> None:
        now = clock.now()
        while admission.tokens:
            bucket, due = admission.tokens.pop()
            if not admission.used:
                bucket.give_back(due, now)

    async def _take(self, bucket: TokenBucket, admission: Admission) -> float:
        """Wait for a token; when it fell due."""
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
            f"was refused: the rate limit of MCP server {self._hub.server!r} has no room for it before its deadline. "
            f"{admission.history} Try again in {_span(retry_in)}."
        )
        return self._refusal(RateLimitExceeded, admission, fate, retry_in=retry_in)

    def _push_back(self, delay: float, reason: str) -> None:
        """The server asked for less traffic: every caller waits, so that one push-back is enough."""
        self._bucket.pause(clock.now() + delay)
        self._hub.emit(Throttled(server=self._hub.server, delay=delay, reason=reason))

    # --- concurrency limit ---

    async def _find_place(self, bulkhead: Bulkhead, admission: Admission) -> None:
        began = anyio.current_time()
        ticket = bulkhead.enter()
        busy = f"{bulkhead.running} calls run on MCP server {self._hub.server!r}"
        if ticket is None:
            fate = (
                f"was refused: {busy} and {bulkhead.waiting} wait for a place, which is all that its concurrency limit "
                f"allows. {admission.history} Try again later."
            )
            raise self._refusal(Overloaded, admission, fate)
        admission.ticket = ticket
        if ticket.admitted:
            return
        self._woken[ticket] = event = anyio.Event()
        with anyio.CancelScope(deadline=admission.deadline):
            await event.wait()
            return
        elapsed = anyio.current_time() - began
        fate = (
            f"was given up after {elapsed:.1f} s of waiting for a place: {busy}, which is its concurrency limit. "
            f"{admission.history} Try again later."
        )
        raise self._refusal(DeadlineExceeded, admission, fate, elapsed=elapsed)


_ENDS_MANY = frozenset({Kind.NETWORK, Kind.PROCESS, Kind.CLOSED})
"""What ends all calls on a connection at one moment."""


def _ended_many(evidence: Evidence | None) -> bool:
    """Whether one event ended all calls in flight; one that never left waited in vain, each for itself."""
    return evidence is not None and evidence.kind in _ENDS_MANY and evidence.delivery is not Delivery.NOT_SENT


def _is_unwell(verdict: Verdict, evidence: Evidence | None) -> bool:
    """Whether a failure is the breaker's business.

    A server's own JSON-RPC error is not, for one tool may be broken; nor is what this client itself did.
    """
    if evidence is None:
        return verdict.counts_for_breaker and verdict.category is Category.THROTTLED
    return verdict.counts_for_breaker and not evidence.by_client


def _bucket(limit: RateLimit | None) -> TokenBucket:
    return TokenBucket(math.inf, 1) if limit is None else TokenBucket(limit.rate, limit.burst)


def _span(seconds: float) -> str:
    """Seconds for a reader, never "0 s" of something that is still to come."""
    return f"{max(seconds, 0.1):.1f} s"

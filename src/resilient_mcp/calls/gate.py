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

from .._sdk.installed import MCPError
from ..errors import CircuitOpen, DeadlineExceeded, Overloaded, RateLimitExceeded, ResilienceError
from ..event_loop import Signal, clock
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

_TOOLS_KEPT = 1024
"""Tools whose own token buckets are remembered; a model may invent any number of names."""

_PROBE_PATIENCE = 1.0
"""Seconds for which a new call at an open circuit waits for a probe, which may show that the server is well."""

_FRESH = 2.0
"""Seconds for which the outcome of a probe counts: a call that comes in this time is refused without another."""


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
        waiting: How many calls wait for the circuit to let them through.
        probing: Whether somebody probes the server whenever the circuit is open.
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
        self._moved = Signal()
        self._asked = Signal()
        self._opened_at = self._probed_at = -math.inf
        self._ready = policy.timeout.ready
        self.waiting = 0
        self.probing = False

    # --- in and out ---

    async def enter(
        self, operation: Operation, *, deadline: float, history: History, patience: float = 0.0
    ) -> Admission:
        """Let an attempt through, waiting for a token and a place where the policy has such.

        Args:
            operation: What is asked.
            deadline: When the call ends in any case.
            history: What became of it before.
            patience: Seconds to wait for an open circuit to be tried.

        Raises:
            CircuitOpen: The circuit is open.
            RateLimitExceeded: No token would be there before the deadline.
            Overloaded: The queue in front of the concurrency limit is full.
            DeadlineExceeded: No place got free before the deadline.
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
                self._release(admission)  # the circuit may have opened while this call waited
                if not self._admit(admission, clock.now()):
                    await self._wait_for_circuit(admission, patience)
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

    def failed(self, admission: Admission, verdict: Verdict, failed: AttemptError, *, max_retry_after: float) -> None:
        """The attempt failed: count it where it says that the server is unwell, and obey a push-back.

        Args:
            admission: The attempt.
            verdict: What the classifier said.
            failed: What the SDK raised and what the edges saw.
            max_retry_after: The longest push-back of all calls, in seconds.
        """
        evidence = failed.evidence
        if verdict.category is Category.THROTTLED and evidence is not None and verdict.retry_after:
            self._push_back(min(verdict.retry_after, max_retry_after), verdict.reason)
        if _is_unwell(verdict, failed):
            self.count(admission, verdict.reason)
        elif (evidence is None and isinstance(failed.cause, MCPError)) or _is_slow(verdict, failed):
            self._alive(admission)

    def count(self, admission: Admission, reason: str) -> None:
        """One failure for the breaker."""
        if self._breaker is None or admission.permit is None:
            return
        self._reason = reason
        with self.watched(reason):
            self._breaker.failed(admission.permit, clock.now())

    @property
    def can_pay(self) -> bool:
        """Whether the budget of the server has room for one more retry."""
        return self._budget is None or self._budget.suffices

    def connected(self) -> None:
        """There is a new connection."""
        self.hint("there is a new connection")

    def hint(self, reason: str) -> None:
        """The server showed a sign of life: an open circuit may be tried now."""
        if self._breaker is not None:
            with self.watched(reason):
                self._breaker.hint(clock.now())

    @property
    def is_isolated(self) -> bool:
        """Whether calls are refused until a person lets them through."""
        return self._breaker is not None and self._breaker.state is BreakerState.ISOLATED

    @property
    def is_closed(self) -> bool:
        """Whether calls go through, as far as the circuit is asked, or are refused by hand."""
        return self._breaker is None or self._breaker.state not in {BreakerState.OPEN, BreakerState.HALF_OPEN}

    async def wait_open(self) -> None:
        """Wait until the circuit is open."""
        while not self.is_open:
            await self._moved.wait()

    async def wait_asked(self) -> None:
        """Wait until a call waits for the open circuit."""
        while not self.waiting:
            await self._asked.wait()

    def probed(self) -> None:
        """A probe of the server was not answered."""
        self._probed_at = clock.now()
        self._moved.tell()

    @property
    def is_open(self) -> bool:
        """Whether calls are refused until the server shows a sign of life, or the breaker's time is up."""
        return self._breaker is not None and self._breaker.state is BreakerState.OPEN

    @property
    def openings(self) -> int:
        """How often in a row the circuit was opened."""
        return 0 if self._breaker is None else self._breaker.openings

    # --- breaker ---

    def _admit(self, admission: Admission, now: float) -> bool:
        """Whether the circuit lets the attempt through."""
        breaker = self._breaker
        if breaker is None:
            return True
        if breaker.state is BreakerState.CLOSED:
            admission.permit = breaker.admit(now)
            return True
        with self.watched("its open time is over"):
            admission.permit = breaker.admit(now)
        return admission.permit is not None

    async def _wait_for_circuit(self, admission: Admission, patience: float) -> None:
        """Wait for a circuit that does not let the attempt through.

        One that opened just now is waited for as a server that is away, up to `timeout.ready` after it opened, and so
        is the call that tries a half-open one. Later, a probe is waited for where none is recent.

        Raises:
            CircuitOpen: It lets nothing through that soon.
        """
        assert self._breaker is not None
        breaker, began = self._breaker, clock.now()
        deadline, openings = self._clock_deadline(admission), breaker.openings
        self.waiting += 1
        self._asked.tell()
        try:
            while breaker.state is not BreakerState.ISOLATED:
                now = clock.now()
                wait = patience
                if breaker.state is BreakerState.HALF_OPEN:
                    wait = max(patience, self._ready)  # a call that is under way will tell
                elif self.probing:
                    wait = max(patience, self._opened_at + self._ready - began)
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
        await anyio.lowlevel.checkpoint()  # whoever calls again and again lets the probe run
        raise self._circuit_open(admission, breaker, clock.now())

    def _clock_deadline(self, admission: Admission) -> float:
        """The deadline of a call by the clock of the waits."""
        return clock.now() + admission.deadline - anyio.current_time()

    def _circuit_open(self, admission: Admission, breaker: Breaker, now: float) -> ResilienceError:
        retry_in = breaker.retry_in(now)
        if breaker.state is BreakerState.ISOLATED:
            why, when = "it was isolated by hand", "Somebody has to reset it."
        else:
            why = f"it failed too often: {self._reason}"
            when = "" if retry_in is None else f"Do not call it again before {_span(retry_in)} have passed."
        circuit = f"the circuit of MCP server {self._hub.server!r} is {breaker.state.value}"
        fate = f"was refused: {circuit}, because {why}. {admission.history} {when}"
        return self._refusal(CircuitOpen, admission, fate, retry_in=retry_in)

    def _refusal(self, kind: type[ResilienceError], admission: Admission, fate: str, **facts: Any) -> ResilienceError:
        """The error that says what became of an attempt that was not let through."""
        operation = str(admission.operation)  # once: it is cleaned of secrets, and a refusal is to be quick
        text = f"{operation} {fate}"
        facts |= admission.history.facts
        return kind(text, advice=text, server=self._hub.server, operation=operation, **facts)

    def _release(self, admission: Admission) -> None:
        if self._breaker is not None and admission.permit is not None:
            self._breaker.released(admission.permit)
            if admission.permit.trial:
                self._moved.tell()  # another may have its place
            admission.permit = None

    def watched(self, reason: str) -> Any:
        """A context in which a change of the breaker's state is told."""
        assert self._breaker is not None
        return _Watched(self, self._breaker, reason)

    def moved(self, old: BreakerState, new: BreakerState, reason: str) -> None:
        """The breaker's state changed."""
        assert self._breaker is not None
        if new is BreakerState.OPEN:
            self._probed_at = -math.inf
            if self._breaker.openings == 1:
                self._opened_at = clock.now()
        self._moved.tell()
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


def _is_unwell(verdict: Verdict, failed: AttemptError) -> bool:
    """Whether a failure says that the server cannot answer: a lost connection, a silent time limit, a 5xx.

    A server's own JSON-RPC error does not, for one tool may be broken; nor does a push-back, which has a pause of its
    own; nor a 503 or a time limit while the server was heard; nor what this client itself did.
    """
    evidence = failed.evidence
    if evidence is None or evidence.by_client or failed.is_shed or not verdict.counts_for_breaker:
        return False
    if _is_time_limit(verdict, failed):
        return failed.silent
    return verdict.category is not Category.THROTTLED


def _is_time_limit(verdict: Verdict, failed: AttemptError) -> bool:
    """Whether a time limit ended it, ours or a gateway's."""
    status = None if failed.evidence is None else failed.evidence.http_status
    return verdict.category is Category.TIMEOUT or status == _GATEWAY_TIMEOUT


def _is_slow(verdict: Verdict, failed: AttemptError) -> bool:
    """Whether it only took too long, on a server that was heard meanwhile."""
    return _is_time_limit(verdict, failed) and not failed.silent


def _bucket(limit: RateLimit | None) -> TokenBucket:
    return TokenBucket(math.inf, 1) if limit is None else TokenBucket(limit.rate, limit.burst)


def _span(seconds: float) -> str:
    """Seconds for a reader, never "0 s" of something that is still to come."""
    return f"{max(seconds, 0.1):.1f} s"

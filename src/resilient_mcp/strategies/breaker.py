"""The circuit breaker: when calls to a failing server are refused unsent, and how it is tried again."""

from __future__ import annotations

import enum
import math
from collections import deque

from ..policy import BreakerPolicy
from .backoff import exponential

_BUCKETS = 10
"""Into so many parts the window is cut: memory has a bound, and an outcome is forgotten a tenth too early at most."""


class BreakerState(enum.Enum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    """Lets it through."""
    OPEN = "open"
    """Refuses it until the open time is over."""
    HALF_OPEN = "half-open"
    """Lets one through, to see how it fares."""
    ISOLATED = "isolated"
    """Refuses it until `reset`: somebody opened it by hand."""


class Permit:
    """Leave to send one request; each is its own. Hand it back once, by what came of the request.

    Attributes:
        began: When it was given, in seconds of the breaker's clock.
        trial: Whether its request decides about a half-open circuit.
        epoch: Which stretch of the breaker's life its outcome speaks about; the breaker's own business.
        failures: How many failures had been counted by then; the breaker's own business, too.
    """

    __slots__ = ("began", "epoch", "failures", "trial")

    def __init__(self, began: float, epoch: int, failures: int = 0, *, trial: bool = False) -> None:
        self.began = began
        self.epoch = epoch
        self.failures = failures
        self.trial = trial


_NO_EPOCH = 0
"""The epoch of a permit that was handed back."""


class Breaker:
    """Stops sending to a server that fails, and tries it with one call at a time until it works.

    Opens at a counted failure that is the `failures`-th in a row, or that makes the share of failures within `window`
    reach `rate` among at least `min_calls` outcomes (as in Polly, no success opens it). After `open` seconds it is
    half-open: exactly one trial goes out (Polly). Its success closes the circuit, its failure opens it for twice as
    long, up to `max_open` (Envoy's growing ejection time). A trial that takes longer than `trial` seconds no longer
    keeps others out, so that one lost call cannot hold the circuit open for ever.

    An outcome that comes after the circuit has changed is of a request from before, and says nothing about now.

    Attributes:
        state: What it is; an open circuit turns half-open when somebody asks after its time is over.
        openings: How often in a row it has opened.
    """

    __slots__ = ("_counted", "_epoch", "_in_a_row", "_policy", "_trial", "_until", "_window", "openings", "state")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._epoch = _NO_EPOCH
        self._trial: Permit | None = None
        self._counted = 0
        self._until = -math.inf
        self._window = _Window(policy.window)
        self.reset()

    def admit(self, now: float) -> Permit | None:
        """A permit for one request, or None: it must not be sent.

        Args:
            now: The time, in seconds of a monotonic clock, as in every method here.
        """
        if self.state is BreakerState.CLOSED:
            return Permit(now, self._epoch, self._counted)
        if self.retry_in(now) != 0:
            return None
        self._turn(BreakerState.HALF_OPEN)
        self._trial = Permit(now, self._epoch, trial=True)
        return self._trial

    def retry_in(self, now: float) -> float | None:
        """Seconds until `admit` could say yes; None when nobody knows."""
        if self.state is BreakerState.ISOLATED:
            return None
        if self.state is BreakerState.OPEN:
            return max(0.0, self._until - now)
        if self._trial is None:
            return 0.0
        return max(0.0, self._trial.began + self._policy.trial - now)

    def succeeded(self, permit: Permit, now: float) -> None:
        """The server answered properly."""
        if self._settle(permit):
            if permit.trial:
                self.reset()
            else:
                self._in_a_row = 0
                self._window.add(now, failed=False)

    def failed(self, permit: Permit, now: float) -> None:
        """The request met a failure that counts.

        A request that began before the last counted failure is not news: twenty callers hit by one 502, or by the loss
        of one connection, are one failure.

        Args:
            permit: What `admit` gave for it.
            now: The time.
        """
        if not self._settle(permit):
            return
        if not permit.trial:
            if permit.failures < self._counted:
                return
            self._in_a_row += 1
            self._window.add(now, failed=True)
            self._counted += 1
        if permit.trial or self._too_many():
            self._open(now)

    def released(self, permit: Permit) -> None:
        """The request was cancelled, or refused by ourselves: nothing was learnt, and another may have its place."""
        self._settle(permit)

    def hint(self, now: float) -> None:  # noqa: ARG002 - every event has its time
        """The server showed life, by a new connection or an answered probe: an open circuit may be tried now."""
        if self.state is BreakerState.OPEN:
            self._turn(BreakerState.HALF_OPEN)

    def isolate(self, now: float) -> None:  # noqa: ARG002 - every event has its time
        """Refuse every call until `reset`."""
        self._turn(BreakerState.ISOLATED)

    def reset(self) -> None:
        """Close the circuit and forget what went before."""
        self._turn(BreakerState.CLOSED)
        self._in_a_row = self.openings = 0
        self._window.clear()

    def _turn(self, state: BreakerState) -> None:
        """Begin a new stretch: permits given before say nothing about it."""
        self.state = state
        self._epoch += 1
        self._trial = None

    def _settle(self, permit: Permit) -> bool:
        """Whether the permit's outcome counts; it never does again."""
        current = permit.epoch == self._epoch
        permit.epoch = _NO_EPOCH
        if current:
            self._trial = None
        return current

    def _too_many(self) -> bool:
        policy, window = self._policy, self._window
        return self._in_a_row >= policy.failures or (
            window.calls >= policy.min_calls and window.failures / window.calls >= policy.rate
        )

    def _open(self, now: float) -> None:
        self._turn(BreakerState.OPEN)
        self._until = now + exponential(self.openings, base=self._policy.open, cap=self._policy.max_open)
        self.openings += 1


class _Window:
    """Outcomes of the last `seconds`, in buckets of a tenth of that."""

    __slots__ = ("_buckets", "_seconds", "calls", "failures")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._buckets: deque[_Bucket] = deque()
        self.clear()

    def clear(self) -> None:
        self._buckets.clear()
        self.calls = self.failures = 0

    def add(self, now: float, *, failed: bool) -> None:
        buckets = self._buckets
        while buckets and now - buckets[0].began >= self._seconds:
            oldest = buckets.popleft()
            self.calls -= oldest.calls
            self.failures -= oldest.failures
        if not buckets or now - buckets[-1].began >= self._seconds / _BUCKETS:
            buckets.append(_Bucket(now))
        latest = buckets[-1]
        latest.calls += 1
        self.calls += 1
        if failed:
            latest.failures += 1
            self.failures += 1


class _Bucket:
    __slots__ = ("began", "calls", "failures")

    def __init__(self, began: float) -> None:
        self.began = began
        self.calls = self.failures = 0

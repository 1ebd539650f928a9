"""The circuit breaker: refuses calls to a failing server without sending them, and decides when to admit a trial."""

from __future__ import annotations

import enum
import math
from collections import deque

from ..policy import BreakerPolicy
from .backoff import exponential

# The window is divided into this many buckets: memory is bounded, and an outcome expires a tenth too early at most.
_BUCKETS = 10


class BreakerState(enum.Enum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    """Admits it."""
    OPEN = "open"
    """Refuses it until the open time has elapsed."""
    HALF_OPEN = "half-open"
    """Admits one call as a trial."""
    ISOLATED = "isolated"
    """Refuses it until `reset`: the circuit was opened by hand."""


class Permit:
    """Permission to send one request. Hand it back once, to the method for the request's outcome.

    Attributes:
        began: When it was given, on the breaker's clock in seconds.
        trial: Whether its request decides about a half-open circuit.
        epoch: The epoch of the breaker that it belongs to; internal to the breaker.
        failures: How many failures had been counted by then; internal to the breaker.
    """

    __slots__ = ("began", "epoch", "failures", "trial")

    def __init__(self, began: float, epoch: int, failures: int = 0, *, trial: bool = False) -> None:
        self.began = began
        self.epoch = epoch
        self.failures = failures
        self.trial = trial


# The epoch of a permit that was handed back.
_NO_EPOCH = 0


class Breaker:
    """Stops calls to a failing server, and lets one trial call at a time find out whether it works again.

    Opens on a counted failure that is the `failures`-th in a row, or that brings the failure rate within `window` to
    `rate` with at least `min_calls` outcomes (as in Polly, a success never opens it). After `open` seconds it turns
    half-open and admits exactly one trial (Polly). If the trial succeeds, the circuit closes; if it fails, it opens for
    twice as long, up to `max_open` (Envoy's growing ejection time). A trial that takes longer than `trial` seconds no
    longer keeps others out, so one lost call cannot hold the circuit open forever.

    An outcome that arrives after a change of state is about the server as it was before, and is ignored.

    Attributes:
        state: The state. An open circuit whose time has elapsed turns half-open at the next `admit`.
        openings: How often it has opened in a row.
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
        """A permit for one request, or None if it must not be sent.

        Args:
            now: The time of a monotonic clock in seconds, as in every method here.
        """
        if self.state is BreakerState.CLOSED:
            return Permit(now, self._epoch, self._counted)
        if self.retry_in(now) != 0:
            return None
        self._turn(BreakerState.HALF_OPEN)
        self._trial = Permit(now, self._epoch, trial=True)
        return self._trial

    def retry_in(self, now: float) -> float | None:
        """Seconds until `admit` could succeed; None if the circuit is isolated."""
        if self.state is BreakerState.ISOLATED:
            return None
        if self.state is BreakerState.OPEN:
            return max(0.0, self._until - now)
        if self._trial is None:
            return 0.0
        return max(0.0, self._trial.began + self._policy.trial - now)

    def succeeded(self, permit: Permit, now: float) -> None:
        """The server answered."""
        if self._settle(permit):
            if permit.trial:
                self.reset()
            else:
                self._in_a_row = 0
                self._window.add(now, failed=False)

    def failed(self, permit: Permit, now: float) -> None:
        """The request failed in a way that counts.

        A request that began before the last counted failure is not counted: twenty callers hit by one 502, or by the
        loss of one connection, are one failure.

        Args:
            permit: The request's permit.
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
        """The request was cancelled or never sent: its outcome is not counted. A trial is open to another call."""
        self._settle(permit)

    def hint(self, now: float) -> None:  # noqa: ARG002 - every event takes the time
        """The server showed a sign of life (a new connection, an answered probe): half-open an open circuit."""
        if self.state is BreakerState.OPEN:
            self._turn(BreakerState.HALF_OPEN)

    def isolate(self, now: float) -> None:  # noqa: ARG002 - every event takes the time
        """Refuse every call until `reset`."""
        self._turn(BreakerState.ISOLATED)

    def reset(self) -> None:
        """Close the circuit and forget all earlier outcomes."""
        self._turn(BreakerState.CLOSED)
        self._in_a_row = self.openings = 0
        self._window.clear()

    def _turn(self, state: BreakerState) -> None:
        """Begin a new epoch: outcomes of permits given before no longer count."""
        self.state = state
        self._epoch += 1
        self._trial = None

    def _settle(self, permit: Permit) -> bool:
        """Take back a permit. Returns whether its outcome counts."""
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
    """The outcomes of the last `seconds`, in buckets of a tenth of that."""

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

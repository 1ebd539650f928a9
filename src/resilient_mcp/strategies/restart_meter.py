"""The restart meter: when a lost connection may be replaced, and when reconnecting is suspended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..policy import RestartPolicy
from .backoff import exponential, half_jitter


@dataclass(frozen=True, slots=True)
class Next:
    """When to make the next attempt.

    Attributes:
        delay: Seconds to wait before it.
        suspended: Whether that wait is a suspension, during which calls fail immediately.
    """

    delay: float
    suspended: bool = False


class RestartMeter:
    """Counts and spaces the replacements of a connection.

    The first is immediate, later ones back off. More than `intensity` within `period` seconds suspend the server, and
    from then on each failed attempt suspends it for longer. Only `proven()` clears the count. A handshake alone proves
    nothing: a server that exits right after it would otherwise be restarted endlessly (one host forked a server 66,487
    times in seven minutes).
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._recent: deque[float] = deque(maxlen=policy.intensity)
        self._in_a_row = 0
        self._suspensions = 0

    def proven(self) -> None:
        """The session lived long enough or answered a call: clear the count."""
        if self._in_a_row:
            self._recent.clear()
            self._in_a_row = self._suspensions = 0

    def next(self, now: float, random: float, *, metered: bool = True) -> Next:
        """A connection was lost or an attempt to connect failed: when to make the next attempt.

        Args:
            now: The time of a monotonic clock in seconds.
            random: A number from 0 to 1.
            metered: False for an attempt that never reached the server: it backs off but never suspends, since it
                starts nothing that could run away.
        """
        policy = self._policy
        if metered:
            full = len(self._recent) == policy.intensity
            if self._suspensions or (full and now - self._recent[0] < policy.period):
                delay = exponential(self._suspensions, base=policy.suspend, cap=policy.max_suspend)
                self._suspensions += 1
                return Next(delay, suspended=True)
            self._recent.append(now)
        n = self._in_a_row
        self._in_a_row += 1
        if n == 0:
            return Next(0.0)
        return Next(half_jitter(n - 1, base=policy.base, cap=policy.max_delay, random=random))

"""When a lost connection may be replaced, and when replacing it is given a rest."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..policy import RestartPolicy
from .backoff import exponential, half_jitter


@dataclass(frozen=True, slots=True)
class Next:
    """What the meter says about the next try.

    Attributes:
        delay: Seconds to wait before it.
        suspended: Whether that wait is a suspension, during which calls fail at once.
    """

    delay: float
    suspended: bool = False


class RestartMeter:
    """Counts replacements of a connection and spaces them.

    The first is at once, later ones back off; more than `intensity` within `period` seconds suspend the server, and
    from then on each failed try suspends it for longer. Only `proven()` clears the count: a handshake alone proves
    nothing, since a server that dies right after it would otherwise be started without end (one host forked a server
    66,487 times in seven minutes).
    """

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._recent: deque[float] = deque(maxlen=policy.intensity)
        self._in_a_row = 0
        self._suspensions = 0

    def proven(self) -> None:
        """The session lived long enough, or answered a call: forget what went before."""
        if self._in_a_row:
            self._recent.clear()
            self._in_a_row = self._suspensions = 0

    def next(self, now: float, random: float, *, metered: bool = True) -> Next:
        """A connection was lost, or a try for one failed: when is the next try?

        Args:
            now: The time, in seconds of a monotonic clock.
            random: A number from 0 to 1.
            metered: False for a try that never reached the server: it backs off, but starts nothing that could run
                wild, so it never suspends.
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

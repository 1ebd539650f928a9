"""The token bucket: when the next request may go, and the pause that a server's push-back imposes on all of them."""

from __future__ import annotations

import math
from heapq import heappop, heappush

_TICK = 0.001
"""Seconds by which a sleep may end early: event loops round."""


class TokenBucket:
    """Gives each request the moment at which it falls due, in the order of asking.

    In any t seconds at most `burst` + `rate` * t reservations fall due, whatever is given back or paused. The rule is
    the generic cell rate algorithm (ATM Forum, TM 4.0), which needs one number instead of a level that is topped up:
    the time at which the bucket would be full again. It behaves the same under a clock that stands still.

    A pause (429, `Retry-After`) holds for every caller of the server: no reservation made after it falls due within
    it, and those made before are moved behind it by `paused`, each to a moment of its own, so that its end is no
    stampede.

    Args:
        rate: Requests per second; infinite when only pauses matter.
        burst: How many may go at once after a rest.
    """

    __slots__ = ("_free", "_full", "_interval", "_last", "_slack", "_until")

    def __init__(self, rate: float = math.inf, burst: int = 1) -> None:
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._full = -math.inf
        self._last = -math.inf
        self._until = -math.inf
        self._free: list[float] = []

    def reserve(self, now: float, longest: float) -> float | None:
        """Take the next token.

        Args:
            now: The time, in seconds of a monotonic clock.
            longest: The longest wait, in seconds, that is of use to the caller.

        Returns:
            Seconds until the token just taken falls due, or None, and nothing taken, when that is more than `longest`.
        """
        due = self._next(now)
        if due - now > longest:
            return None
        self._take(due)
        return due - now

    def give_back(self, due: float) -> None:
        """A reservation will not be used, since its call was cancelled or refused before it was sent.

        Args:
            due: When it falls due: the time of `reserve` (or `paused`) plus the seconds that it returned.
        """
        if due >= self._last:
            self._full -= self._interval
        else:
            # Those after it keep their moments, so its own is all that can be used again. Once it has passed, it is
            # lost: without knowing what was sent since, another in its place could be one too many.
            heappush(self._free, due)

    def pause(self, until: float) -> None:
        """Nothing falls due before `until`, a time of the monotonic clock. A pause is only ever made longer."""
        self._until = max(self._until, until)

    def paused(self, now: float) -> float:
        """To be asked once by a caller whose reservation has come due, before it sends.

        Returns:
            0.0 to send now. Else a pause has come between, the reservation was moved behind it, and this is how many
            seconds are left until it falls due; then ask again.
        """
        left = self._until - now
        if left <= _TICK:
            return max(0.0, left)
        due = self._next(now)
        self._take(due)
        return due - now

    def retry_in(self, now: float) -> float:
        """Seconds until a reservation made now would fall due; nothing is taken."""
        return self._next(now) - now

    def _next(self, now: float) -> float:
        """When the next token falls due."""
        earliest = max(now, self._until)
        while self._free and self._free[0] < earliest:
            heappop(self._free)
        return self._free[0] if self._free else max(earliest, self._full - self._slack)

    def _take(self, due: float) -> None:
        if self._free:
            heappop(self._free)
        else:
            self._last = due
            self._full = max(self._full, due) + self._interval

"""The token bucket: when the next request may go, and the pause that a server's push-back imposes on all of them."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush

TICK = 0.001
"""Seconds by which a sleep may end early: event loops round."""
_TAKEN_KEPT = 1024
"""Reservations that can be given back after they fell due; of an older one the token is lost, which errs to less."""


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

    __slots__ = ("_free", "_full", "_interval", "_slack", "_taken", "_until")

    def __init__(self, rate: float = math.inf, burst: int = 1) -> None:
        self._interval = 1 / rate
        self._slack = (burst - 1) * self._interval
        self._full = -math.inf
        self._until = -math.inf
        self._free: list[float] = []
        # Since the bucket was last full: when each reservation falls due, and `_full` before it was made.
        self._taken: deque[tuple[float, float]] = deque(maxlen=_TAKEN_KEPT)

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

    def give_back(self, due: float, now: float) -> None:
        """A reservation was not used: its call was cancelled or refused before it was sent, or it never left.

        Args:
            due: When it falls due: the time of `reserve`, or of a `paused` that moved it, plus the seconds returned.
            now: The time.
        """
        if due > now and self._taken and due < self._taken[-1][0]:
            heappush(self._free, due)  # those after it keep their moments, so its own is all that can be used again
        else:
            self._undo(due)

    def _undo(self, due: float) -> None:
        """Let the bucket be as if nothing had been taken for `due`: as full as it would be then, and no fuller."""
        n = next((n for n in reversed(range(len(self._taken))) if self._taken[n][0] == due), None)
        if n is None:
            return  # the bucket has been full since, so that there is nothing to give back
        later = [due for due, _ in list(self._taken)[n + 1 :]]
        self._full = self._taken[n][1]
        while len(self._taken) > n:
            self._taken.pop()
        for other in later:
            self._record(other)

    def pause(self, until: float) -> None:
        """Nothing falls due before `until`, a time of the monotonic clock. A pause is only ever made longer."""
        self._until = max(self._until, until)

    def paused(self, due: float, now: float) -> float:
        """To be asked once by a caller whose reservation has come due, before it sends.

        Args:
            due: When it fell due, as for `give_back`.
            now: The time.

        Returns:
            0.0 to send now. Else this is how many seconds are left; then ask again. If they are more than `TICK`, a
            pause has come between, and the reservation was moved behind it: that is when it falls due.
        """
        left = self._until - now
        if left <= TICK:
            return max(0.0, left)
        self._undo(due)
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
            self._undo(heappop(self._free))  # its moment has passed, and nobody used it
        fresh = max(earliest, self._full - self._slack)
        return min(self._free[0], fresh) if self._free else fresh

    def _take(self, due: float) -> None:
        if self._free and self._free[0] == due:
            heappop(self._free)
        else:
            self._record(due)

    def _record(self, due: float) -> None:
        if self._full <= due:
            self._taken.clear()
        self._taken.append((due, self._full))
        self._full = max(self._full, due) + self._interval

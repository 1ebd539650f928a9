"""The token bucket: when the next request may be sent, and the pause that a push-back imposes on all requests."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush

# Seconds by which a sleep may end early, because event loops round.
TICK = 0.001
# Reservations that can still be given back after they fell due. The token of an older one is lost: the safe side.
_TAKEN_KEPT = 1024


class TokenBucket:
    """Assigns each request the time at which it falls due, in the order of the reservations.

    In any t seconds at most `burst` + `rate` * t reservations fall due, whatever is given back or paused. This is the
    generic cell rate algorithm (ATM Forum, TM 4.0), which needs one number instead of a fill level: the time at which
    the bucket would be full again. It also works with a clock that stands still.

    A pause (429, `Retry-After`) applies to every caller of the server: no later reservation falls due within it, and
    earlier ones are moved behind it by `paused`, each to a time of its own, so that its end does not cause a stampede.

    Args:
        rate: Requests per second; infinite if only pauses matter.
        burst: Requests allowed back to back after an idle period.
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
            now: The time of a monotonic clock in seconds.
            longest: The longest acceptable wait in seconds.

        Returns:
            Seconds until the token falls due. If that is more than `longest`, None, and no token is taken.
        """
        due = self._next(now)
        if due - now > longest:
            return None
        self._take(due)
        return due - now

    def give_back(self, due: float, now: float) -> None:
        """Return an unused reservation: its request was not sent.

        Args:
            due: When it falls due: the time passed to `reserve`, or to the `paused` that moved it, plus its result.
            now: The time.
        """
        if due > now and self._taken and due < self._taken[-1][0]:
            heappush(self._free, due)  # later reservations keep their times, so only this one can be reused
        else:
            self._undo(due)

    def _undo(self, due: float) -> None:
        """Make the bucket as full as if the reservation for `due` had never been made, and no fuller."""
        n = next((n for n in reversed(range(len(self._taken))) if self._taken[n][0] == due), None)
        if n is None:
            return  # the bucket has been full since then, so there is nothing to give back
        later = [due for due, _ in list(self._taken)[n + 1 :]]
        self._full = self._taken[n][1]
        while len(self._taken) > n:
            self._taken.pop()
        for other in later:
            self._record(other)

    def pause(self, until: float) -> None:
        """Let nothing fall due before `until`, a time of the monotonic clock. Never shortens a pause."""
        self._until = max(self._until, until)

    def paused(self, due: float, now: float) -> float:
        """Check for a pause. Callers must do so when their reservation has fallen due, before they send.

        Args:
            due: When it fell due, as for `give_back`.
            now: The time.

        Returns:
            0.0 to send now; else the seconds to wait before checking again. If that is more than `TICK`, a pause began
            in the meantime, and the reservation was moved behind it: it now falls due at `now` plus the result.
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
            self._undo(heappop(self._free))  # its time has passed unused
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

"""The loop guard: notices a tool that answers, and refuses, every time."""

from __future__ import annotations

from collections import deque

from ..policy import LoopGuard

_MOST = 100
"""Nobody needs to know a longer row exactly."""


class RefusalCounter:
    """Counts a tool's refusals in a row.

    A refusal (`isError`) is an answer, so neither retries nor the breaker see it; but a model that repeats a call which
    is refused each time burns its turns, and one sentence that says so ends the loop.
    """

    __slots__ = ("_policy", "_refusals")

    def __init__(self, policy: LoopGuard) -> None:
        self._policy = policy
        self._refusals: deque[float] = deque(maxlen=max(_MOST, policy.failures))

    def record(self, now: float, *, refused: bool) -> int | None:
        """The tool answered.

        Args:
            now: The time, in seconds of a monotonic clock.
            refused: Whether the answer was an error; any other resets the count.

        Returns:
            How many refusals in a row the window holds (at most 100 or `failures`, whichever is more), once they are
            at least `failures`; else None.
        """
        refusals = self._refusals
        if not refused:
            refusals.clear()
            return None
        refusals.append(now)
        while now - refusals[0] > self._policy.window:
            refusals.popleft()
        return len(refusals) if len(refusals) >= self._policy.failures else None

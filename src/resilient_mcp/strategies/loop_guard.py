"""The loop guard: notices a tool that answers every call with an error."""

from __future__ import annotations

from collections import deque

from ..policy import LoopGuard

# Longer runs of refusals need no exact count.
_MOST = 100


class RefusalCounter:
    """Counts the consecutive refusals of a tool.

    A refusal (`isError`) is an answer, so neither retries nor the breaker act on it. But a model that keeps repeating a
    refused call wastes its turns, and a one-sentence warning ends the loop.
    """

    __slots__ = ("_policy", "_refusals")

    def __init__(self, policy: LoopGuard) -> None:
        self._policy = policy
        self._refusals: deque[float] = deque(maxlen=max(_MOST, policy.failures))

    def record(self, now: float, *, refused: bool) -> int | None:
        """Record an answer of the tool.

        Args:
            now: The time of a monotonic clock in seconds.
            refused: Whether the answer was an error; any other answer resets the count.

        Returns:
            The number of consecutive refusals in the window (at most 100 or `failures`, whichever is more) if it is at
            least `failures`, else None.
        """
        refusals = self._refusals
        if not refused:
            refusals.clear()
            return None
        refusals.append(now)
        while now - refusals[0] > self._policy.window:
            refusals.popleft()
        return len(refusals) if len(refusals) >= self._policy.failures else None

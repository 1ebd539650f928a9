"""The retry budget, shared by all callers of one server."""

from __future__ import annotations

from ..policy import BudgetPolicy


class RetryBudget:
    """A count of tokens: each retry takes some, each success adds some, up to the initial number.

    Retries are for the few calls that fail among many that succeed. When most calls fail, retries only add to the load
    that makes them fail. The budget is then soon exhausted, and calls fail with their first error (gRPC proposal A6,
    "throttling retry attempts"; AWS's retry quota).
    """

    __slots__ = ("_policy", "tokens")

    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy
        self.tokens = policy.tokens

    def spend(self) -> bool:
        """Pay for one retry. Returns False, and takes nothing, if there is not enough."""
        if not self.suffices:
            return False
        self.tokens -= self._policy.cost
        return True

    @property
    def suffices(self) -> bool:
        """Whether there is enough for one retry."""
        return self.tokens >= self._policy.cost

    def give_back(self) -> None:
        """Refund a retry that was paid for but not sent."""
        self.tokens = min(self._policy.tokens, self.tokens + self._policy.cost)

    def earn(self) -> None:
        """A call succeeded."""
        self.tokens = min(self._policy.tokens, self.tokens + self._policy.refund)

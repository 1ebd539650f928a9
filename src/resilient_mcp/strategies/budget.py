"""The retry budget: what all callers of one server may spend on retries together."""

from __future__ import annotations

from ..policy import BudgetPolicy


class RetryBudget:
    """A purse that each retry takes from and each success puts into, never beyond what was in it at the start.

    Retries are for the few calls that fail among many that succeed. When most fail, retries only add to the load that
    makes them fail; the purse is soon empty then, and calls fail with their first error (gRPC proposal A6, "throttling
    retry attempts"; AWS's retry quota).
    """

    __slots__ = ("_policy", "tokens")

    def __init__(self, policy: BudgetPolicy) -> None:
        self._policy = policy
        self.tokens = policy.tokens

    def spend(self) -> bool:
        """Pay for one retry; False, and nothing taken, when there is not enough."""
        if not self.suffices:
            return False
        self.tokens -= self._policy.cost
        return True

    @property
    def suffices(self) -> bool:
        """Whether there is enough for one retry."""
        return self.tokens >= self._policy.cost

    def give_back(self) -> None:
        """A retry that was paid for was not sent."""
        self.tokens = min(self._policy.tokens, self.tokens + self._policy.cost)

    def earn(self) -> None:
        """A call succeeded."""
        self.tokens = min(self._policy.tokens, self.tokens + self._policy.refund)

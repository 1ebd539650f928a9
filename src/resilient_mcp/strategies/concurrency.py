"""The bulkhead: how many calls run at once, and how many may wait in front of it."""

from __future__ import annotations

from collections import OrderedDict


class Ticket:
    """A place in the bulkhead or in the queue in front of it; each is its own.

    Attributes:
        admitted: Whether its call may run now.
    """

    __slots__ = ("admitted",)

    def __init__(self, *, admitted: bool) -> None:
        self.admitted = admitted


class Bulkhead:
    """Lets `limit` calls run and `queue` more wait, first come, first served.

    A bounded queue is the point: calls that wait without bound only fail later, each with its deadline spent (the
    bulkhead of Nygard's "Release It!"). Every step takes the same time, however long the queue is.

    Attributes:
        running: How many are admitted.
    """

    __slots__ = ("_limit", "_queue", "_waiting", "running")

    def __init__(self, limit: int, queue: int) -> None:
        self._limit = limit
        self._queue = queue
        # Not a dict, whose first key takes ever longer to find as keys in front of it go.
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return len(self._waiting)

    def enter(self) -> Ticket | None:
        """A call wants to run: a ticket, admitted or waiting, or None when the queue is full."""
        if self.running < self._limit:
            self.running += 1
            return Ticket(admitted=True)
        if len(self._waiting) >= self._queue:
            return None
        ticket = Ticket(admitted=False)
        self._waiting[ticket] = None
        return ticket

    def leave(self, ticket: Ticket) -> Ticket | None:
        """A call ended, or no longer waits; leaving again does nothing.

        Returns:
            The ticket that was admitted in its place, for the caller to wake.
        """
        if not ticket.admitted:
            self._waiting.pop(ticket, None)
            return None
        ticket.admitted = False
        if not self._waiting:
            self.running -= 1
            return None
        successor, _ = self._waiting.popitem(last=False)
        successor.admitted = True
        return successor

"""The bulkhead: limits how many calls run at the same time, and how many may queue."""

from __future__ import annotations

from collections import OrderedDict


class Ticket:
    """A place in the bulkhead or in its queue, for one call.

    Attributes:
        admitted: Whether the call may run now.
    """

    __slots__ = ("admitted",)

    def __init__(self, *, admitted: bool) -> None:
        self.admitted = admitted


class Bulkhead:
    """Admits `limit` calls and queues `queue` more, first in, first out.

    The bound on the queue is the point: calls in an unbounded queue only fail later, after their deadline is spent (the
    bulkhead of Nygard's "Release It!"). Every operation takes constant time.

    Attributes:
        running: How many calls are admitted.
    """

    __slots__ = ("_limit", "_queue", "_waiting", "running")

    def __init__(self, limit: int, queue: int) -> None:
        self._limit = limit
        self._queue = queue
        # Not a dict: finding its first key gets slower as keys at the front are deleted.
        self._waiting: OrderedDict[Ticket, None] = OrderedDict()
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many calls are in the queue."""
        return len(self._waiting)

    def enter(self) -> Ticket | None:
        """Add a call. Returns its ticket, admitted or queued, or None if the queue is full."""
        if self.running < self._limit:
            self.running += 1
            return Ticket(admitted=True)
        if len(self._waiting) >= self._queue:
            return None
        ticket = Ticket(admitted=False)
        self._waiting[ticket] = None
        return ticket

    def leave(self, ticket: Ticket) -> Ticket | None:
        """Remove a call that ended or no longer waits. Leaving twice has no effect.

        Returns:
            The ticket that was admitted in its place, whose call must be woken, or None.
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

"""A switch for tests: the waits of this library pass at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..event_loop import Clock, clock


@contextmanager
def instant_waits() -> Iterator[Clock]:
    """Let the waits of all clients that begin within it pass in a moment, on asyncio and trio.

    Those are: back-off between attempts, delays before a restart, `Retry-After`, rate limits, and the time between two
    tries to restore a subscription or to list tools. An open circuit stays open, so that a test can see it, until
    `advance(seconds)` of the clock that this gives lets its time pass.

    Events and errors still tell the whole delay. Timeouts are real: what is skipped takes nothing from them, a wait
    that would not fit into one is refused as ever, and a server that stays away is waited for until
    `TimeoutPolicy.ready`. Waits of your own code and of your servers are not touched, nor are health checks.

    Example:
        with instant_waits() as clock:
            await client.call_tool("search")  # the server said Retry-After: 60
            clock.advance(300)  # whatever circuit was open may be tried now

    It holds for the whole process; those of two threads overlap.
    """
    clock.instant += 1
    try:
        yield clock
    finally:
        clock.instant -= 1

"""A switch for tests that makes the waits of this library instant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..event_loop import Clock, clock


@contextmanager
def instant_waits() -> Iterator[Clock]:
    """Make waits that begin within the block instant, for all clients, on asyncio and trio.

    This covers back-off between attempts, restart delays, `Retry-After`, rate limits, and the time between attempts to
    restore a subscription or to list tools. An open circuit stays open, so that a test can observe it, until
    `advance(seconds)` is called on the yielded clock.

    Events and errors still report the full delay. Time limits are real: a skipped wait does not use them up, a wait
    that would not fit into one is refused as usual, and a server that stays away is waited for until
    `TimeoutPolicy.ready`. Waits in your own code and in your servers are not affected, and neither are health checks.

    Example:
        with instant_waits() as clock:
            await client.call_tool("search")  # the server said Retry-After: 60
            clock.advance(300)  # an open circuit may be tried now

    It applies to the whole process, including other threads; blocks may overlap.
    """
    clock.instant += 1
    try:
        yield clock
    finally:
        clock.instant -= 1

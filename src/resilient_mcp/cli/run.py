"""Runs a command's coroutine so that Ctrl-C and SIGTERM end it cleanly: everything is closed, no child is left."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on asyncio.

    Returns:
        What `main` returned, or 128 and the signal's number when a signal ended it, as a shell says it.
    """
    ended_by: list[int] = []

    async def interruptible() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            if not ended_by:  # a second one must not interrupt the cleaning up, which is bounded
                task.cancel()
            ended_by.append(number)

        with suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt, and asyncio cancels
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, end, number)
        return await main

    try:
        return asyncio.run(interruptible())
    except (asyncio.CancelledError, KeyboardInterrupt):
        return 128 + (ended_by[0] if ended_by else signal.SIGINT)

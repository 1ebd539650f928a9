"""Runs a command's coroutine so that Ctrl-C and SIGTERM end it cleanly: everything is closed and no child is left."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from .signals import signals


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run `main` on asyncio.

    Returns:
        What `main` returned, or 128 plus the signal's number if a signal ended it, as in a shell.
    """
    ended_by: list[int] = []

    async def interruptible() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            if not ended_by:  # a second signal must not interrupt the clean-up, which takes a bounded time
                loop.call_soon_threadsafe(task.cancel)
            ended_by.append(number)

        with _woken_by_signals(loop):
            signals.on_signal = end
            try:
                return await main
            finally:  # all is closed: a signal may end the process now, without waiting for, say, a DNS lookup thread
                signals.on_signal = None

    try:
        status = asyncio.run(interruptible())
    except BaseException:
        if not ended_by:  # otherwise it is the cancellation, or a consequence of it
            raise
        status = 0
    return 128 + ended_by[0] if ended_by else status


@contextmanager
def _woken_by_signals(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a signal wake `loop`; otherwise one that arrives just before the loop waits is handled only after that wait.

    `loop.add_signal_handler` would do as well, but it restores Python's own handlers when the loop is closed.
    """
    if sys.platform == "win32":  # the Windows loop does this by itself
        yield
        return
    receiver, sender = socket.socketpair()
    with receiver, sender:
        receiver.setblocking(False)
        sender.setblocking(False)
        loop.add_reader(receiver, receiver.recv, 4096)
        before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            loop.remove_reader(receiver)

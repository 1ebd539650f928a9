"""Exhausts the file descriptors of this process."""

from __future__ import annotations

import os
from collections.abc import Callable


def take(*, left: int = 0) -> Callable[[], None]:
    """Take all descriptors of this process except `left`; returns a function that gives them back."""
    import resource  # not on Windows

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + left + 2, limit[1]))
    hoard: list[int] = []
    try:
        while True:
            hoard.append(os.dup(0))
    except OSError:
        for _ in range(left):
            os.close(hoard.pop())

    def give_back() -> None:
        while hoard:
            os.close(hoard.pop())
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)

    return give_back

"""A gate that admits tasks to a section of their work, or holds them back while all others leave it."""

from __future__ import annotations

import anyio


class Turnstile:
    """An async context manager for work that must not run at a quiet point."""

    def __init__(self) -> None:
        self.inside = 0
        self._open = anyio.Event()
        self._open.set()
        self._left = anyio.Event()

    async def __aenter__(self) -> None:
        while not self._open.is_set():
            await self._open.wait()
        self.inside += 1

    async def __aexit__(self, *exc_info: object) -> None:
        self.inside -= 1
        self._left.set()

    async def close(self) -> None:
        """Admit no more tasks, and wait until all have left."""
        self._open = anyio.Event()
        while self.inside:
            self._left = anyio.Event()
            await self._left.wait()

    def open(self) -> None:
        """Admit tasks again."""
        self._open.set()

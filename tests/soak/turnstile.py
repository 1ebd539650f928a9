"""Lets tasks into a stretch of their work, or holds them before it until everyone has left."""

from __future__ import annotations

import anyio


class Turnstile:
    """An async context manager around what must not go on at a quiet point."""

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
        """Let nobody in, and wait until everyone has left."""
        self._open = anyio.Event()
        while self.inside:
            self._left = anyio.Event()
            await self._left.wait()

    def open(self) -> None:
        """Let everyone in."""
        self._open.set()

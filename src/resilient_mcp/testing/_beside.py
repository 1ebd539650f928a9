"""Tasks that run beside a test: begun in a fixture's task and ended in another's, as pytest plugins may have it."""

from __future__ import annotations

import anyio
import anyio.abc

from ..event_loop import spawn


class Beside:
    """A task group that belongs to no caller's scope."""

    group: anyio.abc.TaskGroup

    async def start(self) -> None:
        """Open the group."""
        self._failure: Exception | None = None
        self._open = anyio.Event()
        self._done = anyio.Event()
        self._task = spawn(self._run)
        await self._open.wait()

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as self.group:
                self._open.set()
                await anyio.sleep_forever()
        except Exception as exc:
            self._failure = exc
        finally:
            self._done.set()

    async def stop(self) -> None:
        """Cancel what runs in the group and wait for its end.

        Raises:
            Exception: What a task in the group failed with, which is a fault of this package.
        """
        self.group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._done.wait()
        if self._failure is not None:
            raise self._failure

"""Background tasks for tests, which may be started in one task and stopped in another, as some pytest plugins do."""

from __future__ import annotations

import anyio
import anyio.abc

from ..event_loop import spawn


class Beside:
    """A task group that lives in its own task.

    An ordinary task group must be exited in the task that entered it, so a fixture whose setup and teardown run in
    different tasks could not hold one.
    """

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
        """Cancel the tasks in the group and wait for them to end.

        Raises:
            Exception: A task in the group failed, which is a bug in this package.
        """
        self.group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._done.wait()
        if self._failure is not None:
            raise self._failure

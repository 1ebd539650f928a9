"""A run that is cancelled while its server stays connected, so that the cancellation cannot come from closing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from .support import Journaled


async def check_cancel_alone(run: Coroutine[Any, Any, Any], server: Journaled) -> None:
    """Cancelling `run`, which calls a tool that hangs, cancels the call and nothing else."""
    task = asyncio.ensure_future(run)
    await server.wait_for("slow began")
    task.cancel()
    await server.wait_for("cancel received")
    await server.wait_for("slow was cancelled")
    await asyncio.wait([task], timeout=15)
    assert task.cancelled()

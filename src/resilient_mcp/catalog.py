"""The last known tools of a server: what their annotations say about sending a call twice."""

from __future__ import annotations

import math
import time
from typing import Any

import anyio

from . import _sdk
from .classifier import Classifier, Failure
from .connection import Connection, Failed
from .events import logger
from .strategies.backoff import exponential

_MAX_PAGES = 100
"""A listing that never ends must not be followed for ever."""
_MAX_TOOLS = 10_000
_BASE, _CAP = 0.1, 10.0
"""The back-off between two tries to list, in seconds."""


class Catalog:
    """Listed once per connection, beside the calls.

    Args:
        classifier: Says whether a listing that failed is worth another try.
    """

    def __init__(self, classifier: Classifier) -> None:
        self._classifier = classifier
        self._repeatable: dict[str, bool] = {}
        self._listed = anyio.Event()

    async def refresh(self, connection: Connection, *, timeout: float) -> None:
        """List the tools over `connection`, until it works, another try cannot help, or the connection is lost."""
        if self._listed.is_set():
            self._listed = anyio.Event()
        tries = 0
        while getattr(connection.session.capabilities, "tools", None) is not None:
            try:
                await self._list(connection, timeout)
                break
            except Failed as failed:
                failure = Failure("tools/list", None, failed.cause, failed.evidence)
                verdict = self._classifier.judge(failure, now=time.time())
                logger.debug("tools could not be listed: %s", verdict)
                if connection.lost.is_set() or verdict.reconnect:
                    return  # who waits for the listing waits for the next connection's
                if not verdict.retryable:
                    break
            await anyio.sleep(exponential(tries, base=_BASE, cap=_CAP))
            tries += 1
        self._listed.set()

    async def _list(self, connection: Connection, timeout: float) -> None:
        known: dict[str, bool] = {}
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            at = cursor

            async def list_page(session: _sdk.Session, _progress: Any, at: str | None = at) -> Any:
                return await session.list("list_tools", at, None, {})

            page = await connection.call(list_page, timeout=timeout, deadline=math.inf)
            for tool in page.tools:
                known[tool.name] = any(_sdk.tool_hints(tool))
            cursor = _sdk.next_cursor(page)
            if cursor is None or len(known) > _MAX_TOOLS:
                break
        self._repeatable = known

    def is_repeatable(self, tool: str) -> bool | None:
        """Whether `readOnlyHint` or `idempotentHint` of `tool` is set (both default to false); None if never listed."""
        return self._repeatable.get(tool)

    async def listed(self, deadline: float) -> None:
        """Wait for the listing of the newest connection, at most until `deadline`."""
        with anyio.move_on_after(deadline - anyio.current_time()):
            await self._listed.wait()

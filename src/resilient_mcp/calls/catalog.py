"""The last known tools of a server: their input schemas, and whether their annotations allow a call to be repeated.

The tools are listed in the background for each connection, and again whenever the server reports a change.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Literal

import anyio
from mcp.types import ListToolsResult

from .._sdk.requests import ListPage
from .._sdk.results import REFRESH, input_schema, next_cursor, tool_hints
from ..connection.generation import Connection
from ..event_loop import Flag, Signal, clock
from ..events import CatalogChanged
from ..observability.hub import Hub, logger
from ..schemas import CompiledSchemas
from ..strategies.backoff import exponential
from ..text.printable import printable
from ..verdicts.classifier import Classifier
from ..verdicts.verdict import AttemptError, Failure

# Bounds on a listing: a server may return cursors forever.
_MAX_PAGES = 100

_MAX_TOOLS = 10_000
# Back-off between attempts to list the tools, in seconds.
_BASE, _CAP = 0.1, 2.0
# Validation problems reported per call: enough for a model to correct its arguments.
_MAX_PROBLEMS = 10
# Maximum length of one reason in characters; it quotes the value.
_REASON = 300


async def pages(page_at: Callable[[str | None], Awaitable[Any]]) -> AsyncGenerator[Any, None]:
    """Yield the pages of a list, at most 100.

    Args:
        page_at: Returns the page at a cursor; None is the first page.
    """
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await page_at(cursor)
        yield page
        cursor = next_cursor(page)
        if cursor is None:
            return


class Catalog:
    """The tools of one server.

    Args:
        classifier: Decides whether a failed listing is retried.
        hub: Receives events.
    """

    def __init__(self, classifier: Classifier, hub: Hub) -> None:
        self._classifier = classifier
        self._hub = hub
        self._tools: dict[str, Any] | None = None
        self._schemas = CompiledSchemas()
        self._current = 0  # the generation that `_tools` is the current listing of; 0 if it is outdated
        self._generation = 0  # the newest generation whose listing is over, whether or not it succeeded
        self._asked_at: float | None = None  # when the listing request in flight was sent
        self._progress = Signal()
        self._stale = Flag()

    async def keep(self, connection: Connection, *, timeout: float) -> None:
        """List the tools over `connection`, and again after each change, until the connection is lost."""
        if not connection.session.offers("tools"):
            self._done(connection)
            return
        options: Any = {}
        while True:
            # A new event before each listing: a change that is reported while it runs makes its result stale.
            self._stale = stale = Flag()
            tools = await self._refresh(connection, timeout, options)
            if connection.reason is not None:
                return  # no `_done`: its waiters wait for the next connection's listing
            if tools is not None:
                self._replace(tools)
                self._current = 0 if stale.is_set() else connection.generation
            if not stale.is_set():
                self._done(connection)
            await stale.wait()
            options = REFRESH

    def _done(self, connection: Connection) -> None:
        """The listing of `connection` is over: nothing more will be known until a change."""
        self._generation = connection.generation
        self._progress.notify()

    def changed(self) -> None:
        """The server's list changed: list it again. A listing in progress is repeated when it ends."""
        self._current = self._generation = 0
        self._stale.set()

    async def _refresh(self, connection: Connection, timeout: float, options: Any) -> dict[str, Any] | None:
        """List with retries. Returns None if a retry cannot help or the connection is lost."""
        tries = 0
        while True:
            self._asked_at = anyio.current_time()
            self._progress.notify()
            try:
                return await self._list(connection, timeout, options)
            except AttemptError as failed:
                failure = Failure("tools/list", None, failed.cause, failed.evidence)
                verdict = self._classifier.judge(failure, now=time.time())
                logger.debug("tools could not be listed: %s", verdict)
                if verdict.reconnect and failed.evidence is not None:
                    connection.lose(failed.evidence)
                if connection.reason is not None or not verdict.retryable:
                    return None
            finally:
                self._asked_at = None
                self._progress.notify()
            await clock.sleep(exponential(tries, base=_BASE, cap=_CAP))
            tries += 1

    async def _list(self, connection: Connection, timeout: float, options: Any) -> dict[str, Any]:
        async def page_at(cursor: str | None) -> Any:
            request: ListPage[ListToolsResult] = ListPage("list_tools", cursor, options=options)
            return await connection.call(request, timeout=timeout)

        tools: dict[str, Any] = {}
        async with aclosing(pages(page_at)) as listing:
            async for page in listing:
                tools.update((tool.name, tool) for tool in page.tools)
                if len(tools) > _MAX_TOOLS:
                    break
        return tools

    def _replace(self, tools: dict[str, Any]) -> None:
        old, self._tools = self._tools, tools
        if old is None or old == tools:
            return
        self._hub.emit(
            CatalogChanged(
                server=self._hub.server,
                added=_names(name for name in tools if name not in old),
                removed=_names(name for name in old if name not in tools),
                changed=_names(name for name, tool in tools.items() if name in old and old[name] != tool),
            )
        )

    # --- what is known ---

    def is_repeatable(self, tool: str, connection: Connection, *, trust: bool | Literal["read_only"]) -> bool | None:
        """Whether the listing of `connection` marks `tool` as repeatable.

        Only that listing counts, and only until the server reports a change: on an earlier connection the same name may
        have been a different tool.

        Args:
            tool: The name of the tool.
            connection: The connection that the call would be sent on.
            trust: `Policy.trust_annotations`.

        Returns:
            None if this connection has no current listing with the tool.
        """
        known = self._known(tool, connection)
        if known is None:
            return None
        read_only, idempotent = tool_hints(known)
        return read_only or (idempotent and trust is True)

    def _known(self, tool: str, connection: Connection) -> Any:
        """The tool as listed by `connection`, or None."""
        return (self._tools or {}).get(tool) if self._current == connection.generation else None

    async def wait_listed(self, connection: Connection, deadline: float, patience: float = math.inf) -> None:
        """Wait for the listing of `connection`.

        Args:
            connection: The connection.
            deadline: When to stop waiting in any case.
            patience: Seconds that one listing request may go unanswered. The back-off between requests does not count.
        """
        while self._generation < connection.generation and not connection.lost.is_set():
            late = math.inf if self._asked_at is None else self._asked_at + patience
            progress = self._progress.upcoming
            with anyio.CancelScope(deadline=min(deadline, late)):
                await progress.wait()
            if anyio.current_time() >= min(deadline, late) and not progress.is_set():
                return

    def problems(self, tool: str, arguments: dict[str, Any], connection: Connection) -> list[tuple[str, str]]:
        """Where `arguments` do not conform to the tool's `inputSchema`, as (path, reason) pairs.

        Empty if `connection` has not listed the tool, its schema is unusable, or the check would block the event loop:
        then validation is left to the server.
        Remote schema references are never fetched.
        """
        known = self._known(tool, connection)
        if known is None:
            return []
        try:
            errors = self._schemas.errors(tool, input_schema(known), arguments, _MAX_PROBLEMS)
        except Exception as exc:
            logger.debug("the inputSchema of %s cannot be used: %s", printable(tool, 100), printable(str(exc)))
            return []
        return [(printable(error.json_path, _REASON), printable(error.message, _REASON)) for error in errors]


def _names(names: Any) -> tuple[str, ...]:
    return tuple(printable(name, 100) for name in names)

"""The outermost layer: what a caller gets when the executor has no answer.

A fallback of the user's, a result instead of an error, the last good copy of a list or a resource; and a word on the
capability that a server refused for lack of. None of it hides that the server's own answer was not to be had.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from mcp.types import CallToolResult, TextContent

from .._sdk.installed import METHOD_NOT_FOUND, MCPError
from .._sdk.results import with_meta
from ..connection.supervisor import Supervisor
from ..errors import InvalidArguments, ResilienceError, ServerFailed
from ..events import ServedStale, State
from ..observability.hub import Hub
from ..policy import Policy
from ..text.printable import add_note, describe, printable
from ..verdicts.verdict import Category
from .catalog import Catalog
from .executor import Executor
from .operation import Operation

Fallback: TypeAlias = Callable[[dict[str, Any]], Awaitable[CallToolResult | str]]
"""Stands in for a tool: gets the arguments, returns the result or its text."""

MAX_COPIES = 256

MAX_COPY_BYTES = 16 * 1024 * 1024
"""How many answers, and how many bytes of them, are kept to be served stale; the least recently given go first."""

_LISTING_PATIENCE = 5.0
"""Seconds that the check of arguments waits for the list of tools."""

_CAPABILITIES = {
    "tools/call": "tools",
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "resources/read": "resources",
    "resources/subscribe": "resources.subscribe",
    "resources/unsubscribe": "resources.subscribe",
    "prompts/list": "prompts",
    "prompts/get": "prompts",
    "completion/complete": "completions",
    "logging/setLevel": "logging",
}
"""The capability a server must declare for a method, by the specification."""


@dataclass(frozen=True, slots=True)
class _Copy:
    kind: type[Any]
    body: bytes
    at: float


class Copies:
    """The last good answers, at most so many and so large.

    Args:
        count: The most answers kept.
        size: The most bytes kept.
    """

    def __init__(self, count: int = MAX_COPIES, size: int = MAX_COPY_BYTES) -> None:
        self._count = count
        self._size = size
        self._bytes = 0
        self._copies: OrderedDict[object, _Copy] = OrderedDict()

    def keep(self, key: object, result: Any, now: float) -> None:
        """Keep `result`, in place of the one before. One that alone is over the bound is not kept."""
        body = result.model_dump_json(by_alias=True, exclude_unset=True).encode()
        self._drop(key)
        self._copies[key] = _Copy(type(result), body, now)
        self._bytes += len(body)
        while self._bytes > self._size or len(self._copies) > self._count:
            self._drop(next(iter(self._copies)))

    def get(self, key: object, now: float) -> tuple[Any, float] | None:
        """The last answer and its age in seconds, if there is one."""
        if (copy := self._copies.get(key)) is None:
            return None
        return copy.kind.model_validate_json(copy.body), now - copy.at

    def forget(self, keys: Callable[[object], bool] = lambda _: True) -> None:
        """Drop the copies of which `keys` is true; all by default."""
        for key in [key for key in self._copies if keys(key)]:
            self._drop(key)

    def _drop(self, key: object) -> None:
        if (copy := self._copies.pop(key, None)) is not None:
            self._bytes -= len(copy.body)


class Fallbacks:
    """Runs operations through the executor, and stands in where that fails.

    Args:
        executor: Runs them.
        supervisor: Says whether the server is there, and what it declared.
        catalog: Knows schemas and annotations.
        policy: The server's.
        hub: Where to report.
        fallbacks: The user's stand-ins, by tool.
    """

    def __init__(
        self,
        executor: Executor,
        supervisor: Supervisor,
        catalog: Catalog,
        policy: Policy,
        hub: Hub,
        *,
        fallbacks: Mapping[str, Fallback],
    ) -> None:
        self._executor = executor
        self._supervisor = supervisor
        self._catalog = catalog
        self._policy = policy
        self._hub = hub
        self._fallbacks = dict(fallbacks)
        self._copies = Copies()

    async def run(self, operation: Operation) -> Any:
        """Run an operation that has no substitute.

        Raises:
            ResilienceError: As the executor raises it.
            MCPError: The server's own, with a note where it refused what it had not declared.
        """
        try:
            return await self._executor.run(operation)
        except MCPError as error:
            self._explain(operation, error)
            raise

    def _explain(self, operation: Operation, error: Any) -> None:
        """A server need not know what it did not declare: say so."""
        needed = _CAPABILITIES.get(operation.method)
        connection = self._supervisor.connection
        if error.error.code != METHOD_NOT_FOUND or needed is None or connection is None:
            return
        if not connection.session.offers(needed):
            server = self._hub.server
            add_note(error, f"the MCP server {server!r} does not declare the capability {needed}: do not ask again")

    # --- tools ---

    async def call_tool(self, operation: Operation, name: str, arguments: dict[str, Any] | None) -> Any:
        """Run a `tools/call`.

        Raises:
            ResilienceError: As the executor raises it, unless the policy or a fallback turns it into a result.
            MCPError: The server's own.
        """
        try:
            if self._policy.tools and self._policy.tool(name).validate_arguments:
                await self._validate(operation, name, arguments or {})
            return await self.run(operation)
        except ResilienceError as exc:
            error = exc
        fallback = self._fallbacks.get(name)
        # A fallback must not do a second time what the server may have done.
        may_stand_in = not error.may_have_run or error.repeatable
        if fallback is not None and may_stand_in and not isinstance(error, InvalidArguments):
            try:
                result = await fallback(dict(arguments or {}))
            except Exception as exc:
                add_note(error, f"its fallback failed, too: {describe(exc)}")
            else:
                return _text_result(result) if isinstance(result, str) else result
        if self._policy.on_unavailable == "result":
            return error.to_tool_result()
        raise error

    async def _validate(self, operation: Operation, name: str, arguments: dict[str, Any]) -> None:
        if (connection := self._supervisor.ready) is None:
            return  # whichever server comes next may list another schema
        timeout = self._policy.timeout
        limit = min(_LISTING_PATIENCE, operation.timeout or timeout.attempt, timeout.total)
        await self._catalog.listed(connection, operation.began + limit)
        problems = self._catalog.problems(name, arguments, connection)
        if problems:
            listed = "; ".join(f"{path}: {reason}" for path, reason in problems)
            tool = printable(name, 100)
            text = f"The arguments of {tool} do not conform to its inputSchema, and nothing was sent: {listed}"
            advice = f"{text}. Correct them and call {tool} again."
            raise InvalidArguments(
                text, problems=problems, advice=advice, server=self._hub.server, operation=str(operation)
            )

    # --- lists and resources ---

    async def read(self, operation: Operation, key: object) -> Any:
        """Run a list or a `resources/read`; `key` tells answers apart, None for one that is not to be kept.

        Raises:
            ResilienceError: As the executor raises it, unless the policy allows the last good copy and there is one.
            MCPError: The server's own.
        """
        if not self._policy.serve_stale or key is None:
            return await self.run(operation)
        waiting = self._supervisor.ready is None and self._supervisor.state in _DOWN
        if waiting and (stale := self._stale(operation, key)) is not None:
            return stale
        try:
            result = await self.run(operation)
        except ResilienceError as error:
            if error.verdict is not None and error.verdict.category is Category.AUTH:
                self._copies.forget()  # who may not read it now may not read it from memory either
            over = self._supervisor.state is State.CLOSED
            if over or _is_for_good(error) or (stale := self._stale(operation, key)) is None:
                raise
            return stale
        if isinstance(key, tuple) and key[1] is None:  # the first page of a list: the others are of the list before
            self._copies.forget(lambda other: isinstance(other, tuple) and other[0] == key[0])
        self._copies.keep(key, result, anyio.current_time())
        return result

    def _stale(self, operation: Operation, key: object) -> Any:
        """The last good copy, marked with its age, or None."""
        found = self._copies.get(key, anyio.current_time())
        if found is None:
            return None
        result, age = found
        self._hub.emit(ServedStale(server=self._hub.server, operation=str(operation), age=age))
        return with_meta(result, {"resilient-mcp/stale-age": round(age, 3)})


_DOWN = frozenset({State.RECONNECTING, State.SUSPENDED})
"""States of a server that may come back. Of one that failed, or was closed, nothing is served."""


def _is_for_good(error: ResilienceError) -> bool:
    """Whether the server refused, by its credentials or its configuration: then a copy would hide what to change."""
    refused = error.verdict is not None and error.verdict.category in {Category.AUTH, Category.PERMANENT}
    return refused or isinstance(error, ServerFailed)


def _text_result(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)])

"""The outermost layer: what a caller gets when the executor has no answer.

That is the user's fallback, a result instead of an error, or the last good copy of a list or resource. A stale copy and
a result made from an error are marked as such.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, cast

import anyio
from mcp.types import CallToolResult, TextContent

from .._sdk.installed import METHOD_NOT_FOUND, MCPError
from .._sdk.results import with_meta
from ..connection.supervisor import Supervisor
from ..errors import InvalidArguments, ResilienceError, ServerFailed
from ..events import ServedStale, State
from ..foreign_code import awaiting
from ..observability.hub import Hub
from ..policy import Policy
from ..text.printable import add_note, describe, printable
from ..verdicts.verdict import Category
from .catalog import Catalog
from .executor import Executor
from .operation import Operation

T = TypeVar("T")

Fallback: TypeAlias = Callable[[dict[str, Any]], Awaitable[CallToolResult | str]]
"""Replaces a tool that cannot be reached: takes its arguments, returns the result or its text."""

# Answers, and bytes of them, that are kept to be served stale. The oldest are dropped first.
MAX_COPIES = 256

MAX_COPY_BYTES = 16 * 1024 * 1024
# Seconds that argument validation waits for the tool listing.
_LISTING_PATIENCE = 5.0
# The capability that a server must declare for a method, according to the specification.
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


@dataclass(frozen=True, slots=True)
class _Copy:
    kind: type[Any]
    body: bytes
    at: float


class Copies:
    """The last good answers, bounded in number and size.

    Args:
        count: Maximum number of answers.
        size: Maximum total size in bytes.
    """

    def __init__(self, count: int = MAX_COPIES, size: int = MAX_COPY_BYTES) -> None:
        self._count = count
        self._size = size
        self._bytes = 0
        self._copies: OrderedDict[object, _Copy] = OrderedDict()

    def keep(self, key: object, result: Any, now: float) -> None:
        """Keep `result` in place of the previous answer. A result larger than the whole bound is not kept."""
        body = result.model_dump_json(by_alias=True, exclude_unset=True).encode()
        self._drop(key)
        self._copies[key] = _Copy(type(result), body, now)
        self._bytes += len(body)
        while self._bytes > self._size or len(self._copies) > self._count:
            self._drop(next(iter(self._copies)))

    def get(self, key: object, now: float) -> tuple[Any, float] | None:
        """The last answer and its age in seconds, or None."""
        if (copy := self._copies.get(key)) is None:
            return None
        return copy.kind.model_validate_json(copy.body), now - copy.at

    def forget(self, keys: Callable[[object], bool] = lambda _: True) -> None:
        """Drop the copies for whose keys `keys` returns true; all by default."""
        for key in [key for key in self._copies if keys(key)]:
            self._drop(key)

    def _drop(self, key: object) -> None:
        if (copy := self._copies.pop(key, None)) is not None:
            self._bytes -= len(copy.body)


class Fallbacks:
    """Runs operations through the executor, and provides a substitute where that fails and the policy allows one.

    Args:
        executor: Runs the operations.
        supervisor: Knows whether the server is up and what it declared.
        catalog: Knows schemas and annotations.
        policy: The server's policy.
        hub: Receives events.
        fallbacks: The user's fallbacks by tool name.
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

    async def run(self, operation: Operation[T]) -> T:
        """Run an operation that has no substitute.

        Raises:
            ResilienceError: As raised by the executor.
            MCPError: The server's own error, with a note if the method needs a capability the server did not declare.
        """
        try:
            return await self._executor.run(operation)
        except MCPError as error:
            self._explain(operation, error)
            raise

    def _explain(self, operation: Operation[Any], error: Any) -> None:
        """Add a note if the server refused a method whose capability it does not declare."""
        needed = _CAPABILITIES.get(operation.method)
        connection = self._supervisor.connection
        if error.error.code != METHOD_NOT_FOUND or needed is None or connection is None:
            return
        if not connection.session.offers(needed):
            server = self._hub.server
            add_note(error, f"the MCP server {server!r} does not declare the capability {needed}: do not ask again")

    # --- tools ---

    async def call_tool(
        self, operation: Operation[CallToolResult], name: str, arguments: dict[str, Any] | None
    ) -> CallToolResult:
        """Run a `tools/call`.

        Raises:
            ResilienceError: As raised by the executor, unless the policy or a fallback turns it into a result.
            MCPError: The server's own error.
        """
        try:
            if self._policy.tools and self._policy.tool(name).validate_arguments:
                await self._validate(operation, name, arguments or {})
            return await self.run(operation)
        except ResilienceError as exc:
            error = exc
        fallback = self._fallbacks.get(name)
        # A fallback must not repeat what the server may already have done.
        may_stand_in = not error.may_have_run or error.repeatable
        if fallback is not None and may_stand_in and not isinstance(error, InvalidArguments):
            try:
                with awaiting(f"the fallback of {printable(name, 100)}", by_caller=True):
                    result = await fallback(dict(arguments or {}))
            except Exception as exc:
                add_note(error, f"its fallback failed as well: {describe(exc)}")
            else:
                return _text_result(result) if isinstance(result, str) else result
        if self._policy.on_unavailable == "result":
            return error.to_tool_result()
        raise error

    async def _validate(self, operation: Operation[Any], name: str, arguments: dict[str, Any]) -> None:
        if (connection := self._supervisor.ready) is None:
            return  # the next connection may list a different schema
        timeout = self._policy.timeout
        limit = min(_LISTING_PATIENCE, operation.timeout or timeout.attempt, timeout.total)
        await self._catalog.wait_listed(connection, operation.began + limit)
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

    async def read(self, operation: Operation[T], key: object) -> T:
        """Run a list or a `resources/read`.

        Args:
            operation: The operation.
            key: Identifies the answer among the copies; None if it must not be kept.

        Raises:
            ResilienceError: As raised by the executor, unless the policy allows the last good copy and there is one.
            MCPError: The server's own error.
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
                self._copies.forget()  # who lost access must not read from memory what was fetched before
            over = self._supervisor.state is State.CLOSED
            if over or _is_for_good(error) or (stale := self._stale(operation, key)) is None:
                raise
            return stale
        if isinstance(key, tuple) and key[1] is None:  # a new first page: the kept later pages belong to the old list
            self._copies.forget(lambda other: isinstance(other, tuple) and other[0] == key[0])
        self._copies.keep(key, result, anyio.current_time())
        return result

    def _stale(self, operation: Operation[T], key: object) -> T | None:
        """The last good copy, marked with its age, or None."""
        found = self._copies.get(key, anyio.current_time())
        if found is None:
            return None
        result, age = found
        self._hub.emit(ServedStale(server=self._hub.server, operation=str(operation), age=age))
        return cast("T", with_meta(result, {"resilient-mcp/stale-age": round(age, 3)}))


# States of a server that may come back. For a server that failed or was closed, no copy is served.
_DOWN = frozenset({State.RECONNECTING, State.SUSPENDED})


def _is_for_good(error: ResilienceError) -> bool:
    """Whether credentials or configuration must change first: a copy would hide that from the user."""
    refused = error.verdict is not None and error.verdict.category in {Category.AUTH, Category.PERMANENT}
    return refused or isinstance(error, ServerFailed)


def _text_result(text: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)])

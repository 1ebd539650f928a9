"""`ResilientClientGroup`: many servers used as one, where no server can delay or break another.

Each server has its own `ResilientClient` and policy. The group adds names that do not clash, lists over all servers
that report which are missing and why, and calls that are routed to the right server.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TypeAlias, TypeVar, cast

import anyio
from mcp import types
from typing_extensions import Self

from . import config
from ._sdk.results import LISTS, capability_of, items_of, list_result
from ._sdk.session import Progress
from .calls.catalog import pages
from .client import ResilientClient
from .errors import ResilienceError
from .events import State
from .foreign_code import calling
from .observability.hub import Listener, logger
from .observability.stats import Health
from .policy import Policy
from .session_methods import Timeout
from .text.printable import describe
from .transports.http.headers import HeadersFunction

SERVER_META = "resilient-mcp/server"
"""The key in a listed item's `_meta` for the name of its server."""
MISSING_META = "resilient-mcp/missing"
"""The key in a listing's `_meta` for the servers missing from it, with the reason for each."""

_SEPARATOR = "__"

NameHook: TypeAlias = Callable[[str, types.Implementation], str]
"""Maps a component's name and its server to the name in the group, as on the SDK's `ClientSessionGroup`.

The `Implementation` carries the server's name in the group, so that two servers of the same kind differ.
"""


@dataclass(slots=True, eq=False)
class _Member:
    client: ResilientClient
    owned: bool
    # Per list method: names in the group to the server's own, from the latest listing.
    names: dict[str, dict[str, str]] = field(default_factory=dict)


class ResilientClientGroup:
    """Clients for many MCP servers, used as one.

    Entering starts all servers concurrently. It returns once each server's first connection attempt has succeeded or
    failed, or `patience` seconds after the latest server became ready. A server that is still starting then goes on
    starting, and only calls to it wait for it. A server that fails stays in the group, and its client keeps trying.
    `add()` and `remove()` work while the group runs.

    Args:
        servers: Name to server: whatever `ResilientClient` takes, or a `ResilientClient`. You close a client that you
            started; the group closes all others.
        policy: The policy of servers that have none of their own.
        name_hook: Makes the names of tools, prompts and resources; by default `server__name`.
        patience: Seconds that entering waits for the other servers after the latest became ready, and that a listing
            waits for the others after the latest answered.
        on_event: Gets the events of all clients created here.
        **options: For each client created here, as on `ResilientClient`.

    Example:
        >>> group = ResilientClientGroup({"docs": "https://docs.example.com/mcp", "news": "https://example.com/mcp"})
        >>> list(group), group["docs"].state.value
        (['docs', 'news'], 'idle')
    """

    def __init__(
        self,
        servers: Mapping[str, Any] | None = None,
        *,
        policy: Policy | None = None,
        name_hook: NameHook | None = None,
        patience: float = 3.0,
        on_event: Listener | None = None,
        **options: Any,
    ) -> None:
        self._policy = policy
        self._hook = name_hook
        self._patience = patience
        self._options = {"on_event": on_event, **options}
        self._members: dict[str, _Member] = {}
        self._started = False
        self._closed = False
        for name, server in (servers or {}).items():
            self._members[name] = self._member(name, server)

    @classmethod
    def from_config(
        cls, path: str | os.PathLike[str], *, name_hook: NameHook | None = None, patience: float = 3.0, **options: Any
    ) -> Self:
        """Create a group of the servers in an `mcpServers` file, with their policies.

        The file may have VS Code's `servers`, comments, trailing commas, `${VAR}` and `${VAR:-default}`. Keys that only
        other hosts know are ignored.

        Raises:
            TypeError: `policy` is given: the file has the policies, under the key "resilience".
            ConfigError: The file cannot be used; lists all of its problems, with server, key and remedy.
        """
        if "policy" in options:
            raise TypeError('from_config() takes no policy: write it into the file, under the key "resilience"')
        group = cls(name_hook=name_hook, patience=patience, **options)
        for name, entry in config.load(path).items():
            group._members[name] = group._member(name, entry.server, entry.policy, entry.headers)
        return group

    def _member(
        self, name: str, server: Any, policy: Policy | None = None, headers: HeadersFunction | None = None
    ) -> _Member:
        if isinstance(server, ResilientClient):
            return _Member(server, owned=server.state is State.IDLE)
        options = self._options if headers is None else {**self._options, "headers": headers}
        client = ResilientClient(server, name=name, policy=policy or self._policy, **options)
        return _Member(client, owned=True)

    # --- lifecycle ---

    async def start(self) -> None:
        """Start all servers; see the class for how long it waits.

        Raises:
            RuntimeError: The group was already started; create a new one.
        """
        if self._started:
            raise RuntimeError("the group was already started: create a new ResilientClientGroup")
        self._started = True
        try:
            for member in self._members.values():
                await _begin(member)
            await self._settle()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close all servers concurrently; takes no longer than the slowest of them.

        Has no effect on a group that was not started, like `ResilientClient.aclose`.
        """
        self._closed = self._started  # before `start` there is nothing to close
        clients = [member.client for member in self._members.values() if member.owned]
        await _side_by_side(ResilientClient.aclose, clients)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _settle(self) -> None:
        """Wait for each server's first connection attempt, at most `patience` after the latest became ready."""
        # The deadline ends only this wait: the servers go on starting. Until one is ready there is none, and each
        # attempt ends by its own `timeout.connect`.
        with anyio.CancelScope() as scope:

            async def wait(client: ResilientClient) -> None:
                await client.wait_attempted()
                if client.error is None:
                    scope.deadline = anyio.current_time() + self._patience

            await _side_by_side(wait, [member.client for member in self._members.values()])

    async def add(self, name: str, server: Any, *, policy: Policy | None = None) -> ResilientClient:
        """Add a server; in a started group, also wait until its first connection attempt has succeeded or failed.

        If that wait is cancelled, the server is removed again.

        Args:
            name: Its name in the group.
            server: As in the constructor.
            policy: Its policy, instead of the group's.

        Raises:
            ValueError: The name is taken.
            RuntimeError: The group is closed.
        """
        if self._closed:
            raise RuntimeError("the group is closed: create a new ResilientClientGroup")
        if name in self._members:
            raise ValueError(f"the group already has a server {name!r}: remove it first, or choose another name")
        member = self._members[name] = self._member(name, server, policy)
        if not self._started:
            return member.client
        try:
            await _begin(member)
            await member.client.wait_attempted()
        except BaseException:
            if self._members.get(name) is member:  # if not, `remove` closes it
                await self.remove(name)
            raise
        return member.client

    async def remove(self, name: str) -> None:
        """Remove a server from the group, and close its client unless you started it.

        Raises:
            KeyError: The group has no server of that name.
        """
        member = self._members.pop(name, None)
        if member is None:
            raise KeyError(self._no_server(name))
        if member.owned:
            await member.client.aclose()

    # --- members ---

    def __getitem__(self, name: str) -> ResilientClient:
        if name not in self._members:
            raise KeyError(self._no_server(name))
        return self._members[name].client

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def health(self) -> dict[str, Health]:
        """Return a snapshot of each server's health; callable from any thread, like `missing`."""
        return {name: member.client.health() for name, member in list(self._members.items())}

    @property
    def missing(self) -> dict[str, str]:
        """The servers that cannot take calls now, with the reason for each."""
        errors = {name: member.client.error for name, member in list(self._members.items())}
        return {name: str(error) for name, error in errors.items() if error is not None}

    def _no_server(self, name: str) -> str:
        return f"the group has no server {name!r}; it has {', '.join(map(repr, self._members)) or 'none'}"

    # --- lists ---

    async def list_tools(self) -> types.ListToolsResult:
        """List all tools of all servers that answer, under their names in the group.

        The result's `_meta` has the missing servers under `"resilient-mcp/missing"`, with the reason for each; each
        tool's `_meta` has the name of its server under `"resilient-mcp/server"`. Failures of servers are never raised.
        """
        return cast("types.ListToolsResult", await self._list("list_tools"))

    async def list_resources(self) -> types.ListResourcesResult:
        """List all resources, like `list_tools`; their names are the group's, their URIs the server's."""
        return cast("types.ListResourcesResult", await self._list("list_resources"))

    async def list_resource_templates(self) -> types.ListResourceTemplatesResult:
        """List all resource templates, like `list_resources`."""
        return cast("types.ListResourceTemplatesResult", await self._list("list_resource_templates"))

    async def list_prompts(self) -> types.ListPromptsResult:
        """List all prompts, like `list_tools`."""
        return cast("types.ListPromptsResult", await self._list("list_prompts"))

    async def _list(self, method: str) -> Any:
        members = dict(self._members)
        answers: dict[str, list[Any]] = {}
        missing: dict[str, str] = {}
        with anyio.CancelScope() as scope:

            async def ask(name: str) -> None:
                try:
                    answers[name] = await _all_pages(members[name].client, method)
                except Exception as exc:  # one server's failure must not fail the whole listing
                    missing[name] = describe(exc)
                else:
                    scope.deadline = anyio.current_time() + self._patience

            await _side_by_side(ask, list(members))
        items: dict[str, Any] = {}
        for name, member in members.items():
            if name not in answers:
                missing.setdefault(name, str(member.client.error or f"no answer within {self._patience:g} s"))
                continue
            own_names = {}
            for item in answers[name]:
                called = self._name(name, member.client, item.name)
                if called in items:
                    logger.warning("the name %r is taken in the group: the one from server %r is hidden", called, name)
                    continue
                meta = {**(item.meta or {}), SERVER_META: name}
                items[called] = item.model_copy(update={"name": called, "meta": meta})
                own_names[called] = item.name
            member.names[method] = own_names
        return list_result(method, list(items.values()), {MISSING_META: missing} if missing else None)

    def _name(self, server: str, client: ResilientClient, own: str) -> str:
        """The name in the group of what `server` calls `own`."""
        if self._hook is None:
            return f"{server}{_SEPARATOR}{own}"
        info = client.server_info or types.Implementation(name=server, version="unknown")
        called = own
        with calling("name_hook"):
            called = self._hook(own, info.model_copy(update={"name": server}))
        return called  # noqa: RET504 - a type checker takes the boundary for one that may swallow errors

    # --- calls ---

    async def call_tool(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        read_timeout_seconds: Timeout = None,
        progress_callback: Progress | None = None,
        **options: Any,
    ) -> types.CallToolResult:
        """Call a tool by its name in the group.

        Args:
            name: The name that `list_tools` returns.
            arguments: The tool's arguments.
            read_timeout_seconds: As on `ResilientClient.call_tool`, like the next two.
            progress_callback: Gets progress notifications.
            **options: Any other option.

        Raises:
            ResilienceError: No server has that tool; `ResilientClient.call_tool` raises the rest.
        """
        client, own = await self._route("list_tools", self.list_tools, name)
        return await client.call_tool(own, arguments, read_timeout_seconds, progress_callback, **options)

    async def get_prompt(
        self, name: str, arguments: dict[str, str] | None = None, **options: Any
    ) -> types.GetPromptResult:
        """Get a prompt by its name in the group; raises as `call_tool` does."""
        client, own = await self._route("list_prompts", self.list_prompts, name)
        return await client.get_prompt(own, arguments, **options)

    async def _route(
        self, method: str, listing: Callable[[], Awaitable[object]], name: str
    ) -> tuple[ResilientClient, str]:
        """Find the client that has `name`, and the server's own name for it."""
        found = self._known(method, name)
        if found is None and self._hook is not None:
            await listing()
            found = self._known(method, name)
        if found is not None:
            return found
        missing = self.missing
        text = f"No server in this group has {name!r} in its {LISTS[method]}."
        if missing:
            text += f" These servers are not available: {', '.join(missing)}."
        raise ResilienceError(text)

    def _known(self, method: str, name: str) -> tuple[ResilientClient, str] | None:
        for member in self._members.values():
            if (own := member.names.get(method, {}).get(name)) is not None:
                return member.client, own
        if self._hook is None:  # the name contains the server's, so it need not have been listed
            for server in sorted(self._members, key=len, reverse=True):
                if name.startswith(f"{server}{_SEPARATOR}"):
                    return self._members[server].client, name[len(server) + len(_SEPARATOR) :]
        return None


async def _all_pages(client: ResilientClient, method: str) -> list[Any]:
    """Every item of one server; none if it lacks the capability."""
    if client.error is not None and client.get_server_capabilities() is None:
        raise client.error  # it was never ready, and entering has waited for it: a listing does not wait again
    await client.wait_ready()
    items: list[Any] = []
    if not client.offers(capability_of(method)):
        return items
    async for page in pages(getattr(client, method)):
        items += items_of(method, page)
    return items


async def _begin(member: _Member) -> None:
    if member.owned:
        await member.client.start(wait=False)


_T = TypeVar("_T")


async def _side_by_side(function: Callable[[_T], Coroutine[Any, Any, Any]], items: Iterable[_T]) -> None:
    """Run `function` on all items concurrently; it handles its own errors."""
    async with anyio.create_task_group() as tg:
        for item in items:
            tg.start_soon(function, item)

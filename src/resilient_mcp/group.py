"""`ResilientClientGroup`: many servers behind one object, none of which can hold up or break another.

Each server has a `ResilientClient` of its own, with its own policy. What the group adds is names that do not clash,
lists over all servers that say which are missing and why, and calls that find their server.
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
from .calls.catalog import pages
from .client import ResilientClient
from .errors import ResilienceError
from .events import State
from .observability.hub import Listener, logger
from .observability.stats import Health
from .policy import Policy
from .text.printable import describe

SERVER_META = "resilient-mcp/server"
"""The key in a listed item's `_meta` that names its server."""
MISSING_META = "resilient-mcp/missing"
"""The key in a listing's `_meta` that names the servers that are not in it, with the reason for each."""

_SEPARATOR = "__"

NameHook: TypeAlias = Callable[[str, types.Implementation], str]
"""From a component's name and its server to the name in the group, as on the SDK's `ClientSessionGroup`.

The `Implementation` has the server's name in the group, so that two servers of one kind differ.
"""


@dataclass(slots=True, eq=False)
class _Member:
    client: ResilientClient
    owned: bool
    names: dict[str, dict[str, str]] = field(default_factory=dict)
    """Per list method: the name in the group to the server's own, as listed last."""


class ResilientClientGroup:
    """Clients for many MCP servers, used as one.

    Entering starts all servers side by side. It returns when the first try of each ended, well or not; one that
    hangs is waited for no longer than `patience` after the latest of the others was ready. It goes on starting, and
    only a call to it waits for it. A server that fails stays in the group: its client keeps trying.

    Args:
        servers: Name to server: whatever `ResilientClient` takes, or a `ResilientClient`. One that was started before
            stays yours to close.
        policy: The policy of the servers that bring none.
        name_hook: Makes the names of tools, prompts and resources; by default `server__name`.
        patience: Seconds that entering waits on after the latest server that was ready, and that each listing waits
            on, for servers that were ready before, after the latest that answered.
        on_event: Gets the events of all clients made here.
        **options: For each client made here, as on `ResilientClient`.

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
        """The servers of an `mcpServers` file, with their policies.

        Raises:
            ConfigError: The file cannot be used; says everything that is wrong with it.
        """
        group = cls(name_hook=name_hook, patience=patience, **options)
        for name, entry in config.load(path).items():
            group._members[name] = group._member(name, entry.server, entry.policy)
        return group

    def _member(self, name: str, server: Any, policy: Policy | None = None) -> _Member:
        if isinstance(server, ResilientClient):
            return _Member(server, owned=server.state is State.IDLE)
        client = ResilientClient(server, name=name, policy=policy or self._policy, **self._options)
        return _Member(client, owned=True)

    # --- life ---

    async def start(self) -> None:
        """Start all servers; see the class for how long it waits.

        Raises:
            RuntimeError: The group was started before; make a new one.
        """
        if self._started:
            raise RuntimeError("the group was started before: make a new ResilientClientGroup")
        self._started = True
        try:
            for member in self._members.values():
                await _begin(member)
            await self._settle()
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close all servers side by side; takes no longer than the slowest of them may take alone."""
        self._closed = True
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
        """Wait for the first try of each server, and no longer than `patience` after the latest that is ready."""
        with anyio.CancelScope() as scope:

            async def wait(client: ResilientClient) -> None:
                await client.wait_tried()
                if client.error is None:
                    scope.deadline = anyio.current_time() + self._patience

            await _side_by_side(wait, [member.client for member in self._members.values()])

    async def add(self, name: str, server: Any, *, policy: Policy | None = None) -> ResilientClient:
        """Add a server while the group runs, and wait for its first try, well or not.

        Args:
            name: Its name in the group.
            server: As in the constructor.
            policy: Instead of the group's.

        Raises:
            ValueError: The name is taken.
            RuntimeError: The group is closed.
        """
        if self._closed:
            raise RuntimeError("the group is closed: make a new ResilientClientGroup")
        if name in self._members:
            raise ValueError(f"the group has a server {name!r}: remove it first, or choose another name")
        member = self._members[name] = self._member(name, server, policy)
        if self._started:
            await _begin(member)
            await member.client.wait_tried()
        return member.client

    async def remove(self, name: str) -> None:
        """Take a server out of the group and close it.

        Raises:
            KeyError: There is none of that name.
        """
        member = self._members.pop(name, None)
        if member is None:
            raise KeyError(self._no_server(name))
        if member.owned:
            await member.client.aclose()

    # --- what is in it ---

    def __getitem__(self, name: str) -> ResilientClient:
        if name not in self._members:
            raise KeyError(self._no_server(name))
        return self._members[name].client

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def health(self) -> dict[str, Health]:
        """How each server is, now."""
        return {name: member.client.health() for name, member in self._members.items()}

    @property
    def missing(self) -> dict[str, str]:
        """The servers that take no calls now, with the reason for each."""
        errors = {name: member.client.error for name, member in self._members.items()}
        return {name: str(error) for name, error in errors.items() if error is not None}

    def _no_server(self, name: str) -> str:
        return f"the group has no server {name!r}; it has {', '.join(map(repr, self._members)) or 'none'}"

    # --- lists ---

    async def list_tools(self) -> types.ListToolsResult:
        """All tools of all servers that answer, under their names in the group.

        Its `_meta` names the servers that are missing, in `"resilient-mcp/missing"`, with the reason for each; the
        `_meta` of a tool names its server, in `"resilient-mcp/server"`. Never raises because of a server.
        """
        return cast("types.ListToolsResult", await self._list("list_tools"))

    async def list_resources(self) -> types.ListResourcesResult:
        """All resources, as `list_tools`; their names are the group's, their URIs the server's."""
        return cast("types.ListResourcesResult", await self._list("list_resources"))

    async def list_resource_templates(self) -> types.ListResourceTemplatesResult:
        """All resource templates, as `list_resources`."""
        return cast("types.ListResourceTemplatesResult", await self._list("list_resource_templates"))

    async def list_prompts(self) -> types.ListPromptsResult:
        """All prompts, as `list_tools`."""
        return cast("types.ListPromptsResult", await self._list("list_prompts"))

    async def _list(self, method: str) -> Any:
        members = dict(self._members)
        answers: dict[str, list[Any]] = {}
        missing: dict[str, str] = {}
        with anyio.CancelScope() as scope:

            async def ask(name: str) -> None:
                try:
                    answers[name] = await _all_pages(members[name].client, method)
                except Exception as exc:  # whatever is wrong with one server is not wrong with the group
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
                    logger.warning("two in the group are called %r: the one of %r is hidden", called, name)
                    continue
                meta = {**(item.meta or {}), SERVER_META: name}
                items[called] = item.model_copy(update={"name": called, "meta": meta})
                own_names[called] = item.name
            member.names[method] = own_names
        return list_result(method, list(items.values()), {MISSING_META: missing} if missing else None)

    def _name(self, server: str, client: ResilientClient, own: str) -> str:
        """What `own` of `server` is called in the group."""
        if self._hook is None:
            return f"{server}{_SEPARATOR}{own}"
        info = client.server_info or types.Implementation(name=server, version="unknown")
        return self._hook(own, info.model_copy(update={"name": server}))

    # --- calls ---

    async def call_tool(self, name: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
        """Call a tool by its name in the group.

        Args:
            name: As `list_tools` gives it.
            arguments: Its arguments.
            **options: As on `ResilientClient.call_tool`.

        Raises:
            ResilienceError: No server has such a tool; or whatever `ResilientClient.call_tool` raises.
        """
        client, own = await self._route("list_tools", self.list_tools, name)
        return await client.call_tool(own, arguments, **options)

    async def get_prompt(self, name: str, arguments: dict[str, str] | None = None, **options: Any) -> Any:
        """Get a prompt by its name in the group; raises as `call_tool` does."""
        client, own = await self._route("list_prompts", self.list_prompts, name)
        return await client.get_prompt(own, arguments, **options)

    async def _route(
        self, method: str, listing: Callable[[], Awaitable[Any]], name: str
    ) -> tuple[ResilientClient, str]:
        """The client that has `name`, and what that server calls it."""
        found = self._known(method, name)
        if found is None and self._hook is not None:
            await listing()
            found = self._known(method, name)
        if found is not None:
            return found
        missing = self.missing
        text = f"No server of this group has {name!r} (listed by {LISTS[method]})."
        if missing:
            text += f" These servers are missing: {', '.join(missing)}."
        raise ResilienceError(text, advice=text)

    def _known(self, method: str, name: str) -> tuple[ResilientClient, str] | None:
        for member in self._members.values():
            if (own := member.names.get(method, {}).get(name)) is not None:
                return member.client, own
        if self._hook is None:  # the name says it all, whether it was listed or not
            for server in sorted(self._members, key=len, reverse=True):
                if name.startswith(f"{server}{_SEPARATOR}"):
                    return self._members[server].client, name[len(server) + len(_SEPARATOR) :]
        return None


async def _all_pages(client: ResilientClient, method: str) -> list[Any]:
    """Every item of one server; none where it has no such thing."""
    if client.error is not None and client.get_server_capabilities() is None:
        raise client.error  # it never was ready, and entering gave it its time: what it has is not missed yet
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
    """Run `function` on all items at the same time; it handles its own errors."""
    async with anyio.create_task_group() as tg:
        for item in items:
            tg.start_soon(function, item)

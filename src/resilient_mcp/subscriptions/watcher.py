"""Watchers: iterators of changes, collapsed until they are read and marked where some may have been missed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .._sdk.results import event_of_change, wire_uri
from ..event_loop import Signal
from .ledger import Key, Listen, Resource

ChangeKind: TypeAlias = Literal["resource", "tools", "prompts", "resource_list"]

# Unread changes kept beyond one for each thing watched. Bounded, as a server may name any number of sub-resources.
_MAX_PENDING = 1024
# Characters of the longest sub-resource that is kept as such.
_LONGEST_URI = 4096


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is watched changed: read it again.

    Attributes:
        kind: `resource`, or the list that changed: `tools`, `prompts`, `resource_list`.
        uri: The resource, or None for a list. The server may name a sub-resource of the one watched.
        missed: Changes may have been missed while the connection was away; whether there were any is not known.
    """

    kind: ChangeKind
    uri: str | None = None
    missed: bool = False


class Watcher:
    """An async iterator of changes. It ends when its client is closed or its `async with` block is left.

    Several changes of one thing before it is read are reported as one, so the backlog is bounded.

    Args:
        resources: URIs of resources to watch.
        tools: Whether to watch the list of tools.
        prompts: Whether to watch the list of prompts.
        resource_list: Whether to watch the list of resources.
    """

    internal = False
    may_be_empty = False

    def __init__(
        self, resources: Iterable[Any] = (), *, tools: bool = False, prompts: bool = False, resource_list: bool = False
    ) -> None:
        if isinstance(resources, str):
            raise TypeError(f"resources is the string {resources!r}: write a list of URIs, [{resources!r}]")
        self._spelling = {wire_uri(uri): str(uri) for uri in resources}
        self.filter = Listen(tuple(sorted(self._spelling)), tools, prompts, resource_list)
        self._lists: list[ChangeKind] = []
        if tools:
            self._lists.append("tools")
        if prompts:
            self._lists.append("prompts")
        if resource_list:
            self._lists.append("resource_list")
        if not self._spelling and not self._lists and not self.may_be_empty:
            raise ValueError("nothing to watch: name resources, or set tools, prompts or resource_list")
        self._pending: dict[tuple[ChangeKind, str | None], bool] = {}
        self._more = Signal()
        self.entered = False
        self.ended = False

    def keys(self, *, legacy: bool) -> list[Key]:
        """The keys to subscribe to. Up to 2025-11-25 (`legacy`), list changes are sent without a subscription."""
        return [Resource(uri) for uri in self.filter.resources] if legacy else [self.filter]

    def capabilities(self) -> list[str]:
        """The capabilities that the server must declare."""
        return self.filter.capabilities()

    def notify(self, kind: ChangeKind, uri: str | None) -> None:
        """Add a change, unless what changed is not watched."""
        if uri is None:
            if kind in self._lists:
                self._add((kind, None), missed=False)
            return
        if uri in self._spelling:
            self._add((kind, self._spelling[uri]), missed=False)
            return
        watched = next((known for known in self._spelling if _is_below(uri, known)), None)
        if watched is not None:
            # A full backlog falls back to the watched resource itself, of which there is at most one entry.
            full = len(self._pending) >= _MAX_PENDING + len(self._spelling) + len(self._lists)
            self._add((kind, self._spelling[watched] if full or len(uri) > _LONGEST_URI else uri), missed=False)

    def missed(self, key: Key | None = None) -> None:
        """Changes may have been missed, of one resource or of everything that is watched."""
        if isinstance(key, Resource):
            if key.uri in self._spelling:
                self._add(("resource", self._spelling[key.uri]), missed=True)
            return
        self.missed_lists()
        for given in self._spelling.values():
            self._add(("resource", given), missed=True)

    def missed_lists(self) -> None:
        """Changes of the lists may have been missed."""
        for kind in self._lists:
            self._add((kind, None), missed=True)

    def _add(self, change: tuple[ChangeKind, str | None], *, missed: bool) -> None:
        if missed and not self.entered:
            return  # the user has read nothing yet that could be out of date
        self._pending[change] = self._pending.get(change, False) or missed
        self._more.notify()

    def opened(self, stream: Any) -> None:
        """The SDK opened a `subscriptions/listen` stream for this watcher (2026-07-28)."""

    def end(self) -> None:
        """End the iteration."""
        self.ended = True
        self._more.notify()

    def __aiter__(self) -> "Watcher":
        return self

    async def __anext__(self) -> Change:
        while not self._pending and not self.ended:
            await self._more.wait()
        if self.ended:
            raise StopAsyncIteration
        kind, uri = next(iter(self._pending))
        return Change(kind, uri, self._pending.pop((kind, uri)))


class ListenWatcher(Watcher):
    """The counterpart of `mcp.Client.listen()` of 2.x: an async iterator of the SDK's events.

    Attributes:
        honored: What the server agreed to deliver on the newest stream.
        subscription_id: The id of the newest stream.
    """

    may_be_empty = True
    honored: Any = None
    subscription_id: Any = None

    @classmethod
    def from_filters(
        cls,
        *,
        tools_list_changed: bool = False,
        prompts_list_changed: bool = False,
        resources_list_changed: bool = False,
        resource_subscriptions: Iterable[str] = (),
    ) -> "ListenWatcher":
        """Create a watcher from the arguments of the SDK's `listen()`."""
        return cls(
            resource_subscriptions,
            tools=tools_list_changed,
            prompts=prompts_list_changed,
            resource_list=resources_list_changed,
        )

    def opened(self, stream: Any) -> None:
        self.honored, self.subscription_id = stream.honored, stream.subscription_id

    async def __anext__(self) -> Any:
        change = await super().__anext__()
        return event_of_change(change.kind, change.uri)


def _is_below(uri: str, watched: str) -> bool:
    """Whether `uri` is a sub-resource of `watched`; updates may name those."""
    return uri.startswith(watched) and (watched.endswith("/") or uri[len(watched)] in "/?#")


class Feed(Watcher):
    """An internal watcher: calls a function on each change of the list of tools."""

    internal = True

    def __init__(self, on_change: Callable[[], object]) -> None:
        super().__init__(tools=True)
        self._on_change = on_change

    def _add(self, change: tuple[ChangeKind, str | None], *, missed: bool) -> None:  # noqa: ARG002 - all changes are treated alike
        self._on_change()

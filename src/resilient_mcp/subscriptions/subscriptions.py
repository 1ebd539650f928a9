"""What a client is subscribed to, over all its connections: the wishes of the user and of watchers.

A wish is recorded at once, and needs no server: what is wanted is in force on every connection to come, what is taken
back is not. The replay that runs beside the calls of each connection sees to that.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.abc
import anyio.lowlevel
from mcp.types import EmptyResult

from .._sdk.results import change_in
from .._sdk.session import Invoke, Session
from ..connection.generation import Connection
from ..errors import CircuitOpen, DeadlineExceeded, RateLimitExceeded, ResilienceError, ServerUnavailable
from ..event_loop import clock, loop_time
from ..observability.hub import Hub
from ..policy import Policy
from ..verdicts.classifier import Classifier
from ..verdicts.verdict import Category
from .ledger import Key, Listen, LogLevel, Resource, Value
from .replay import HEARING, USER, Replay, SubscriptionState, is_refusal
from .watcher import Feed, ListenWatcher, Watcher

_NEEDED: dict[type[Key], str] = {Resource: "resources.subscribe", LogLevel: "logging"}
"""The capability that each needs, up to 2025-11-25."""


class Subscriptions:
    """The subscriptions of one client.

    Args:
        policy: The server's numbers.
        hub: Where to report.
        classifier: Says whether a failure is the whole connection's.
        current: Gives the connection that takes calls, or None.
        is_free: Whether calls go through, as far as the circuit is asked.
        handler: Gets every message, and an update of each resource that may have been missed.
    """

    def __init__(
        self,
        policy: Policy,
        hub: Hub,
        classifier: Classifier,
        current: Callable[[], Connection | None],
        *,
        is_free: Callable[[], bool],
        handler: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._policy = policy
        self._hub = hub
        self._classifier = classifier
        self._current = current
        self._is_free = is_free
        self._handler = handler
        self._desk = SubscriptionState()
        self._closed = False

    # --- what comes from the server ---

    async def on_message(self, message: Any) -> None:
        """The session's `message_handler`: tells the watchers, then the user's. Raising would end a session of 1.x."""
        change = change_in(message)
        connection = self._current()
        if change is not None and (connection is None or connection.session.is_legacy):
            kind, uri = change
            for watcher in list(self._desk.watchers):
                watcher.notify(kind, uri)
        try:
            await self._handler(message)
        except Exception as exc:
            self._hub.log_exception("message_handler raised", exc)

    def feed(self, on_change: Callable[[], object]) -> None:
        """Call `on_change` whenever the server's list of tools changed, or may have."""
        self._desk.watchers[Feed(on_change)] = None

    # --- what the user asks for ---

    async def change(
        self,
        key: Resource | LogLevel,
        value: Value | None,
        invoke: Callable[[Session], Awaitable[Any]],
        run: Callable[[Invoke, float], Awaitable[Any]],
    ) -> EmptyResult:
        """Record a wish of the user's, or take it back, and have the server told.

        Args:
            key: What is asked for.
            value: What it is to be; None to have it no more.
            invoke: Asks the server.
            run: Runs that to its end, as any operation that was asked for at a time of the event loop's clock.
        """
        desk, ledger = self._desk, self._desk.ledger
        if (connection := self._current()) is not None:
            self._begin(connection)
        before: Value | None = None
        if value is not None:
            before = ledger.want(key, USER, value)
        else:
            ledger.release(key, USER)
            if ledger.wanted(key) is not None or connection is None or not self._is_free():
                desk.tell()  # the replay sees to the rest
                return EmptyResult()
        generation = 0

        async def marked(session: Session, _progress: Any) -> Any:
            nonlocal generation
            generation = self._generation_of(session)
            ledger.sending(generation, key, value)
            result = await invoke(session)
            if ledger.settled(generation, key, value, clock.now()):
                desk.proven.add(_NEEDED[type(key)])  # the SDK's own servers of 1.x declare no subscriptions
                desk.missed(key)
            return result

        began, limit = loop_time(), min(self._policy.timeout.request, self._policy.timeout.total)
        with anyio.CancelScope(deadline=began + limit) as turn:
            async with desk.alone(key):
                turn.deadline = math.inf
                try:
                    return cast("EmptyResult", await run(marked, began))
                except ResilienceError as error:
                    if value is None and isinstance(error, ServerUnavailable | CircuitOpen | RateLimitExceeded):
                        return EmptyResult()  # taken back all the same: the server will hear of it when it can
                    if error.verdict is not None and error.verdict.category is Category.PERMANENT:
                        self._refused(generation, key, value, before)
                    raise
                except Exception:  # the server's own error, or the SDK's of a wrong argument
                    self._refused(generation, key, value, before)
                    raise
        text = f"{key} on MCP server {self._hub.server!r} waited {limit:g} s for another request about the same."
        raise DeadlineExceeded(text, advice=text, elapsed=limit, server=self._hub.server, operation=str(key))

    def _refused(self, generation: int, key: Key, value: Value | None, before: Value | None) -> None:
        """A wish that was refused is taken back, unless it was replaced meanwhile."""
        ledger = self._desk.ledger
        self._desk.failed(generation, key, None, gone=True)
        if value is not None and ledger.wanted(key) == value:
            ledger.release(key, USER)
            if before is not None:
                ledger.want(key, USER, before)

    def _generation_of(self, session: Session) -> int:
        """The generation whose session this is; 0 for one that is over."""
        connection = self._current()
        if connection is None or connection.session is not session:
            return 0
        self._begin(connection)
        return connection.generation

    # --- watchers ---

    @asynccontextmanager
    async def watching(self, watcher: Watcher) -> AsyncIterator[None]:
        """Let `watcher` have what it watches.

        Entering waits until that is in force. With no connection there is nothing to wait for: it will be in force on
        the next one.

        Raises:
            MCPError: The server refused it.
            ResilienceError: The server does not declare what that needs.
        """
        if (connection := self._current()) is not None:
            self._begin(connection)
        self._desk.watchers[watcher] = None
        try:
            if self._closed:
                watcher.end()
            elif connection is not None:
                await self._enter(watcher, connection)
            watcher.entered = True
            yield
        finally:
            watcher.end()
            self._desk.watchers.pop(watcher, None)
            for key in [*watcher.keys(legacy=True), *watcher.keys(legacy=False)]:
                self._desk.ledger.release(key, watcher)
            self._desk.tell()

    async def _enter(self, watcher: Watcher, connection: Connection) -> None:
        desk, name = self._desk, self._hub.server
        patient = isinstance(watcher, ListenWatcher)
        if not patient:
            self._check_offered(watcher, connection)
        keys = watcher.keys(legacy=connection.session.is_legacy)
        for key in keys:
            desk.failures.pop(key, None)
            desk.ledger.want(key, watcher)
        desk.tell()
        with anyio.move_on_after(self._policy.timeout.ready):
            with anyio.move_on_after(HEARING):
                await connection.hearing.wait()
            await self._in_force(keys, connection, patient=patient)
            for key in keys:
                if (stream := desk.opened.get(key)) is not None:
                    watcher.opened(stream)
            return
        if patient:
            text = f"MCP server {name!r} did not acknowledge subscriptions/listen in time."
            raise ServerUnavailable(text, advice=text, server=name, operation="subscriptions/listen")

    def _check_offered(self, watcher: Watcher, connection: Connection) -> None:
        lacking = [path for path in watcher.capabilities() if not connection.session.offers(path)]
        if lacking:
            name = self._hub.server
            text = f"MCP server {name!r} does not declare {' and '.join(lacking)}: watch() would never see a change."
            raise ResilienceError(text, advice=text, server=name, operation="watch")

    async def _in_force(self, keys: list[Key], connection: Connection, *, patient: bool) -> None:
        """Wait until the server has all of `keys`; who is not patient leaves what the network refuses to the replay."""
        desk, left = self._desk, list(keys)
        while patient or connection.reason is None:
            done = desk.done
            failures = [desk.failures[key] for key in left if key in desk.failures] if desk.failures else []
            for failed in failures:
                if failed.cause is not None and is_refusal(failed):
                    raise failed.cause
            while left and desk.ledger.in_force(left[-1]):
                left.pop()
            if not left or (failures and not patient):
                return
            await done.wait()

    def close(self) -> None:
        """The client is closed: there is nothing more to watch."""
        self._closed = True
        for watcher in list(self._desk.watchers):
            watcher.end()

    # --- connections ---

    def _begin(self, connection: Connection) -> None:
        """Open a new page of the ledger. Callers may meet a new connection before `keep` does."""
        desk, session = self._desk, connection.session
        legacy = session.is_legacy

        def offered(key: Key) -> bool:
            if isinstance(key, Listen):
                asked = any(isinstance(holder, ListenWatcher) for holder in desk.ledger.holders(key))
                return not legacy and (asked or any(map(session.offers, key.capabilities())))
            needed = _NEEDED[type(key)]
            return legacy and (needed in desk.proven or session.offers(needed))

        if not desk.ledger.begin(connection.generation, offered):
            return
        desk.failures.clear()
        desk.opened.clear()
        for watcher in desk.watchers:
            for key in watcher.keys(legacy=not legacy):
                desk.ledger.release(key, watcher)
            for key in watcher.keys(legacy=legacy):
                desk.ledger.want(key, watcher)
        desk.carried = desk.ledger.keys()

    async def keep(self, connection: Connection) -> None:
        """Make the server of `connection` have what is wanted, and keep it so; runs until it is cancelled."""
        self._begin(connection)
        timeout = self._policy.timeout.request
        replay = Replay(self._desk, connection, timeout, self._classifier, self._hub, handler=self._handler)
        try:
            async with anyio.create_task_group() as tg:
                await replay.run(tg)
        finally:
            self._desk.tell_done()

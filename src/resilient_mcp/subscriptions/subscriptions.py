"""The subscriptions of a client, across all its connections: what the user and watchers want.

A wish is recorded immediately and needs no server: what is wanted is put in force on every later connection, what was
withdrawn is not. A replay, which runs in the background on each connection, does that.
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

# The capability that each kind of key needs, up to 2025-11-25.
_NEEDED: dict[type[Key], str] = {Resource: "resources.subscribe", LogLevel: "logging"}


class Subscriptions:
    """The subscriptions of one client.

    Args:
        policy: The server's policy.
        hub: Receives events.
        classifier: Decides whether a failure means that the connection is lost.
        current: Returns the connection that takes calls, or None.
        is_free: Whether the circuit is not in the way of calls.
        handler: Called with every message, and with an update of each resource that may have been missed.
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
        """The session's `message_handler`: notifies watchers, then calls the user's handler.

        What the user's handler raises is logged: letting it out would end a 1.x session.
        """
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
        """Call `on_change` whenever the server's list of tools changed, or may have changed."""
        self._desk.watchers[Feed(on_change)] = None

    # --- what the user asks for ---

    async def change(
        self,
        key: Resource | LogLevel,
        value: Value | None,
        invoke: Callable[[Session], Awaitable[Any]],
        run: Callable[[Invoke, float], Awaitable[Any]],
    ) -> EmptyResult:
        """Record or withdraw a wish of the user, and send it to the server.

        If there is nothing to send now, a withdrawal only updates the ledger; the replay does the rest.

        Args:
            key: What to change.
            value: The wanted value; None to withdraw the wish.
            invoke: Sends the request.
            run: Runs that like any operation; takes the time at which it was made, on the event loop's clock.

        Raises:
            DeadlineExceeded: Another request about the same key did not finish in time.
            ResilienceError: As raised by `run`; not for a withdrawal that could not be sent now.
            MCPError: The server refused it; the previous wish is restored.
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
                desk.tell()  # the replay does the rest
                return EmptyResult()
        generation = 0

        async def marked(session: Session, _progress: Any) -> Any:
            nonlocal generation
            # Found out per attempt: a retry may run on a later connection than the first attempt.
            generation = self._generation_of(session)
            ledger.sending(generation, key, value)
            result = await invoke(session)
            if ledger.settled(generation, key, value, clock.now()):
                desk.proven.add(_NEEDED[type(key)])  # servers built with SDK 1.x never declare it
                desk.missed(key)
            return result

        began, limit = loop_time(), min(self._policy.timeout.request, self._policy.timeout.total)
        # The limit covers the wait for the lock only; the request itself has the deadlines of any operation.
        with anyio.CancelScope(deadline=began + limit) as turn:
            async with desk.alone(key):
                turn.deadline = math.inf
                try:
                    return cast("EmptyResult", await run(marked, began))
                except ResilienceError as error:
                    if value is None and isinstance(error, ServerUnavailable | CircuitOpen | RateLimitExceeded):
                        return EmptyResult()  # withdrawn all the same: the replay sends it once the server is back
                    if error.verdict is not None and error.verdict.category is Category.PERMANENT:
                        self._refused(generation, key, value, before)
                    raise
                except Exception:  # the server's own error, or the SDK's about a wrong argument
                    self._refused(generation, key, value, before)
                    raise
        text = (
            f"{key} on MCP server {self._hub.server!r} was not sent: another request about the same took longer than "
            f"{limit:g} s. Try again later."
        )
        raise DeadlineExceeded(text, advice=text, elapsed=limit, server=self._hub.server, operation=str(key))

    def _refused(self, generation: int, key: Key, value: Value | None, before: Value | None) -> None:
        """Restore the previous wish after a refusal, unless a newer one replaced it meanwhile."""
        ledger = self._desk.ledger
        self._desk.failed(generation, key, None, gone=True)
        if value is not None and ledger.wanted(key) == value:
            ledger.release(key, USER)
            if before is not None:
                ledger.want(key, USER, before)

    def _generation_of(self, session: Session) -> int:
        """The generation that `session` belongs to; 0 if its connection is no longer current."""
        connection = self._current()
        if connection is None or connection.session is not session:
            return 0
        self._begin(connection)
        return connection.generation

    # --- watchers ---

    @asynccontextmanager
    async def watching(self, watcher: Watcher) -> AsyncIterator[None]:
        """Subscribe `watcher` to what it watches for the length of the context.

        Entering waits until the subscriptions are in force, up to `timeout.ready`. Without a connection it does not
        wait: they will be in force on the next one.

        Raises:
            MCPError: The server refused a subscription.
            ResilienceError: The server does not declare a capability that is needed, or a `ListenWatcher` was not
                acknowledged in time.
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
        """Wait until all of `keys` are in force. Unless `patient`, network failures are left to the replay."""
        desk, left = self._desk, list(keys)
        while patient or connection.reason is None:
            done = desk.done  # taken before looking, so that no `tell_done` is missed
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
        """The client is closed: end all watchers."""
        self._closed = True
        for watcher in list(self._desk.watchers):
            watcher.end()

    # --- connections ---

    def _begin(self, connection: Connection) -> None:
        """Reset the ledger for a new connection. Idempotent, as a caller may see the connection before `keep` does."""
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
        """Put what is wanted in force on `connection`, and keep it so, until cancelled."""
        self._begin(connection)
        timeout = self._policy.timeout.request
        replay = Replay(self._desk, connection, timeout, self._classifier, self._hub, handler=self._handler)
        try:
            async with anyio.create_task_group() as tg:
                await replay.run(tg)
        finally:
            self._desk.tell_done()  # wakes `_in_force`, which must not wait for a lost connection

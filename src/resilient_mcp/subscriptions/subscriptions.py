"""The subscriptions of a client, across all its connections: what the user and the watchers want.

A wish is recorded immediately and needs no server: what is wanted is put in force on every later connection, what was
withdrawn is not. A replay does that, in the background, on each connection.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
from mcp.types import EmptyResult

from .._sdk.requests import Request
from .._sdk.results import change_in
from .._sdk.session import Progress, Session
from ..connection.generation import Connection
from ..errors import CircuitOpen, DeadlineExceeded, RateLimitExceeded, ResilienceError, ServerUnavailable
from ..event_loop import clock, loop_time
from ..foreign_code import awaiting
from ..observability.hub import Hub
from ..policy import Policy
from ..verdicts.classifier import Classifier
from ..verdicts.verdict import Category
from .ledger import Key, Listen, LogLevel, Resource, Value
from .replay import STREAM_PATIENCE, USER, Replay, SubscriptionState, is_refusal
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
        is_free: Returns whether no call has to wait for the circuit.
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
        self._state = SubscriptionState()
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
            for watcher in list(self._state.watchers):
                watcher.notify(kind, uri)
        with awaiting("message_handler", self._hub.log_exception):
            await self._handler(message)

    def feed(self, on_change: Callable[[], object]) -> None:
        """Call `on_change` whenever the server's list of tools changed, or may have changed."""
        self._state.watchers[Feed(on_change)] = None

    # --- what the user asks for ---

    async def change(
        self,
        key: Resource | LogLevel,
        value: Value | None,
        request: Request[EmptyResult],
        run: Callable[[Request[EmptyResult], float], Awaitable[EmptyResult]],
    ) -> EmptyResult:
        """Record or withdraw a wish of the user, and send it to the server.

        If there is nothing to send now, a withdrawal only updates the ledger; the replay does the rest.

        Args:
            key: What to change.
            value: The wanted value; None to withdraw the wish.
            request: The request to send for it.
            run: Runs a request like any operation; takes the time at which it was made, on the event loop's clock.

        Raises:
            DeadlineExceeded: Another request about the same key did not finish in time.
            ResilienceError: As raised by `run`; not for a withdrawal that could not be sent now.
            MCPError: The server refused it; the previous wish is restored.
        """
        state, ledger = self._state, self._state.ledger
        if (connection := self._current()) is not None:
            self._begin(connection)
        before: Value | None = None
        if value is not None:
            before = ledger.want(key, USER, value)
        else:
            state.release(key, USER)
            if ledger.desired(key) is not None or connection is None or not self._is_free():
                state.work.notify()  # the replay does the rest
                return EmptyResult()
        recorded = _Recorded(self, key, value, request)
        began, limit = loop_time(), min(self._policy.timeout.request, self._policy.timeout.total)
        # The limit covers the wait for the lock only; the request itself has the deadlines of any operation.
        with anyio.CancelScope(deadline=began + limit) as turn:
            async with state.alone(key):
                turn.deadline = math.inf
                try:
                    return await run(recorded, began)
                except ResilienceError as error:
                    if value is None and isinstance(error, ServerUnavailable | CircuitOpen | RateLimitExceeded):
                        return EmptyResult()  # withdrawn all the same: the replay sends it once the server is back
                    if error.verdict is not None and error.verdict.category is Category.PERMANENT:
                        self._refused(recorded, before)
                    raise
                except Exception:  # the server's own error, or the SDK's about a wrong argument
                    self._refused(recorded, before)
                    raise
        text = (
            f"{key} on MCP server {self._hub.server!r} was not sent: another request about the same took longer than "
            f"{limit:g} s. Try again later."
        )
        raise DeadlineExceeded(text, elapsed=limit, server=self._hub.server, operation=str(key))

    def sending(self, session: Session, key: Key, value: Value | None) -> int:
        """Record that a request to make `key` be `value` is about to be sent on `session`.

        Returns:
            The generation of the session; 0 if its connection is no longer current.
        """
        connection = self._current()
        generation = 0
        if connection is not None and connection.session is session:
            self._begin(connection)
            generation = connection.generation
        self._state.ledger.sending(generation, key, value)
        return generation

    def settled(self, generation: int, key: Resource | LogLevel, value: Value | None) -> None:
        """Record the server's answer: `key` is `value`."""
        state = self._state
        if state.ledger.settled(generation, key, value, clock.now()):
            state.proven.add(_NEEDED[type(key)])  # servers built with SDK 1.x never declare it
            state.missed(key)

    def _refused(self, recorded: _Recorded, before: Value | None) -> None:
        """Restore the previous wish after a refusal, unless a newer one replaced it meanwhile."""
        ledger, key, value = self._state.ledger, recorded.key, recorded.value
        self._state.failed(recorded.generation, key, None, gone=True)
        if value is not None and ledger.desired(key) == value:
            self._state.release(key, USER)
            if before is not None:
                ledger.want(key, USER, before)

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
        self._state.watchers[watcher] = None
        try:
            if self._closed:
                watcher.end()
            elif connection is not None:
                await self._enter(watcher, connection)
            watcher.entered = True
            yield
        finally:
            watcher.end()
            self._state.watchers.pop(watcher, None)
            for key in [*watcher.keys(legacy=True), *watcher.keys(legacy=False)]:
                self._state.release(key, watcher)
            self._state.work.notify()

    async def _enter(self, watcher: Watcher, connection: Connection) -> None:
        state, name = self._state, self._hub.server
        patient = isinstance(watcher, ListenWatcher)
        if not patient:
            self._check_offered(watcher, connection)
        keys = watcher.keys(legacy=connection.session.is_legacy)
        for key in keys:
            state.failures.pop(key, None)
            state.ledger.want(key, watcher)
        state.work.notify()
        with anyio.move_on_after(self._policy.timeout.ready):
            with anyio.move_on_after(STREAM_PATIENCE):
                await connection.notifications_ready.wait()
            await self._in_force(keys, connection, patient=patient)
            for key in keys:
                if (stream := state.opened.get(key)) is not None:
                    watcher.opened(stream)
            return
        if patient:
            text = f"MCP server {name!r} did not acknowledge subscriptions/listen in time."
            raise ServerUnavailable(text, server=name, operation="subscriptions/listen")

    def _check_offered(self, watcher: Watcher, connection: Connection) -> None:
        lacking = [path for path in watcher.capabilities() if not connection.session.offers(path)]
        if lacking:
            name = self._hub.server
            text = f"MCP server {name!r} does not declare {' and '.join(lacking)}: watch() would never see a change."
            raise ResilienceError(text, server=name, operation="watch")

    async def _in_force(self, keys: list[Key], connection: Connection, *, patient: bool) -> None:
        """Wait until all of `keys` are in force. Unless `patient`, network failures are left to the replay."""
        state, left = self._state, list(keys)
        while patient or connection.reason is None:
            done = state.done.upcoming  # taken before looking, so that nothing is missed
            failures = [state.failures[key] for key in left if key in state.failures] if state.failures else []
            for failed in failures:
                if failed.cause is not None and is_refusal(failed):
                    raise failed.cause
            while left and state.ledger.is_active(left[-1]):
                left.pop()
            if not left or (failures and not patient):
                return
            await done.wait()

    def close(self) -> None:
        """The client is closed: end all watchers."""
        self._closed = True
        for watcher in list(self._state.watchers):
            watcher.end()

    # --- connections ---

    def _begin(self, connection: Connection) -> None:
        """Reset the ledger for a new connection. Idempotent, as a caller may see the connection before `keep` does."""
        state, session = self._state, connection.session
        legacy = session.is_legacy

        def offered(key: Key) -> bool:
            if isinstance(key, Listen):
                asked = any(isinstance(holder, ListenWatcher) for holder in state.ledger.holders(key))
                return not legacy and (asked or any(map(session.offers, key.capabilities())))
            needed = _NEEDED[type(key)]
            return legacy and (needed in state.proven or session.offers(needed))

        if not state.ledger.begin(connection.generation, offered):
            return
        state.failures.clear()
        state.opened.clear()
        for watcher in state.watchers:
            for key in watcher.keys(legacy=not legacy):
                state.ledger.release(key, watcher)
            for key in watcher.keys(legacy=legacy):
                state.ledger.want(key, watcher)
        state.carried = state.ledger.keys()

    async def keep(self, connection: Connection) -> None:
        """Put what is wanted in force on `connection`, and keep it so, until cancelled."""
        self._begin(connection)
        timeout = self._policy.timeout.request
        replay = Replay(self._state, connection, timeout, self._classifier, self._hub, handler=self._handler)
        try:
            async with anyio.create_task_group() as tg:
                await replay.run(tg)
        finally:
            self._state.done.notify()  # wakes `_in_force`, which must not wait for a lost connection


@dataclass(eq=False)
class _Recorded:
    """A user's request that records itself in the ledger.

    While it is in flight, it is unknown what is in force; its answer settles that.

    Attributes:
        subscriptions: The owner of the ledger.
        key: What to change.
        value: The wanted value, or None.
        request: The request to send.
        generation: The connection on which it was sent last; 0 if that is no longer current.
    """

    subscriptions: Subscriptions
    key: Resource | LogLevel
    value: Value | None
    request: Request[EmptyResult]
    generation: int = 0

    @property
    def method(self) -> str:
        """The JSON-RPC method."""
        return self.request.method

    @property
    def target(self) -> str | None:
        """The resource, or None."""
        return self.request.target

    @property
    def arguments(self) -> None:
        """A tool's arguments: it has none."""

    async def perform(self, session: Session, progress: Progress | None) -> EmptyResult:
        # Per attempt: a retry may run on a later connection than the first attempt.
        self.generation = self.subscriptions.sending(session, self.key, self.value)
        result = await self.request.perform(session, progress)
        self.subscriptions.settled(self.generation, self.key, self.value)
        return result

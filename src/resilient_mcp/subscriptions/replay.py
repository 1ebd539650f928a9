"""The replay: puts what the ledger wants into force on one connection, in the background, and keeps it in force.

Failures are retried with back-off for as long as the connection lives. What was restored, and where changes may have
been missed, is reported. Each connection has a replay of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc

from .._sdk.installed import METHOD_NOT_FOUND, MCPError, is_connection_closed
from .._sdk.requests import Request, SessionMethod, SetSubscribed
from .._sdk.results import change_of_event, resource_updated
from .._sdk.session import open_listen
from ..connection.generation import Connection
from ..event_loop import Signal, clock, start_in
from ..events import Restored
from ..evidence import Delivery, Evidence, FailureKind
from ..foreign_code import awaiting
from ..in_flight import Attempt, current_attempt
from ..observability.hub import Hub, logger
from ..text.printable import printable
from ..verdicts.classifier import Classifier
from ..verdicts.verdict import AttemptError, Failure
from .ledger import Key, Ledger, Listen, Resource, Value
from .watcher import Watcher

# Maximum number of concurrent requests of one replay, so that calls are not crowded out.
AT_ONCE = 32
# Seconds to wait for the server's notification stream (GET) before subscribing anyway.
STREAM_PATIENCE = 2.0
# The holder of wishes made through `subscribe_resource` and `set_logging_level`.
USER = "user"


class SubscriptionState:
    """Subscription state shared by the replays of all connections and the user's own requests.

    Attributes:
        ledger: What is wanted and what is in force.
        watchers: The watchers to notify of changes, in order.
        failures: The last failure of each wanted key that is not in force on the newest connection.
        carried: What was wanted before the newest connection was made.
        opened: The SDK's newest stream of each filter.
        proven: Capabilities that the server has proven by an answer, whatever it declares.
        work: Notified when there may be work.
        done: Notified when some of it is done.
    """

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.watchers: dict[Watcher, None] = {}
        self.failures: dict[Key, AttemptError] = {}
        self.carried: set[Key] = set()
        self.opened: dict[Key, Any] = {}
        self.proven: set[str] = set()
        self.work = Signal()
        self.done = Signal()
        self._locks: dict[Key, tuple[anyio.Lock, int]] = {}

    def release(self, key: Key, holder: object) -> None:
        """Record that `holder` no longer wants `key`; if nobody does, forget why it failed."""
        self.ledger.release(key, holder)
        if self.ledger.desired(key) is None:
            self.failures.pop(key, None)

    def is_busy(self, key: Key) -> bool:
        """Whether a request about `key` is in progress or queued."""
        return key in self._locks

    @asynccontextmanager
    async def alone(self, key: Key) -> AsyncIterator[None]:
        """Serialize requests about `key`: two on the wire could overtake each other, and the older one would win."""
        lock, users = self._locks.get(key) or (anyio.Lock(), 0)
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1
            # Only then: otherwise each of hundreds of keys would make the replay look at all of them.
            if self.ledger.needs_request(key):
                self.work.notify()
            self.done.notify()

    def missed(self, key: Key) -> None:
        """Report to its watchers that changes of `key` may have been missed."""
        for watcher in list(self.watchers):
            if isinstance(key, Resource) or watcher.filter == key:
                watcher.missed(key)

    def failed(self, generation: int, key: Key, failure: AttemptError | None, *, gone: bool) -> None:
        """A request about `key` failed, or what was in force ended.

        Args:
            generation: The connection on which that happened.
            key: What failed.
            failure: Why, or None.
            gone: As for `Ledger.failed`.
        """
        chance = random.random()  # noqa: S311 - jitter, not a secret
        unknown = failure is not None and _is_unknown(failure)
        self.ledger.failed(generation, key, clock.now(), chance, gone=gone, unknown=unknown)
        is_current = generation == self.ledger.generation
        if failure is not None and is_current and self.ledger.desired(key) is not None:
            self.failures[key] = failure
        self.work.notify()
        self.done.notify()


class Replay:
    """The replay of one connection.

    Args:
        state: The shared state.
        connection: The connection.
        timeout: Time limit of one request in seconds.
        classifier: Decides whether a failure means that the connection is lost.
        hub: Receives events.
        handler: Called with an update of each resource that the user subscribed to, whose changes may have been missed.
    """

    def __init__(
        self,
        state: SubscriptionState,
        connection: Connection,
        timeout: float,
        classifier: Classifier,
        hub: Hub,
        *,
        handler: Callable[[Any], Awaitable[None]],
    ) -> None:
        self._state = state
        self._ledger = state.ledger
        self._connection = connection
        self._generation = connection.generation
        self._timeout = timeout
        self._classifier = classifier
        self._hub = hub
        self._handler = handler
        self._handler_turn = anyio.Lock()
        self._turns = anyio.Semaphore(AT_ONCE)
        self._working: set[Key] = set()
        self._watchers = list(state.watchers)
        self._first: set[Key] | None = None
        self._restored: list[Key] = []
        self._streams: dict[Key, anyio.CancelScope] = {}

    async def run(self, tg: anyio.abc.TaskGroup) -> None:
        """Work until cancelled, in tasks of `tg`."""
        connection, ledger, state = self._connection, self._ledger, self._state
        connection.on_gap = lambda: self._after_gap(tg)
        # Subscribe only once notifications can arrive: an update sent before the stream is open would be lost.
        with anyio.move_on_after(STREAM_PATIENCE):
            await connection.notifications_ready.wait()
        if connection.session.is_legacy:
            for watcher in self._watchers:
                if not watcher.internal:  # the catalog lists the tools on each connection anyway
                    watcher.missed_lists()
        # The first round restores what earlier connections had; one `Restored` event reports it when all of it is done.
        self._first = state.carried.intersection(ledger.due(clock.now()))
        self._report_first()  # if nothing is due, what the server does not offer is still reported
        while True:
            # Taken before looking, so that no notification is missed.
            work, now = state.work.upcoming, clock.now()
            for key in ledger.due(now):
                # A busy key has a user's request in progress; `alone` notifies `work` when that ends.
                if key not in self._working and not state.is_busy(key):
                    self._working.add(key)
                    tg.start_soon(self._settle, key, tg)
            await clock.wait(work, ledger.next_due(now) - now)

    # --- one part ---

    async def _settle(self, key: Key, tg: anyio.abc.TaskGroup) -> None:
        """Bring `key` into the state that is wanted, in one attempt."""
        try:
            async with self._state.alone(key), self._turns:
                if self._ledger.needs_request(key):  # again, as it may have changed while this task waited its turn
                    await self._try(key, tg)
        finally:
            self._working.discard(key)
        if self._first is not None:
            self._first.discard(key)
            self._report_first()
        # It failed, or the wish changed during the request. The loop skipped the key meanwhile, so make it look again.
        if self._ledger.needs_request(key):
            self._state.work.notify()

    async def _try(self, key: Key, tg: anyio.abc.TaskGroup) -> None:
        """Send one request for `key` and record its outcome in the ledger."""
        state, ledger = self._state, self._ledger
        # The value as of now: the wish may change during the request, and the outcome is about what was sent.
        value = ledger.desired(key)
        ledger.sending(self._generation, key, value)
        try:
            await self._ask(key, value, tg)
        except AttemptError as failed:
            gone = is_refusal(failed) or isinstance(key, Listen)  # a stream that did not open is certainly gone
            state.failed(self._generation, key, failed, gone=gone)
            self._judge(key, failed)
        else:
            came = ledger.settled(self._generation, key, value, clock.now())
            self._came(key, tg) if came else state.failures.pop(key, None)

    async def _ask(self, key: Key, value: Value | None, tg: anyio.abc.TaskGroup) -> None:
        """Send the request that sets `key` to `value`, or open or close its stream.

        Raises:
            AttemptError: The request failed.
        """
        if isinstance(key, Listen):
            if value is None:
                if (stream := self._streams.pop(key, None)) is not None:
                    stream.cancel()
            else:
                # The stream outlives this request, in a task of its own; `start_in` returns once it is acknowledged.
                failed: AttemptError | None = await start_in(tg, self._listen, key)
                if failed is not None:
                    raise failed
            return

        request: Request[Any]
        if isinstance(key, Resource):
            request = SetSubscribed(key.uri, subscribed=value is not None)
        else:
            request = SessionMethod("logging/setLevel", "set_logging_level", (value,))
        await self._connection.call(request, timeout=self._timeout)

    def _judge(self, key: Key, failed: AttemptError) -> None:
        """End the connection if the failure says so; else, in the first round, report changes as possibly missed."""
        failure = Failure(str(key).partition(" ")[0], None, failed.cause, failed.evidence)
        verdict = self._classifier.judge(failure, now=time.time())
        logger.debug("%s could not be restored: %s", printable(str(key), 200), verdict)
        if verdict.reconnect and failed.evidence is not None:
            self._connection.lose(failed.evidence)
        elif self._is_first(key):
            self._state.missed(key)

    def _came(self, key: Key, tg: anyio.abc.TaskGroup) -> None:
        """`key` came into force: report that earlier changes may have been missed, and that it is restored."""
        had_failed = self._state.failures.pop(key, None) is not None
        if had_failed or self._is_shown(key):
            self._state.missed(key)
        self._tell_handler([key], tg)
        if self._is_first(key):
            self._restored.append(key)
        elif had_failed and self._is_shown(key):
            self._emit([key], [])

    def _after_gap(self, tg: anyio.abc.TaskGroup) -> None:
        """The notification stream was interrupted: any notification may have been missed."""
        if self._connection.reason is None and self._connection.session.is_legacy:
            for watcher in list(self._state.watchers):
                watcher.missed()
            self._tell_handler([key for key in self._ledger.active() if isinstance(key, Resource)], tg)

    # --- reporting ---

    def _tell_handler(self, keys: list[Key], tg: anyio.abc.TaskGroup) -> None:
        """Call the user's `message_handler` with an update of each of `keys` that the user subscribed to."""
        for key in keys:
            if isinstance(key, Resource) and USER in self._ledger.holders(key):
                tg.start_soon(self._update_handler, key.uri)

    async def _update_handler(self, uri: str) -> None:
        async with self._handler_turn:  # SDK 1.x never calls a handler concurrently, so neither do we
            with awaiting("message_handler", self._hub.log_exception):
                await self._handler(resource_updated(uri))

    def _is_first(self, key: Key) -> bool:
        return self._first is not None and key in self._first

    def _report_first(self) -> None:
        """Emit `Restored` for the first round, once its last key is done."""
        if self._first or self._connection.reason is not None:
            return
        self._first = None
        failed = [*self._state.failures, *self._ledger.unsupported()]
        restored = [key for key in self._restored if self._is_shown(key)]
        failed = [key for key in failed if key in self._state.carried and self._is_shown(key)]
        if restored or failed:
            self._emit(restored, failed)

    def _is_shown(self, key: Key) -> bool:
        return any(not (isinstance(holder, Watcher) and holder.internal) for holder in self._ledger.holders(key))

    def _emit(self, restored: list[Key], failed: list[Key]) -> None:
        self._hub.emit(
            Restored(
                server=self._hub.server,
                generation=self._generation,
                restored=tuple(printable(str(key), 200) for key in restored),
                failed=tuple(printable(str(key), 200) for key in failed),
            )
        )

    # --- a listen stream ---

    async def _listen(self, key: Listen, *, task_status: anyio.abc.TaskStatus[AttemptError | None]) -> None:
        """Hold one `subscriptions/listen` stream to its end; `task_status` reports its acknowledgement or failure."""
        attempt = Attempt(anyio.CancelScope())
        manager = open_listen(
            self._connection.session,
            resource_subscriptions=key.resources,
            tools_list_changed=key.tools,
            prompts_list_changed=key.prompts,
            resources_list_changed=key.resource_list,
        )
        token = current_attempt.set(attempt)  # the transport records its evidence about the request here
        try:
            # Entered by hand, as the time limit and the attempt cover the acknowledgement only, not the stream's life.
            with anyio.fail_after(self._timeout):
                stream = await manager.__aenter__()
        except Exception as exc:
            failed = AttemptError(exc, await self._seen(exc, attempt))
            self._leave(attempt)
            task_status.started(failed)
            return
        finally:
            current_attempt.reset(token)
        ended: Exception | None = None
        with anyio.CancelScope() as scope:
            self._streams[key] = scope
            self._state.opened[key] = stream
            for watcher in self._state.watchers:
                if watcher.filter == key:
                    watcher.opened(stream)
            task_status.started(None)
            try:
                async for event in stream:
                    for watcher in list(self._state.watchers):
                        if watcher.filter == key:
                            watcher.notify(*change_of_event(event))
            except Exception as exc:
                ended = exc
            finally:
                await manager.__aexit__(None, None, None)
                self._leave(attempt)
            if self._state.opened.get(key) is stream:
                del self._state.opened[key]
        # `_ask` removes the scope before it cancels it: if it is still here, the server or the network ended it.
        if self._streams.get(key) is scope:
            del self._streams[key]
            evidence = attempt.evidence or Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "the listen stream ended")
            self._state.failed(self._generation, key, AttemptError(ended, evidence), gone=True)

    async def _seen(self, exc: Exception, attempt: Attempt) -> Evidence | None:
        """The evidence about a stream that was not acknowledged; None if the server refused it."""
        if attempt.evidence is not None:
            return attempt.evidence
        if attempt.answered or not isinstance(exc, MCPError | TimeoutError | RuntimeError):
            return None
        if is_connection_closed(exc):
            return await self._connection.why_closed()
        kind = FailureKind.TIMEOUT if isinstance(exc, TimeoutError) else FailureKind.CLOSED
        return Evidence(kind, Delivery.UNKNOWN, printable(str(exc)) or "no acknowledgement in time")

    def _leave(self, attempt: Attempt) -> None:
        """Forget the attempt of a stream that is over.

        It is marked as answered: an unanswered request would be aborted, though the SDK itself has ended this one.
        """
        attempt.answered = True
        self._connection.in_flight.forget(attempt)


def _is_unknown(failed: AttemptError) -> bool:
    """Whether the server itself answered that it does not know the method."""
    cause = failed.cause
    return is_refusal(failed) and isinstance(cause, MCPError) and cause.error.code == METHOD_NOT_FOUND


def is_refusal(failed: AttemptError) -> bool:
    """Whether the server itself refused the request, as opposed to a network failure."""
    if failed.evidence is None:
        return isinstance(failed.cause, MCPError)
    return failed.evidence.own_error

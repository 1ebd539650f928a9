"""Attempts and the requests that they have on the wire: how far each got, and how much time is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeAlias

import anyio

from .evidence import Delivery, Evidence, FailureKind

RequestId: TypeAlias = str | int


_LOGIN = 1.0
"""Seconds of an auth flow's own steps after which it is taken for a login by a person."""


@dataclass(slots=True, eq=False)
class Attempt:
    """One try of one operation on one connection: what the edges learn about it gathers here.

    Its clock measures the server, so it stops while a person or a callback of the user's is waited for.

    Attributes:
        scope: Ends the attempt; its deadline is the attempt's.
        delivery: How far the attempt is known to have got.
        evidence: What an edge saw of the failure of its latest request, or None.
        ended: How its connection ended while it waited, or None.
        request_id: The JSON-RPC id of its latest request, or None before one was written.
        answered: Whether that request's response came.
        requests: How many requests it has written.
        meta: What each of them carries in its `_meta`, or None.
        paused: Seconds for which its clock stood still.
        login: Set when the auth flow of its latest request is over; None where there is none.
        overtaken: Whether a request was given up while somebody logged in for it.
    """

    scope: anyio.CancelScope
    delivery: Delivery = Delivery.NOT_SENT
    evidence: Evidence | None = None
    ended: Evidence | None = None
    request_id: RequestId | None = None
    answered: bool = False
    requests: int = 0
    meta: dict[str, object] | None = None
    paused: float = 0.0
    login: anyio.Event | None = None
    overtaken: bool = False
    _pauses: int = 0
    _paused_at: float = 0.0
    _left: float = 0.0

    def pause(self) -> None:
        """Stop the clock, until `resume` was called as often."""
        if not self._pauses:
            self._paused_at = anyio.current_time()
            if self.ended is None:
                self._left = self.scope.deadline - self._paused_at
                self.scope.deadline = math.inf
        self._pauses += 1

    def resume(self) -> None:
        """Let the clock go on."""
        self._pauses -= 1
        if not self._pauses:
            now = anyio.current_time()
            self.paused += now - self._paused_at
            if self.ended is None:
                self.scope.deadline = now + self._left

    def restart(self, timeout: float, deadline: float) -> None:
        """The server made progress: its time limit starts again, up to a deadline that does not count the pauses."""
        now = anyio.current_time()
        left = min(deadline + self.paused - now, timeout)
        if self._pauses:
            self._left = left
        elif self.ended is None:
            self.scope.deadline = now + left

    async def login_over(self) -> None:
        """Wait while somebody logs in for an earlier request: the next one would only start another login."""
        if self.login is not None and (self._pauses or self.paused > _LOGIN):
            await self.login.wait()
            self.overtaken = True

    def sending(self, method: str, request_id: RequestId) -> None:  # noqa: ARG002 - the handshake reads the method
        """A request of this attempt is about to be written; an SDK call may consist of several."""
        self.delivery = Delivery.NOT_SENT if self.request_id is None else Delivery.UNKNOWN
        self.requests += 1
        self.request_id = request_id
        self.evidence = None
        self.answered = False

    def fail(self, evidence: Evidence) -> None:
        """End the attempt with `evidence`, unless its answer is already on the way."""
        if not self.answered:
            self.evidence = evidence
            self.scope.cancel()

    def end(self, evidence: Evidence, patience: float) -> None:
        """Its connection ended. An answer that is already on the way has `patience` seconds to arrive.

        How far the request got is not decided here: until the attempt is over, its first byte may still leave.
        """
        self.ended = evidence
        if self.answered:
            self.scope.deadline = min(self.scope.deadline, anyio.current_time() + patience)
        else:
            self.scope.cancel()

    def conclude(self, default: Evidence) -> Evidence:
        """The evidence of an attempt that is over, and of which nothing can leave any more.

        Of the end of a connection only the reason carries over. That another request on it was answered 404 does not
        say that this one was rejected; and of one whose answer was seen and lost it is not known what it did.
        """
        if self.evidence is not None:
            return self.evidence
        delivery = Delivery.NOT_SENT if self.delivery is Delivery.NOT_SENT else Delivery.UNKNOWN
        if self.ended is None:
            return replace(default, delivery=delivery)
        return Evidence(
            FailureKind.CLOSED, delivery, self.ended.detail, exit=self.ended.exit, by_client=self.ended.by_client
        )


current_attempt: ContextVar[Attempt | None] = ContextVar("resilient_mcp_attempt", default=None)
"""The attempt on whose behalf the running task writes: the SDK writes a request in its caller's task."""


_ABANDONED_KEPT = 16_384
"""More calls than are given up at once, say when their connection ends: none may leave that was not sent yet."""


class InFlight:
    """Which attempt a JSON-RPC id on the wire belongs to, on one connection.

    Attributes:
        on_abandoned: Told of each id whose attempt ended before its answer; the HTTP edge aborts its POST.
        heard: Counts what was heard from the server: any bytes of a process, or of a stream that it opened.
        waiting_since: When the server was asked for what it has not answered with a single byte since; None if it was
            heard after the latest request.
        on_message: Called for each JSON-RPC message of the server's own.
        message_at: When the latest of them came.
        arrived: Told of each id that reaches the HTTP edge.
        session_id: The `Mcp-Session-Id` of the connection, printable; None where there is none.
    """

    def __init__(self) -> None:
        self._attempts: dict[RequestId, Attempt] = {}
        self._abandoned: dict[RequestId, None] = {}
        self.on_abandoned: Callable[[RequestId], None] | None = None
        self.heard = 0
        self.waiting_since: float | None = None
        self.on_message: Callable[[], object] | None = None
        self.message_at = -math.inf
        self.arrived: Callable[[object], None] = lambda _: None
        self.session_id: str | None = None

    def sending(self, method: str, request_id: RequestId) -> dict[str, object] | None:
        """Bind `request_id` to the attempt of the running task, just before its request is written.

        Returns:
            What the request is to carry in its `_meta`, or None.
        """
        attempt = current_attempt.get()
        if attempt is None:
            return None
        if attempt.request_id is not None:
            self._attempts.pop(attempt.request_id, None)
        attempt.sending(method, request_id)
        self._attempts[request_id] = attempt
        if self.waiting_since is None:
            self.waiting_since = anyio.current_time()
        return attempt.meta

    def hear(self) -> None:
        """The server said something."""
        self.heard += 1
        self.excuse()

    def excuse(self) -> None:
        """Measure its silence from now on."""
        self.waiting_since = anyio.current_time() if self._attempts else None

    def hear_message(self) -> None:
        """The server said something in JSON-RPC: it is alive, and no gateway stands in for it."""
        self.hear()
        self.message_at = anyio.current_time()
        if self.on_message is not None:
            self.on_message()

    def get(self, request_id: object) -> Attempt | None:
        """The attempt that waits for `request_id`, if any; servers may echo a number as a string."""
        if isinstance(request_id, str) and request_id not in self._attempts and request_id.isdecimal():
            request_id = int(request_id[:18])
        return self._attempts.get(request_id) if isinstance(request_id, str | int) else None

    def sent(self, request_id: object) -> None:
        """From here on the server may have run `request_id`."""
        self.reached(request_id, Delivery.UNKNOWN)

    def reached(self, request_id: object, delivery: Delivery) -> None:
        """How far `request_id` got, by the transport that carries it."""
        if (attempt := self.get(request_id)) is not None:
            attempt.delivery = delivery

    def answered(self, request_id: object) -> None:
        """A response to `request_id` came."""
        if (attempt := self.get(request_id)) is None:
            return
        attempt.answered = True
        if attempt.evidence is None:  # else an edge answers in the server's stead, and knows how far it got
            attempt.delivery = Delivery.ANSWERED
        if attempt.evidence is None or attempt.evidence.own_error:
            self.hear_message()

    def note(self, request_id: object, evidence: Evidence) -> None:
        """Record what an edge saw of `request_id`; the edge itself answers the waiter."""
        if (attempt := self.get(request_id)) is not None:
            attempt.evidence = evidence
            attempt.delivery = evidence.delivery

    def forget(self, attempt: Attempt) -> None:
        """Drop a finished attempt. Its request, if unanswered, must not be sent any more."""
        request_id = attempt.request_id
        if request_id is None or self._attempts.pop(request_id, None) is None or attempt.answered:
            return
        self._abandoned[request_id] = None
        if len(self._abandoned) > _ABANDONED_KEPT:
            del self._abandoned[next(iter(self._abandoned))]
        if self.on_abandoned is not None:
            self.on_abandoned(request_id)

    def is_abandoned(self, request_id: object) -> bool:
        """Whether the attempt of `request_id` ended before its answer."""
        return request_id in self._abandoned

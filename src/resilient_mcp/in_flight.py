"""Attempts and the requests that they have on the wire: how far each got, and how much time is left."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TypeAlias

import anyio

from .bounded import LruDict
from .event_loop import loop_time
from .evidence import Delivery, Evidence, FailureKind

logger = logging.getLogger("resilient_mcp")

RequestId: TypeAlias = str | int


# Seconds spent in an auth flow's own steps after which a person is assumed to be logging in.
_LOGIN = 1.0


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt of an operation on one connection, with what the transports learn about it.

    Its clock measures the server, so it stops while a person or one of the user's callbacks is being waited for.

    Attributes:
        scope: Cancelled to end the attempt; its deadline is the attempt's.
        delivery: How far the attempt is known to have got.
        evidence: Evidence of the failure of its latest request, or None.
        ended: How its connection ended while it was waiting, or None.
        request_id: JSON-RPC id of its latest request, or None before the first.
        answered: Whether that request's response has been seen.
        requests: Number of requests written.
        meta: Added to the `_meta` of each request, or None.
        paused: Total seconds for which its clock was stopped.
        login: Set when the auth flow of its latest request is over; None if there is none.
        overtaken: Whether a request was given up while a person was logging in for it.
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
        """Stop the clock until `resume` has been called as many times."""
        if not self._pauses:
            self._paused_at = anyio.current_time()
            if self.ended is None:
                self._left = self.scope.deadline - self._paused_at
                self.scope.deadline = math.inf
        self._pauses += 1

    def resume(self) -> None:
        """Undo one `pause`; the last one restarts the clock with the time that was left."""
        self._pauses -= 1
        if not self._pauses:
            now = anyio.current_time()
            self.paused += now - self._paused_at
            if self.ended is None:
                self.scope.deadline = now + self._left

    def restart(self, timeout: float, deadline: float) -> None:
        """Start the time limit again after a progress notification.

        Args:
            timeout: The time limit, in seconds.
            deadline: The call's deadline, on the event loop's clock; pauses extend it.
        """
        now = anyio.current_time()
        left = min(deadline + self.paused - now, timeout)
        if self._pauses:
            self._left = left
        elif self.ended is None:
            self.scope.deadline = now + left

    async def login_over(self) -> None:
        """Wait while a person logs in for an earlier request: the next request would only start another login."""
        if self.login is not None and (self._pauses or self.paused > _LOGIN):
            await self.login.wait()
            self.overtaken = True

    def sending(self, method: str, request_id: RequestId) -> None:  # noqa: ARG002 - the handshake reads the method
        """Record that a request of this attempt is about to be written; one SDK call may send several."""
        self.delivery = Delivery.NOT_SENT if self.request_id is None else Delivery.UNKNOWN
        self.requests += 1
        self.request_id = request_id
        self.evidence = None
        self.answered = False

    def fail(self, evidence: Evidence) -> None:
        """End the attempt with `evidence`, unless its answer has already been seen."""
        if not self.answered:
            self.evidence = evidence
            self.scope.cancel()

    def end(self, evidence: Evidence, patience: float) -> None:
        """Record the end of the connection. An answer already seen has `patience` seconds to reach the caller.

        The delivery is not decided here, since the request's first byte may still leave until the attempt is over.
        """
        self.ended = evidence
        if self.answered:
            self.scope.deadline = min(self.scope.deadline, anyio.current_time() + patience)
        else:
            self.scope.cancel()

    def conclude(self, default: Evidence) -> Evidence:
        """The evidence of an attempt that is over, once no byte of it can leave any more.

        Only the reason of the connection's end carries over, not its delivery: a 404 to another request does not prove
        that this one was rejected, and a request whose answer was seen but lost may have run.
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
"""The attempt for which the running task writes: the SDK writes a request in its caller's task."""


# Far more than the calls ever given up together, for example when their connection ends: forgetting one of them could
# let a request leave that its caller no longer waits for.
_ABANDONED_KEPT = 16_384


# Requests of the server that may be open: the session answers each in a task of its own, and a server may send any
# number of them without ever reading an answer.
_SERVER_REQUESTS = 1000


class InFlight:
    """Maps the JSON-RPC ids on one connection to the attempts they belong to, and counts the server's own requests.

    Attributes:
        on_abandoned: Called with each id whose attempt ended before its answer; the HTTP transport aborts its POST.
        heard: How often anything was heard from the server: bytes from its process or on one of its streams.
        waiting_since: Since when the server has been silent although a request is in flight, without the time between
            requests; None if none is.
        on_message: Called for each JSON-RPC message from the server.
        message_at: When the latest of them arrived.
        session_id: The connection's `Mcp-Session-Id`, printable, or None.
    """

    def __init__(self) -> None:
        self._attempts: dict[RequestId, Attempt] = {}
        self._abandoned: LruDict[RequestId, None] = LruDict(_ABANDONED_KEPT)
        self.on_abandoned: Callable[[RequestId], None] | None = None
        self.heard = 0
        self.waiting_since: float | None = None
        self._silent_before = 0.0  # seconds of silence during earlier requests, since it was heard last
        self.on_message: Callable[[], object] | None = None
        self.message_at = -math.inf
        self.session_id: str | None = None
        self._asked: Counter[RequestId] = Counter()  # the server's open requests; it may use an id twice
        self._asked_count = 0
        self._overrun = False

    def asked(self, request_id: RequestId) -> bool:
        """Record a request of the server. Returns False if too many are open: it is not to be answered."""
        if self._asked_count >= _SERVER_REQUESTS:
            if not self._overrun:  # once: there may be a flood of them
                logger.warning("a server has %d unanswered requests: more are dropped", self._asked_count)
                self._overrun = True
            return False
        self._asked[request_id] += 1
        self._asked_count += 1
        return True

    def replied(self, request_id: object) -> None:
        """Record that a request of the server is over: it was answered, or the server cancelled it."""
        if isinstance(request_id, str | int) and request_id in self._asked:
            self._asked_count -= 1
            self._asked[request_id] -= 1
            if not self._asked[request_id]:
                del self._asked[request_id]

    def sending(self, method: str, request_id: RequestId) -> dict[str, object] | None:
        """Bind `request_id` to the running task's attempt, just before the request is written.

        Returns:
            What to add to the request's `_meta`, or None.
        """
        attempt = current_attempt.get()
        if attempt is None:
            return None
        if attempt.request_id is not None:
            self._attempts.pop(attempt.request_id, None)
        attempt.sending(method, request_id)
        self._attempts[request_id] = attempt
        if self.waiting_since is None:
            self.waiting_since = loop_time() - self._silent_before
        return attempt.meta

    def hear(self) -> None:
        """Record a sign of life from the server: any bytes."""
        self.heard += 1
        self.excuse()

    def excuse(self) -> None:
        """Measure the server's silence from now on."""
        self.waiting_since = loop_time() if self._attempts else None
        self._silent_before = 0.0

    def hear_message(self) -> None:
        """Record a JSON-RPC message: the server itself is alive, not just a gateway in front of it."""
        self.hear()
        self.message_at = anyio.current_time()
        if self.on_message is not None:
            self.on_message()

    def get(self, request_id: object) -> Attempt | None:
        """The attempt waiting for `request_id`, if any; servers may echo a numeric id as a string."""
        if isinstance(request_id, str) and request_id not in self._attempts and request_id.isdecimal():
            request_id = int(request_id[:18])
        return self._attempts.get(request_id) if isinstance(request_id, str | int) else None

    def sent(self, request_id: object) -> None:
        """Record that the server may have run `request_id` from now on."""
        self.reached(request_id, Delivery.UNKNOWN)

    def reached(self, request_id: object, delivery: Delivery) -> None:
        """Record how far `request_id` got, as its transport knows it."""
        if (attempt := self.get(request_id)) is not None:
            attempt.delivery = delivery

    def answered(self, request_id: object) -> None:
        """Record a response to `request_id`."""
        if (attempt := self.get(request_id)) is None:
            return
        attempt.answered = True
        if attempt.evidence is None:  # otherwise the transport made up this response, and has set the delivery
            attempt.delivery = Delivery.ANSWERED
        if attempt.evidence is None or attempt.evidence.own_error:
            self.hear_message()

    def note(self, request_id: object, evidence: Evidence) -> None:
        """Record the evidence of `request_id`'s failure; the transport itself then answers the waiting call."""
        if (attempt := self.get(request_id)) is not None:
            attempt.evidence = evidence
            attempt.delivery = evidence.delivery

    def forget(self, attempt: Attempt) -> None:
        """Drop a finished attempt; if its request is unanswered, it must not be sent any more."""
        request_id = attempt.request_id
        if request_id is None or self._attempts.pop(request_id, None) is None:
            return
        if not self._attempts and self.waiting_since is not None:  # while nothing is asked, silence means nothing
            self._silent_before = loop_time() - self.waiting_since
            self.waiting_since = None
        if attempt.answered:
            return
        self._abandoned[request_id] = None
        if self.on_abandoned is not None:
            self.on_abandoned(request_id)

    def is_abandoned(self, request_id: object) -> bool:
        """Whether the attempt of `request_id` ended before its answer."""
        return request_id in self._abandoned

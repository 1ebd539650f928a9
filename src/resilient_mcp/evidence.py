"""What the two edges saw: how far a request got, and how a connection ended.

The SDK flattens failures; the child process and the HTTP client do not. They write down `Evidence` here, and
everything above decides from it. The lowest room of the house: it imports nothing of ours.
"""

from __future__ import annotations

import enum
import math
import re
import signal
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import anyio

RequestId: TypeAlias = str | int

_LOGIN = 1.0
"""Seconds of an auth flow's own steps after which it is taken for a login by a person."""

MAX_DETAIL = 500
"""Characters of text from elsewhere that one message of ours may carry."""

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def printable(text: str, limit: int = MAX_DETAIL) -> str:
    """One printable line of untrusted text: no control characters or terminal escapes, at most `limit` characters."""
    line = " ".join(_CONTROL.sub(" ", text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class Delivery(enum.Enum):
    """How far a request got: the answer to "may the server have run it already?"."""

    NOT_SENT = "not sent"
    """Known by the transport itself: its own connect failed, no pooled connection came free, the write never began."""
    REJECTED = "rejected"
    """Answered with what is never sent for a request that ran: a 4xx other than 408 and 499, a JSON-RPC refusal, an
    unknown session, a response that a gateway only gives before it forwards."""
    UNKNOWN = "unknown"
    """Everything else: the server may have run it."""
    ANSWERED = "answered"
    """The server's own result came back, `isError` or not."""


class Kind(enum.Enum):
    """What sort of thing went wrong."""

    NETWORK = "network"
    TLS = "tls"
    HTTP = "http"
    PROCESS = "process"
    TIMEOUT = "timeout"
    PROTOCOL = "protocol"
    AUTH = "auth"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a server process ended.

    Attributes:
        pid: The process id it had.
        code: Its exit status, or None when a signal ended it.
        signal: The number of the signal that ended it, or None.
        stderr: The last of what it wrote to stderr, at most 64 KiB, as it came.
    """

    pid: int
    code: int | None = None
    signal: int | None = None
    stderr: str = field(default="", repr=False)

    @classmethod
    def from_returncode(cls, pid: int, returncode: int, stderr: str = "") -> ExitStatus:
        """Read `subprocess`'s convention: a negative return code is a signal."""
        if returncode < 0:
            return cls(pid, signal=-returncode, stderr=stderr)
        return cls(pid, code=returncode, stderr=stderr)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit status {self.code}"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an edge saw of one failure.

    Attributes:
        kind: What sort of thing went wrong.
        delivery: How far the request got.
        detail: One printable line for a person; never empty.
        http_status: The HTTP status of the answer, or None.
        body: The beginning of the answer's body as one printable line; empty where it was JSON-RPC.
        overloaded: Whether the answer had the header `x-envoy-overloaded`.
        retry_after: The `Retry-After` header as it came, or None.
        session_id_sent: Whether the request carried an `Mcp-Session-Id`.
        exit: How the server process ended, when it did.
        own_error: Whether a JSON-RPC error of the server's own came with the HTTP status.
        by_client: Whether this client ended the connection itself, which says nothing about the server.
    """

    kind: Kind
    delivery: Delivery
    detail: str
    http_status: int | None = None
    body: str = field(default="", kw_only=True)
    overloaded: bool = field(default=False, kw_only=True)
    retry_after: str | None = None
    session_id_sent: bool = False
    exit: ExitStatus | None = None
    own_error: bool = False
    by_client: bool = False


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
        return Evidence(Kind.CLOSED, delivery, self.ended.detail, exit=self.ended.exit, by_client=self.ended.by_client)


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

"""What the two edges saw: how far a request got, and how a connection ended.

The SDK flattens failures; the child process and the HTTP client do not. They write down `Evidence` here, and
everything above decides from it. The lowest room of the house: it imports nothing of ours.
"""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass, field


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


class FailureKind(enum.Enum):
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

    kind: FailureKind
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

"""Evidence from the transports: how far a request got, and how a connection ended.

The SDK loses the details of a failure; the server process and the HTTP client have them. They record them here as
`Evidence`, on which every other layer bases its decisions. This module imports no other module of the package.
"""

import enum
import signal
from dataclasses import dataclass, field


class Delivery(enum.Enum):
    """How far a request got, and thus whether the server may have run it already."""

    NOT_SENT = "not sent"
    """The transport knows that no byte left: its connect failed, no pooled connection came free, or the write never
    began."""
    REJECTED = "rejected"
    """The answer proves that the request was not run: a 4xx other than 408 and 499, a JSON-RPC refusal, an unknown
    session, or a response that a gateway sends only before it forwards."""
    UNKNOWN = "unknown"
    """Everything else: the server may have run it."""
    ANSWERED = "answered"
    """The server's own result arrived, `isError` or not."""


class FailureKind(enum.Enum):
    """The kind of a failure."""

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
        pid: Its process id.
        code: Its exit status; None if a signal killed it, or if it is not known.
        signal: Number of the signal that killed it, or None. Neither is known if the program ignores SIGCHLD.
        stderr: The end of its stderr output, at most 64 KiB.
    """

    pid: int
    code: int | None = None
    signal: int | None = None
    stderr: str = field(default="", repr=False)

    @classmethod
    def from_returncode(cls, pid: int, returncode: int, stderr: str = "") -> "ExitStatus":
        """Convert a `subprocess` return code, where a negative number is a signal."""
        if returncode < 0:
            return cls(pid, signal=-returncode, stderr=stderr)
        return cls(pid, code=returncode, stderr=stderr)

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit status {'unknown' if self.code is None else self.code}"
        try:
            return f"killed by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"killed by signal {self.signal}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a transport saw of one failure.

    Attributes:
        kind: The kind of failure.
        delivery: How far the request got.
        detail: One printable line for a person; never empty.
        http_status: HTTP status of the response, or None.
        body: Beginning of the response body as one printable line; empty if the body was JSON-RPC.
        overloaded: Whether the response had the header `x-envoy-overloaded`.
        retry_after: The raw `Retry-After` header, or None.
        session_id_sent: Whether the request carried an `Mcp-Session-Id`.
        exit: How the server process ended, or None if it did not.
        own_error: Whether the server's own JSON-RPC error came with the HTTP status.
        by_client: Whether this client ended the connection itself; then it is no evidence about the server.
        not_http: Whether the response was not HTTP, or the connection was closed without one.
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
    not_http: bool = field(default=False, kw_only=True)

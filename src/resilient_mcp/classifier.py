"""Failure and evidence in, verdict out: could another try help, and may the server have run it already?

Two questions, never one. A call is sent again only when the first says yes (`retryable`) and the second allows it:
delivery is `NOT_SENT` or `REJECTED`, or the operation is repeatable. The rules are the tables below (sans-I/O).
"""

from __future__ import annotations

import email.utils
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from . import _sdk
from .errors import describe
from .evidence import Delivery, Evidence, Kind


class Category(enum.Enum):
    """What sort of failure it was, for policies, statistics and people."""

    TRANSIENT = "transient"
    THROTTLED = "throttled"
    TIMEOUT = "timeout"
    SESSION_LOST = "session lost"
    CONNECTION_LOST = "connection lost"
    AUTH = "auth"
    PERMANENT = "permanent"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


RETRYABLE = frozenset(
    {
        Category.TRANSIENT,
        Category.THROTTLED,
        Category.TIMEOUT,
        Category.SESSION_LOST,
        Category.CONNECTION_LOST,
    }
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the classifier says of one failure.

    Attributes:
        category: What sort of failure it was.
        retryable: Whether another try could help.
        delivery: Whether the server may have run it.
        reason: The failure in one printable line.
        retry_after: Seconds the server asked to wait, or None.
        reconnect: Whether the session is lost, so that another try needs the next generation.
    """

    category: Category
    retryable: bool
    delivery: Delivery
    reason: str
    retry_after: float | None = None
    reconnect: bool = False

    @property
    def safe(self) -> bool:
        """Whether the request was provably not run."""
        return self.delivery in {Delivery.NOT_SENT, Delivery.REJECTED}


ERROR_CODES: Mapping[int, tuple[Category, Delivery]] = MappingProxyType(
    {
        -32700: (Category.PERMANENT, Delivery.REJECTED),  # parse error
        -32600: (Category.PERMANENT, Delivery.REJECTED),  # invalid request
        -32601: (Category.PERMANENT, Delivery.REJECTED),  # method not found
        -32602: (Category.PERMANENT, Delivery.REJECTED),  # invalid params
        -32603: (Category.TRANSIENT, Delivery.UNKNOWN),  # internal error
        -32000: (Category.TRANSIENT, Delivery.UNKNOWN),
        -32001: (Category.TRANSIENT, Delivery.UNKNOWN),
        -32002: (Category.PERMANENT, Delivery.REJECTED),  # resource not found
        -32020: (Category.PERMANENT, Delivery.REJECTED),  # HeaderMismatch, 2026-07-28
        -32021: (Category.PERMANENT, Delivery.REJECTED),  # MissingRequiredClientCapability
        -32022: (Category.PERMANENT, Delivery.REJECTED),  # UnsupportedProtocolVersion
        -32042: (Category.PERMANENT, Delivery.REJECTED),  # URL elicitation required
        -32800: (Category.CANCELLED, Delivery.UNKNOWN),
        -32801: (Category.PERMANENT, Delivery.UNKNOWN),  # too large
        -32802: (Category.TRANSIENT, Delivery.UNKNOWN),
    }
)
"""What a JSON-RPC code that the server sent means by default."""

HTTP_STATUS: Mapping[int, tuple[Category, Delivery]] = MappingProxyType(
    {
        401: (Category.AUTH, Delivery.REJECTED),
        403: (Category.AUTH, Delivery.REJECTED),
        408: (Category.TRANSIENT, Delivery.UNKNOWN),
        429: (Category.THROTTLED, Delivery.REJECTED),
        500: (Category.TRANSIENT, Delivery.UNKNOWN),
        502: (Category.TRANSIENT, Delivery.UNKNOWN),
        503: (Category.TRANSIENT, Delivery.REJECTED),
        504: (Category.TRANSIENT, Delivery.UNKNOWN),
    }
)
"""What an HTTP status means; any other 3xx or 4xx is permanent and rejected, any other 5xx transient and unknown."""

_KINDS: Mapping[Kind, Category] = MappingProxyType(
    {
        Kind.NETWORK: Category.TRANSIENT,
        Kind.PROCESS: Category.CONNECTION_LOST,
        Kind.CLOSED: Category.CONNECTION_LOST,
        Kind.TIMEOUT: Category.TIMEOUT,
        Kind.PROTOCOL: Category.PERMANENT,
        Kind.AUTH: Category.AUTH,
    }
)

_SPEAKS_OF_SESSION = re.compile(r"\bsession\b", re.IGNORECASE)
_NOT_FOUND = 404
_BAD_REQUEST = 400
_SERVER_ERROR = 500


def classify(failure: BaseException | None, evidence: Evidence | None, *, now: float) -> Verdict:
    """The verdict on one failed request.

    Args:
        failure: What the SDK raised, or None when only an edge saw it.
        evidence: What an edge saw, or None when the server itself answered with an error.
        now: The wall clock, in seconds since the epoch: `Retry-After` may be a date.
    """
    if evidence is None:
        return _by_code(failure)
    verdict = _by_evidence(failure, evidence, now)
    # What holds for the last request of a call does not hold for those before it.
    return replace(verdict, delivery=Delivery.UNKNOWN) if evidence.earlier and verdict.safe else verdict


def _by_evidence(failure: BaseException | None, evidence: Evidence, now: float) -> Verdict:
    if evidence.http_status is not None:
        return _by_status(failure, evidence, evidence.http_status, now)
    category = _KINDS[evidence.kind]
    reconnect = category is Category.CONNECTION_LOST
    return Verdict(category, category in RETRYABLE, evidence.delivery, evidence.detail, reconnect=reconnect)


def _by_code(failure: BaseException | None) -> Verdict:
    """The server's own JSON-RPC error; an exception that is none came after the answer and is permanent."""
    code = getattr(getattr(failure, "error", None), "code", None)
    reason = describe(failure) if failure is not None else "no answer"
    if code is None:
        return Verdict(Category.PERMANENT, retryable=False, delivery=Delivery.ANSWERED, reason=reason)
    category, delivery = ERROR_CODES.get(code, (Category.UNKNOWN, Delivery.UNKNOWN))
    return Verdict(category, category in RETRYABLE, delivery, f"{reason} ({code})")


def _by_status(failure: BaseException | None, evidence: Evidence, status: int, now: float) -> Verdict:
    if evidence.session_id_sent and _is_session_lost(status, evidence.detail):
        return Verdict(Category.SESSION_LOST, True, Delivery.REJECTED, evidence.detail, reconnect=True)
    retry_after = parse_retry_after(evidence.retry_after, now=now)
    if status in HTTP_STATUS:
        category, delivery = HTTP_STATUS[status]
    elif status >= _SERVER_ERROR:
        category, delivery = Category.TRANSIENT, Delivery.UNKNOWN
    else:
        category, delivery = Category.PERMANENT, Delivery.REJECTED
        code = getattr(getattr(failure, "error", None), "code", None)
        if code is not None and code in ERROR_CODES and code != _sdk.INTERNAL_ERROR:
            category, delivery = ERROR_CODES[code]
    if category is Category.TRANSIENT and retry_after is not None:
        category = Category.THROTTLED
    return Verdict(category, category in RETRYABLE, delivery, evidence.detail, retry_after=retry_after)


def _is_session_lost(status: int, text: str) -> bool:
    """404 by the specification; 400 that speaks of the session, as server-everything answers."""
    return status == _NOT_FOUND or (status == _BAD_REQUEST and bool(_SPEAKS_OF_SESSION.search(text)))


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds from a `Retry-After` header: a number or an HTTP date (RFC 9110, 10.2.3); None when it is neither.

    A date in the past is 0.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:12])
    try:
        when = email.utils.parsedate_to_datetime(text)
        return max(0.0, when.timestamp() - now)
    except (ValueError, OverflowError, OSError):
        return None


_NOT_RUNNABLE = frozenset({126, 127})
"""A shell's exit status for "cannot be executed" and "not found"."""


def is_hopeless(failure: BaseException | None, evidence: Evidence | None) -> bool:
    """Whether a failed try to connect cannot be mended by another: what is wrong must be changed by a person."""
    if evidence is not None:
        if evidence.exit is not None:
            return evidence.exit.code in _NOT_RUNNABLE
        if evidence.http_status is not None:
            return HTTP_STATUS.get(evidence.http_status, (None,))[0] is Category.AUTH
        return evidence.kind is Kind.AUTH
    if isinstance(failure, FileNotFoundError | PermissionError | NotADirectoryError | ValueError):
        return True
    if isinstance(failure, _sdk.MCPError):
        return getattr(failure.error, "code", None) == _sdk.UNSUPPORTED_PROTOCOL_VERSION
    # Both majors raise a bare RuntimeError for a handshake at a version nobody shares.
    return isinstance(failure, RuntimeError) and "protocol version" in str(failure)


def is_outage(evidence: Evidence | None) -> bool:
    """Whether a failed `server/discover` says nothing about the protocol era: the server was not really asked."""
    if evidence is None:
        return False
    if evidence.http_status is None:
        return True
    category = HTTP_STATUS.get(evidence.http_status, (Category.PERMANENT,))[0]
    return evidence.http_status >= _SERVER_ERROR or category is not Category.PERMANENT

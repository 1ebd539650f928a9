"""Turn a failure and its evidence into a verdict: may a retry help, and may the server have run the call already?

These are separate questions. A call is retried only if the first answer is yes (`retryable`) and the second allows it:
the delivery is `NOT_SENT` or `REJECTED`, or the operation is repeatable. The rules are the tables below (sans-I/O);
a policy overrides them per server and per tool, and a user's own classifier takes precedence over both.

A call counts as not run only on proof: the request never left, or it got a response that is never sent for a request
that ran. A 5xx proves nothing, since routers send 503 while the server is still working; the exceptions, with which
Envoy and HAProxy report that nothing was forwarded, are in `gateways`. That a 429 was not run is an assumption. Once
one attempt may have run, the whole call may have run.
"""

from __future__ import annotations

import email.utils
import enum
import errno
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from pydantic import ValidationError

from .._sdk.installed import INTERNAL_ERROR, UNSUPPORTED_PROTOCOL_VERSION, MCPError, data_of
from ..evidence import Delivery, Evidence, FailureKind
from ..foreign_code import calling
from ..policy import Policy
from ..text.printable import describe, printable
from ..text.redact import Redactor
from ..verdicts import tool_errors
from .gateways import not_forwarded_by
from .verdict import RETRYABLE, Category, Failure, Verdict

logger = logging.getLogger("resilient_mcp")

Classify: TypeAlias = Callable[[Failure], Verdict | None]
"""A user's own classifier: returns a verdict, or None to use the tables."""

Rule: TypeAlias = tuple[Category, Delivery]

# What the words of a policy mean. Only "refused", "throttled" and "auth" prove that nothing was run.
_MEANINGS: Mapping[str, Rule] = MappingProxyType(
    {
        "transient": (Category.TRANSIENT, Delivery.UNKNOWN),
        "throttled": (Category.THROTTLED, Delivery.REJECTED),
        "timeout": (Category.TIMEOUT, Delivery.UNKNOWN),
        "auth": (Category.AUTH, Delivery.REJECTED),
        "permanent": (Category.PERMANENT, Delivery.UNKNOWN),
        "cancelled": (Category.CANCELLED, Delivery.UNKNOWN),
        "unknown": (Category.UNKNOWN, Delivery.UNKNOWN),
        "refused": (Category.TRANSIENT, Delivery.REJECTED),
    }
)

ERROR_CODES: Mapping[int, str] = MappingProxyType(
    {
        -32700: "permanent",  # parse error
        -32600: "permanent",  # invalid request
        -32601: "permanent",  # method not found
        -32602: "permanent",  # invalid params
        -32603: "transient",  # internal error
        -32000: "transient",
        -32001: "transient",
        -32002: "permanent",  # resource not found
        -32003: "unknown",
        -32004: "unknown",
        -32005: "unknown",
        -32020: "permanent",  # HeaderMismatch, 2026-07-28
        -32021: "permanent",  # MissingRequiredClientCapability
        -32022: "permanent",  # UnsupportedProtocolVersion
        -32042: "permanent",  # URL elicitation required
        -32800: "cancelled",
        -32801: "permanent",  # too large
        -32802: "transient",
        408: "timeout",
    }
)
"""Default meaning of a JSON-RPC code sent by the server. Any other code is unknown."""

REFUSALS = frozenset({-32700, -32600, -32601, -32602, -32020, -32021, -32022})
"""Codes that prove the server did not run the request: it could not parse, recognize or accept it."""

DIALECTS: Mapping[str, Mapping[int | range, str]] = MappingProxyType(
    {
        "chatforest-resilience": {
            -32001: "permanent",  # tool not found
            -32002: "transient",  # tool execution failed
            -32003: "permanent",  # resource not found
            -32004: "transient",  # resource unavailable
            -32005: "permanent",  # invalid URI
        },
        "chatforest-errors": {
            -32001: "throttled",  # busy
            range(-31999, -30999): "auth",  # -31xxx
            range(-30999, -29999): "permanent",  # -30xxx: resource access
        },
        "mcpcat": {-32603: "permanent"},  # "report bug, don't retry"
    }
)
"""Codes from -32000 to -32019, and some others, differ in meaning between servers; a policy selects the dialect."""


def meaning_of(code: object, policy: Policy, tool: str | None = None) -> tuple[str, str]:
    """The meaning of a JSON-RPC code on this server, for this tool: (meaning, the table that decided)."""
    if not isinstance(code, int):
        return "unknown", "a code that is not an integer"
    if tool is not None and code in (codes := policy.tool(tool).error_codes):
        return codes[code], f"ToolPolicy.error_codes[{code}]"
    if code in policy.error_codes:
        return policy.error_codes[code], f"Policy.error_codes[{code}]"
    if policy.dialect is not None:
        for codes_of_dialect, meaning in DIALECTS[policy.dialect].items():
            if code == codes_of_dialect or (isinstance(codes_of_dialect, range) and code in codes_of_dialect):
                return meaning, f"JSON-RPC code {code} in the dialect {policy.dialect!r}"
    if code in ERROR_CODES:
        return ERROR_CODES[code], f"JSON-RPC code {code}"
    return "unknown", f"JSON-RPC code {code}, which is in no table"


HTTP_STATUS: Mapping[int, str] = MappingProxyType(
    {
        401: "auth",
        403: "auth",
        408: "transient",  # the server gave up waiting, for the request or for an upstream
        429: "throttled",
        499: "transient",  # nginx: the client gave up waiting
    }
)
"""Default meaning of an HTTP status. Any other 3xx or 4xx is permanent, and every 5xx transient."""


def meaning_of_status(status: int, policy: Policy, tool: str | None = None) -> tuple[str, str]:
    """The meaning of an HTTP status on this server, for this tool: (meaning, the table that decided)."""
    if tool is not None and status in (statuses := policy.tool(tool).http_statuses):
        return statuses[status], f"ToolPolicy.http_statuses[{status}]"
    if status in policy.http_statuses:
        return policy.http_statuses[status], f"Policy.http_statuses[{status}]"
    # A 2xx gets here only when its body is not MCP, such as a maintenance page.
    default = "permanent" if _REDIRECT <= status < _SERVER_ERROR else "transient"
    return HTTP_STATUS.get(status, default), f"HTTP {status}"


def _proves_refusal(status: int) -> bool:
    """Whether this status proves that the request was not run (RFC 9110, 15.4.8, 15.4.9 and 15.5)."""
    return status in _SAME_REQUEST_ELSEWHERE or (_BAD_REQUEST <= status < _SERVER_ERROR and status not in _GAVE_UP)


KINDS: Mapping[FailureKind, Category] = MappingProxyType(
    {
        FailureKind.NETWORK: Category.TRANSIENT,
        FailureKind.TLS: Category.TRANSIENT,
        FailureKind.PROCESS: Category.CONNECTION_LOST,
        FailureKind.CLOSED: Category.CONNECTION_LOST,
        FailureKind.TIMEOUT: Category.TIMEOUT,
        FailureKind.PROTOCOL: Category.PERMANENT,
        FailureKind.AUTH: Category.AUTH,
    }
)
"""Category of a failure without an HTTP status; its delivery is the transport's."""

_OWN = "the classifier given to ResilientClient"

_SPEAKS_OF_SESSION = re.compile(r"\bsession\b", re.IGNORECASE)

_SAME_REQUEST_ELSEWHERE = frozenset({307, 308})

_GAVE_UP = frozenset({408, 499})

_NOT_FOUND = 404

_REDIRECT = 300

_BAD_REQUEST = 400

_SERVER_ERROR = 500


class Classifier:
    """Judge the failures of one server.

    Args:
        policy: The server's tables.
        own: The user's classifier, which takes precedence; an exception it raises is logged and treated as None.
        redactor: Removes secrets from verdicts.
    """

    def __init__(self, policy: Policy, own: Classify | None = None, redactor: Redactor | None = None) -> None:
        self._policy = policy
        self._own = own
        self._redactor = redactor or Redactor()

    def judge(self, failure: Failure, *, now: float) -> Verdict:
        """The verdict on one failed attempt.

        Args:
            failure: The failed attempt.
            now: Wall-clock time in seconds since the epoch, since a server may name a date.
        """
        return self._redactor.cleaned(self._judge(failure, now))

    def _judge(self, failure: Failure, now: float) -> Verdict:
        if failure.result is not None:
            return self._by_own(failure) or _by_result(failure.result, now, self._redactor)
        evidence = failure.evidence
        verdict = self._by_own(failure)
        if verdict is None:
            verdict = self._by_code(failure, now) if evidence is None else self._by_evidence(failure, evidence, now)
        if failure.earlier and verdict.safe:  # only the last request of the call is known not to have run
            return replace(verdict, delivery=Delivery.UNKNOWN)
        return verdict

    def _by_own(self, failure: Failure) -> Verdict | None:
        """The verdict of the user's classifier, or None."""
        if self._own is None:
            return None
        try:
            with calling(_OWN):
                verdict = self._own(failure)
                if verdict is not None and not isinstance(verdict, Verdict):
                    raise TypeError(f"it returned a {type(verdict).__name__}, not a Verdict or None")  # noqa: TRY301
        except Exception:
            logger.exception("%s raised on %s", _OWN, failure.method)
            return None
        if verdict is None or verdict.rule:
            return verdict
        return replace(verdict, rule=_OWN)

    def _by_code(self, failure: Failure, now: float) -> Verdict:
        """Judge the server's own JSON-RPC error; any other exception is the SDK's or the caller's, and permanent."""
        reason = describe(failure.error) if failure.error is not None else "no answer"
        code = _code_of(failure.error)
        if code is None:
            rule = "an exception raised by the SDK itself"
            return Verdict(Category.PERMANENT, retryable=False, delivery=failure.delivery, reason=reason, rule=rule)
        meaning, rule = meaning_of(code, self._policy, failure.tool)
        category, delivery = _MEANINGS[meaning]
        if meaning == "permanent" and code in REFUSALS:
            delivery = Delivery.REJECTED
        return Verdict(
            category,
            category in RETRYABLE,
            delivery,
            f"{reason} ({printable(str(code), 24)})",
            rule,
            tool_errors.wait_in(data_of(failure.error), now=now),
            # Usually an unhandled exception in a tool, which the same arguments raise again.
            once=code == INTERNAL_ERROR and rule == f"JSON-RPC code {code}",
        )

    def _by_evidence(self, failure: Failure, evidence: Evidence, now: float) -> Verdict:
        status = evidence.http_status
        if status is None:
            category = KINDS[evidence.kind]
            rule = f"{evidence.kind.value} failure, seen by the client"
            reconnect = category is Category.CONNECTION_LOST
            retryable = category in RETRYABLE
            return Verdict(category, retryable, evidence.delivery, evidence.detail, rule, reconnect=reconnect)
        if is_session_lost(evidence):
            return Verdict(
                Category.SESSION_LOST,
                retryable=True,
                delivery=Delivery.REJECTED,
                reason=evidence.detail,
                rule=f"HTTP {status} in response to a request with a session id",
                reconnect=True,
            )
        meaning, rule = meaning_of_status(status, self._policy, failure.tool)
        refused = _proves_refusal(status)
        code = _code_of(failure.error) if evidence.own_error else None
        if meaning == "permanent" and refused and isinstance(code, int) and code != INTERNAL_ERROR:
            by_code, said = meaning_of(code, self._policy, failure.tool)
            if by_code != "unknown":
                meaning, rule = by_code, f"{rule} with {said}"
                refused = by_code == "permanent"
        category, delivery = _MEANINGS[meaning]
        if meaning == "permanent" and refused:
            delivery = Delivery.REJECTED
        by_default = rule == f"HTTP {status}"  # a policy's meaning of a status also covers gateways
        if by_default and (product := not_forwarded_by(evidence)) is not None:
            delivery, rule = Delivery.REJECTED, f"{rule} from {product}, which did not forward the request"
        retry_after = parse_retry_after(evidence.retry_after, now=now)
        if category is Category.TRANSIENT and retry_after is not None:
            category, rule = Category.THROTTLED, f"{rule} with Retry-After"
        return Verdict(category, category in RETRYABLE, delivery, evidence.detail, rule, retry_after)


def _by_result(result: Any, now: float, redactor: Redactor) -> Verdict:
    """Judge an `isError` result: an answer that may suggest a retry."""
    meaning, wait, rule = tool_errors.read(result, now=now)
    text = next((block.text for block in result.content if getattr(block, "text", None)), "")
    category, _ = _MEANINGS[meaning]
    reason = printable(f"isError: {redactor.line(text)}")
    return Verdict(category, category in RETRYABLE, Delivery.ANSWERED, reason, rule, wait)


def _code_of(error: BaseException | None) -> Any:
    return getattr(getattr(error, "error", None), "code", None)


def is_session_lost(evidence: Evidence) -> bool:
    """Whether the server no longer knows the session: 404 by the specification, or 400 that mentions the session.

    The 400 is what server-everything sends.
    """
    status = evidence.http_status
    speaks_of_it = status == _BAD_REQUEST and bool(_SPEAKS_OF_SESSION.search(evidence.detail))
    return evidence.session_id_sent and (status == _NOT_FOUND or speaks_of_it)


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds from a `Retry-After` header: a number or an HTTP date (RFC 9110, 10.2.3); None if it is neither.

    A date in the past gives 0.
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


# A shell's exit status for "cannot be executed" and "not found".
_NOT_RUNNABLE = frozenset({126, 127})

# Errors with which the operating system refuses to start a program, besides "not found" and "not permitted".
_NOT_STARTABLE = frozenset({errno.ENOEXEC, errno.E2BIG, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR})

# Exceptions that point to a bug in a user's transport factory, not to the network.
_MISTAKES = (TypeError, AttributeError, NameError, ImportError, LookupError, NotImplementedError)


class Prospect(enum.Enum):
    """Whether another connection attempt may succeed after a failed one."""

    OPEN = "open"
    """It may succeed: the server is temporarily unavailable."""
    DOUBTFUL = "doubtful"
    """One more attempt decides: a gateway gives the same response briefly during a deployment, and forever for a
    wrong path."""
    NONE = "none"
    """It cannot succeed until a person changes something."""


def prospect_of(
    failure: BaseException | None, evidence: Evidence | None, policy: Policy, *, known: bool = False
) -> Prospect:
    """Whether another connection attempt may succeed.

    Args:
        failure: What the SDK raised, or None.
        evidence: What the transport saw, or None.
        policy: The server's tables.
        known: Whether this client has been connected to the server before. What worked once may work again, so
            `DOUBTFUL` becomes `OPEN`.
    """
    prospect = _prospect_of(failure, evidence, policy)
    return Prospect.OPEN if known and prospect is Prospect.DOUBTFUL else prospect


def _prospect_of(failure: BaseException | None, evidence: Evidence | None, policy: Policy) -> Prospect:
    if is_version_conflict(failure):
        return Prospect.NONE
    if evidence is not None:
        return _prospect_by_evidence(evidence, policy)
    if isinstance(failure, MCPError):
        return Prospect.DOUBTFUL if _code_of(failure) in REFUSALS else Prospect.OPEN
    if isinstance(failure, ValidationError):  # the answer to the handshake is not MCP
        return Prospect.DOUBTFUL
    if isinstance(failure, OSError):
        never = isinstance(failure, FileNotFoundError | PermissionError | NotADirectoryError)
        return Prospect.NONE if never or failure.errno in _NOT_STARTABLE else Prospect.OPEN
    # ValueError: an environment or argument with which no process can be started.
    return Prospect.NONE if isinstance(failure, (ValueError, *_MISTAKES)) else Prospect.OPEN


def is_version_conflict(failure: BaseException | None) -> bool:
    """Whether client and server have no protocol version in common, according to the server or the SDK."""
    if isinstance(failure, RuntimeError):  # raised by both majors of the SDK
        return "protocol version" in str(failure)
    return bool(_code_of(failure) == UNSUPPORTED_PROTOCOL_VERSION)


def _prospect_by_evidence(evidence: Evidence, policy: Policy) -> Prospect:
    if evidence.kind is FailureKind.AUTH or (evidence.exit is not None and evidence.exit.code in _NOT_RUNNABLE):
        return Prospect.NONE
    if evidence.http_status is not None:
        meaning, _ = meaning_of_status(evidence.http_status, policy)
        if meaning == "auth":
            return Prospect.NONE
        page = evidence.http_status < _REDIRECT  # a web page where an MCP server should answer
        return Prospect.DOUBTFUL if meaning == "permanent" or page else Prospect.OPEN
    return Prospect.DOUBTFUL if evidence.kind in {FailureKind.TLS, FailureKind.PROTOCOL} else Prospect.OPEN


# Evidence of a connection attempt that no server answered.
_NOBODY_THERE = frozenset({FailureKind.TLS, FailureKind.PROCESS, FailureKind.CLOSED})


def is_absent(failure: BaseException | None, evidence: Evidence | None) -> bool:
    """Whether a connection attempt found no server: nothing listens there, or the process exited immediately.

    A connection that was made and then reset does not count: a server or gateway exists but is in trouble.
    """
    if evidence is None:
        return isinstance(failure, OSError)
    if evidence.kind is FailureKind.NETWORK:
        return evidence.delivery is Delivery.NOT_SENT or evidence.not_http
    return evidence.kind in _NOBODY_THERE


def is_outage(evidence: Evidence | None, policy: Policy) -> bool:
    """Whether a failed `server/discover` proves nothing about the protocol era, since no server answered it."""
    if evidence is None:
        return False
    if evidence.http_status is None:
        return True
    return meaning_of_status(evidence.http_status, policy)[0] != "permanent"

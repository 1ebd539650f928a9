"""The evidence in what an HTTP client raised, and in responses that are not a success."""

from __future__ import annotations

import ssl
from typing import Any

import anyio

from ..._sdk.installed import http
from ...evidence import Delivery, Evidence, FailureKind
from ...foreign_code import ForeignCodeError
from ...text.credentials import safe_url
from ...text.redact import Redactor
from ..jsonrpc import Unusable, is_well_formed, parse
from .auth import AuthFlowError
from .bodies import read
from .headers import HeadersError

# Bytes read of an error response: enough for any reasonable JSON-RPC error.
_ERROR_BODY = 64 * 1024

# Statuses of a server, or a gateway in front of it, after which a retry may help.
OUTAGES = frozenset({408, 429, 500, 502, 503, 504})

HTTP_CLIENT = "the HTTP client, its auth or a hook"
"""What may have raised an error that is none of the HTTP library's, as named in messages."""

_OVERLOADED = "x-envoy-overloaded"

# How the HTTP library quotes a TLS alert: the response of a TLS port to plain HTTP.
_TLS_ALERT = r"b'\x15\x03"

# TLS errors that only say that the connection ended during the handshake, as in an outage.
_CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)

# Characters of an unusable answer that are quoted.
_PREVIEW = 200


def preview(body: bytes, redactor: Redactor) -> str:
    """The beginning of an unusable answer, as one line."""
    return redactor.line(body.decode("utf-8", "replace"), _PREVIEW)


async def read_refusal(response: Any, redactor: Redactor) -> tuple[Evidence, dict[str, Any] | None]:
    """The evidence in a response that is not a success, and the server's own JSON-RPC error in it, or None.

    Args:
        response: The response; it is closed.
        redactor: Removes secrets from what is quoted.
    """
    try:
        body, _ = await read(response, _ERROR_BODY)
    except (http.HTTPError, http.StreamError, Unusable):
        body = b""
    message = parse(body)
    error: dict[str, Any] | None = None
    if isinstance(message, dict) and "error" in message and is_well_formed(message):
        error = message["error"]
    quoted = "" if error else preview(body, redactor)
    location = response.headers.get("location")
    if location is not None and response.is_redirect:
        said = f"a redirect to {safe_url(location)}, which was not followed"
    else:
        said = redactor.line(error["message"]) if error else quoted
    retry_after = response.headers.get("retry-after")
    evidence = Evidence(
        FailureKind.HTTP,
        Delivery.UNKNOWN,  # the classifier reads the status
        f"HTTP {response.status_code}" + (f": {said}" if said else ""),
        http_status=response.status_code,
        body=quoted,
        overloaded=response.headers.get(_OVERLOADED) == "true",
        retry_after=None if retry_after is None else redactor.line(retry_after, 80),
        session_id_sent="mcp-session-id" in response.request.headers,
        own_error=error is not None,
    )
    return evidence, error


def evidence_of(exc: Exception, delivery: Delivery, redactor: Redactor) -> Evidence:
    """The evidence in an exception of the HTTP client, its auth flow or a user's hook."""
    name = type(exc).__name__
    text = redactor.line(str(exc) or str(_tls_error(exc) or ""))
    detail = text if isinstance(exc, ForeignCodeError) else f"{name}: {text}" if text else name
    if isinstance(exc, http.HTTPStatusError):
        status = exc.response.status_code
        return Evidence(FailureKind.HTTP, Delivery.UNKNOWN, f"HTTP {status}", http_status=status)
    if isinstance(exc, AuthFlowError) and isinstance(exc.__cause__, Exception):
        return _evidence_of_login(exc.__cause__, exc.delivery, redactor)
    if isinstance(exc, HeadersError):
        return Evidence(FailureKind.NETWORK, Delivery.NOT_SENT, redactor.line(str(exc)))
    if _is_about_auth(exc):
        return Evidence(FailureKind.AUTH, Delivery.REJECTED, detail)
    kind = _kind_of(exc)
    if kind is FailureKind.PROTOCOL and not isinstance(exc, ForeignCodeError):
        detail = f"{HTTP_CLIENT} raised {detail}"
    return Evidence(kind, delivery, detail, not_http=isinstance(exc, http.RemoteProtocolError))


def _evidence_of_login(exc: Exception, delivery: Delivery, redactor: Redactor) -> Evidence:
    """The evidence in what an auth flow raised; after an answer that was not a refusal, the call may have run."""
    if isinstance(exc, http.HTTPError | OSError):  # the authorization server is away, which is no refusal
        return evidence_of(exc, delivery, redactor)
    text = str(exc) if isinstance(exc, ForeignCodeError) else f"auth raised {type(exc).__name__}: {exc}"
    detail = redactor.line(text)
    if delivery is Delivery.UNKNOWN:
        return Evidence(FailureKind.PROTOCOL, delivery, detail)
    return Evidence(FailureKind.AUTH, Delivery.REJECTED, detail)


def _kind_of(exc: Exception) -> FailureKind:
    if isinstance(exc, http.ConnectTimeout | http.PoolTimeout):  # the server is missing rather than slow
        return FailureKind.NETWORK
    if isinstance(exc, http.TimeoutException | TimeoutError):
        return FailureKind.TIMEOUT
    if _is_about_tls(exc):
        return FailureKind.TLS
    if isinstance(exc, http.HTTPError | OSError | anyio.BrokenResourceError | anyio.ClosedResourceError):
        return FailureKind.NETWORK
    return FailureKind.PROTOCOL


def is_about_http(exc: BaseException) -> bool:
    """Whether an exception comes from the HTTP client, the SDK's OAuth flow or the user's headers."""
    return isinstance(exc, http.HTTPError | HeadersError) or _is_about_auth(exc)


def _is_about_auth(exc: BaseException) -> bool:
    """Whether an exception comes from the SDK's OAuth flow."""
    return type(exc).__module__.startswith("mcp.client.auth")


def _is_about_tls(exc: BaseException) -> bool:
    """Whether connecting failed because of TLS: no common version, no TLS at all, or an untrusted certificate."""
    if isinstance(exc, http.RemoteProtocolError):
        return _TLS_ALERT in str(exc)
    return _tls_error(exc) is not None


def _tls_error(exc: BaseException) -> BaseException | None:
    """The TLS error behind a failed connection; on trio the HTTP library leaves its text out."""
    cause: BaseException | None = exc if isinstance(exc, http.ConnectError) else None
    while cause is not None and (not isinstance(cause, ssl.SSLError) or isinstance(cause, _CUT_OFF)):
        cause = cause.__cause__ or cause.__context__
    return cause

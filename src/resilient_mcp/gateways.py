"""Responses by which a gateway says that it forwarded nothing (sans-I/O).

A 5xx is no proof that a request was not run. Heroku's router answers 503 (H12) while the dyno goes on working. Envoy
and Istio answer 503 when their upstream closes the connection after it got the request. nginx has the same page before
and after it forwards (`error_page 502 = @down` with `return 503`). Listed here are the few responses that a product
gives only before it forwards, word for word. A gateway that is configured to send requests again by itself is beyond
this table; Envoy says so in its text, and then none of its rows matches.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .evidence import Evidence


@dataclass(frozen=True, slots=True)
class Gateway:
    """One product.

    Attributes:
        product: Its name.
        status: The HTTP status of these responses.
        body: What their body is, whitespace collapsed.
        source: Where it is written down.
    """

    product: str
    status: int
    body: re.Pattern[str]
    source: str


GATEWAYS = (
    Gateway(
        "Envoy",
        503,
        re.compile(
            r"no healthy upstream"
            r"|upstream connect error or disconnect/reset before headers\. "
            r"reset reason: (?:(?:local |remote )?connection failure|overflow)(?:, .*)?"
        ),
        "envoyproxy/envoy: source/common/router/router.cc (onUpstreamReset, sendNoHealthyUpstreamResponse)",
    ),
    Gateway(
        "HAProxy",
        503,
        re.compile(
            r"<html><body><h1>503 Service Unavailable</h1> "
            r"No server is available to handle this request\. </body></html>"
        ),
        "haproxy/haproxy: src/http.c (http_err_msgs) and the manual, 'errorfile'",
    ),
)
"""One row per product."""

_RETRIED = "retried and the latest reset reason"


def not_forwarded_by(evidence: Evidence) -> str | None:
    """The product that answered before it forwarded anything; None when nothing proves that."""
    if evidence.overloaded and _RETRIED not in evidence.body:
        return "Envoy"  # its documentation, 'x-envoy-overloaded': dropped by maintenance mode or a circuit breaker
    for gateway in GATEWAYS:
        if evidence.http_status == gateway.status and gateway.body.fullmatch(evidence.body):
            return gateway.product
    return None

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

from ..evidence import Evidence


@dataclass(frozen=True, slots=True)
class Gateway:
    """One product.

    Attributes:
        product: Its name.
        status: The HTTP status of these responses.
        body: What their body is, whitespace collapsed.
        source: Where it is written down.
        overloaded: Whether the header `x-envoy-overloaded` says the same, whatever the body is.
        unless: With these words in the body, the header proves nothing.
    """

    product: str
    status: int
    body: re.Pattern[str]
    source: str
    overloaded: bool = False
    unless: str = ""

    def says_so(self, evidence: Evidence) -> bool:
        """Whether a response of this status is one of these."""
        marked = self.overloaded and evidence.overloaded and self.unless not in evidence.body
        return marked or self.body.fullmatch(evidence.body) is not None


GATEWAYS = (
    Gateway(
        "Envoy",
        503,
        re.compile(
            r"no healthy upstream"
            r"|upstream connect error or disconnect/reset before headers\. "
            r"reset reason: (?:(?:local |remote )?connection failure|overflow)(?:, .*)?"
        ),
        "envoyproxy/envoy: source/common/router/router.cc (onUpstreamReset, sendNoHealthyUpstreamResponse); its "
        "manual, 'x-envoy-overloaded': dropped by maintenance mode or by a circuit breaker",
        overloaded=True,
        unless="retried and the latest reset reason",
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


def not_forwarded_by(evidence: Evidence) -> str | None:
    """The product that answered before it forwarded anything; None when nothing proves that.

    A JSON-RPC error is never a gateway's own: whoever wrote it may have got the request.
    """
    if evidence.own_error:
        return None
    for gateway in GATEWAYS:
        if evidence.http_status == gateway.status and gateway.says_so(evidence):
            return gateway.product
    return None

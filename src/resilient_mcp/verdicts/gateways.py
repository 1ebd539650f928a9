"""Recognize gateway responses that prove a request was not forwarded (sans-I/O).

A 5xx does not prove that a request was not run. Heroku's router answers 503 (H12) while the dyno keeps working. Envoy
and Istio answer 503 when their upstream closes the connection after receiving the request. nginx may serve the same
page before and after forwarding (`error_page 502 = @down` with `return 503`). This table lists the few responses, word
for word, that a product sends only before it forwards. It cannot cover a gateway configured to retry requests itself;
Envoy says so in its text, and then its row does not match.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..evidence import Evidence


@dataclass(frozen=True, slots=True)
class Gateway:
    """The responses of one product.

    Attributes:
        product: Name of the product.
        status: Their HTTP status.
        body: Pattern of their whole body, with whitespace collapsed.
        source: Where they are documented or implemented.
        overloaded: Whether the header `x-envoy-overloaded` is proof too, whatever the body.
        unless: Words in the body that invalidate the header as proof.
    """

    product: str
    status: int
    body: re.Pattern[str]
    source: str
    overloaded: bool = False
    unless: str = ""

    def says_so(self, evidence: Evidence) -> bool:
        """Whether a response with this status proves that nothing was forwarded."""
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
    """The product that answered without forwarding the request; None if there is no proof of that.

    A JSON-RPC error never comes from the gateway itself: its sender may have received the request.
    """
    if evidence.own_error:
        return None
    for gateway in GATEWAYS:
        if evidence.http_status == gateway.status and gateway.says_so(evidence):
            return gateway.product
    return None

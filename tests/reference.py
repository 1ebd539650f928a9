"""How each failure is handled, as a table generated from the code that decides: `python -m tests.reference`."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import anyio

from resilient_mcp import Delivery, Evidence, Failure, Policy, RetryPolicy
from resilient_mcp._sdk.installed import ErrorBase
from resilient_mcp._sdk.results import error_result
from resilient_mcp.calls.executor import Executor, _Call, _Miss
from resilient_mcp.calls.operation import Operation
from resilient_mcp.connection.supervisor import Supervisor
from resilient_mcp.evidence import FailureKind
from resilient_mcp.observability.hub import Hub
from resilient_mcp.verdicts.classifier import ERROR_CODES, HTTP_STATUS, KINDS, REFUSALS, Classifier
from resilient_mcp.verdicts.remedies import in_python
from resilient_mcp.verdicts.verdict import AttemptError, Verdict

HEAD = """| failure | category | may it have run? | sent again | the caller finally gets |
| --- | --- | --- | --- | --- |"""
RUN = {
    Delivery.NOT_SENT: "no: never sent",
    Delivery.REJECTED: "no: rejected",
    Delivery.UNKNOWN: "perhaps",
    Delivery.ANSWERED: "yes: answered",
}
KIND_ROWS = {
    FailureKind.NETWORK: "the network failed after it was sent",
    FailureKind.TLS: "the TLS handshake failed: an untrusted certificate, or no TLS",
    FailureKind.PROCESS: "the server process ended",
    FailureKind.CLOSED: "the connection closed",
    FailureKind.TIMEOUT: "no answer within the time limit",
    FailureKind.PROTOCOL: "an unusable answer: not JSON, wrong id, too long",
    FailureKind.AUTH: "the OAuth flow failed",
}
SAMPLES_OF_GATEWAYS = {
    "Envoy": "no healthy upstream",
    "HAProxy": "<html><body><h1>503 Service Unavailable</h1> No server is available to handle this request. "
    "</body></html>",
}
SAMPLES = {
    "throttled": "rate limit exceeded",
    "transient": "temporarily unavailable",
    "permanent": "not found",
}


def failed(error: Any = None, evidence: Evidence | None = None, result: Any = None) -> Failure:
    return Failure("tools/call", "t", error, evidence, result)


def http(status: int, **facts: Any) -> Failure:
    evidence = Evidence(FailureKind.HTTP, Delivery.UNKNOWN, f"HTTP {status}", status, **facts)
    return failed(ErrorBase(-32603, "x"), evidence)


def gateway() -> Failure:
    sample, *others = (http(503, body=body) for body in SAMPLES_OF_GATEWAYS.values())
    judge = Classifier(Policy()).judge
    assert {judge(other, now=0).delivery for other in others} == {judge(sample, now=0).delivery}
    return sample


def failures() -> list[tuple[str, Failure]]:
    rows = [
        (
            "connection refused, connect timeout",
            failed(None, Evidence(FailureKind.NETWORK, Delivery.NOT_SENT, "x")),
        )
    ]
    for kind, name in KIND_ROWS.items():
        delivery = {FailureKind.AUTH: Delivery.REJECTED, FailureKind.TLS: Delivery.NOT_SENT}.get(kind, Delivery.UNKNOWN)
        rows.append((name, failed(None, Evidence(kind, delivery, "x"))))
    assert set(KIND_ROWS) == set(KINDS)
    rows.append(("HTTP 404 with a session id, 400 that mentions the session", http(404, session_id_sent=True)))
    rows += [(f"HTTP {status}", http(status)) for status in HTTP_STATUS]
    rows.append(("any other HTTP 4xx, and a redirect (307, 308) that is not followed", http(418)))
    rows.append(("any other HTTP 3xx", http(303)))
    rows.append(("any HTTP 5xx", http(599)))
    rows.append(("any HTTP 5xx with `Retry-After`", http(503, retry_after="1")))
    rows.append((f"HTTP 503 of {' or '.join(SAMPLES_OF_GATEWAYS)} that proves that nothing was forwarded", gateway()))
    codes = defaultdict(list)
    for code, meaning in ERROR_CODES.items():
        once = Classifier(Policy()).judge(failed(ErrorBase(code, "x")), now=0).once
        codes[(meaning, code in REFUSALS, once)].append(code)
    for named in codes.values():
        rows.append((f"JSON-RPC {', '.join(map(str, named))}", failed(ErrorBase(named[0], "x"))))
    rows.append(("any other JSON-RPC code", failed(ErrorBase(1, "x"))))
    for meaning, text in SAMPLES.items():
        rows.append((f"`isError`, {meaning} by its body or text", failed(result=error_result(text))))
    return rows


def again(verdict: Verdict) -> str:
    if not verdict.retryable:
        return "never"
    return "every call" if verdict.safe else f"repeatable calls{', once' if verdict.once else ''}"


async def table() -> str:
    policy = Policy()
    hub = Hub("s")
    supervisor = Supervisor(None, policy, hub, in_python(None))  # type: ignore[arg-type]
    executor = Executor(supervisor, None, catalog=None, policy=policy, hub=hub, classifier=Classifier(policy))  # type: ignore[arg-type]
    lines = [HEAD]
    for name, failure in failures():
        verdict = Classifier(policy).judge(failure, now=0)
        if failure.result is not None:
            end = "the result, unchanged"
        else:
            call = _Call(Operation("tools/call", None, "t", began=0), RetryPolicy(), 60, False, 0, math.inf)  # type: ignore[arg-type]
            call.history.add(verdict)
            cause: Any = failure.error
            error = executor._final(call, _Miss(verdict, AttemptError(cause, failure.evidence)))
            end = "the server's `MCPError`" if error is cause else f"`{type(error).__name__}`"
        row = [name, verdict.category.value, RUN[verdict.delivery], again(verdict), end]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(anyio.run(table))

"""Every branch from failure and evidence to verdict."""

from __future__ import annotations

import errno
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp import Category, ConnectionLost, Delivery, Evidence, ExitStatus, Policy, ToolPolicy
from resilient_mcp._sdk.installed import ErrorBase
from resilient_mcp._sdk.results import error_result
from resilient_mcp.evidence import FailureKind
from resilient_mcp.explanation import explain
from resilient_mcp.text.printable import add_note, describe
from resilient_mcp.verdicts.classifier import (
    _MEANINGS,
    DIALECTS,
    ERROR_CODES,
    REFUSALS,
    Classifier,
    Prospect,
    is_absent,
    is_outage,
    parse_retry_after,
    prospect_of,
)
from resilient_mcp.verdicts.verdict import Failure, Verdict

NOW = 1_800_000_000.0


def classify(error: BaseException | None, evidence: Evidence | None, *, now: float, **options: Any) -> Verdict:
    failure = Failure("tools/call", "echo", error, evidence)
    return Classifier(Policy.model_validate(options)).judge(failure, now=now)


def server_error(code: int, message: str = "no") -> Exception:
    return ErrorBase(code, message)


def http(status: int, *, session: bool = False, retry_after: str | None = None, detail: str = "x") -> Evidence:
    return Evidence(FailureKind.HTTP, Delivery.UNKNOWN, detail, status, retry_after, session)


@pytest.mark.parametrize("code", ERROR_CODES)
def test_json_rpc_codes(code: int):
    """Each code in the table gets the verdict that the table says, and the reason names the code."""
    verdict = classify(server_error(code), None, now=NOW)
    category, delivery = _MEANINGS[ERROR_CODES[code]]
    assert (verdict.category, verdict.delivery) == (category, Delivery.REJECTED if code in REFUSALS else delivery)
    assert str(code) in verdict.reason
    assert verdict.rule == f"JSON-RPC code {code}"


@given(st.integers())
def test_any_code_gets_a_verdict(code: int):
    """A code that is not in the table is unknown, and the call may have run."""
    verdict = classify(server_error(code), None, now=NOW)
    if code not in ERROR_CODES:
        assert (verdict.category, verdict.retryable, verdict.safe) == (Category.UNKNOWN, False, False)


@pytest.mark.parametrize(
    ("status", "category", "delivery", "retryable"),
    [
        (301, Category.PERMANENT, Delivery.UNKNOWN, False),
        (303, Category.PERMANENT, Delivery.UNKNOWN, False),
        (307, Category.PERMANENT, Delivery.REJECTED, False),
        (308, Category.PERMANENT, Delivery.REJECTED, False),
        (400, Category.PERMANENT, Delivery.REJECTED, False),
        (401, Category.AUTH, Delivery.REJECTED, False),
        (403, Category.AUTH, Delivery.REJECTED, False),
        (404, Category.PERMANENT, Delivery.REJECTED, False),
        (405, Category.PERMANENT, Delivery.REJECTED, False),
        (408, Category.TRANSIENT, Delivery.UNKNOWN, True),
        (413, Category.PERMANENT, Delivery.REJECTED, False),
        (429, Category.THROTTLED, Delivery.REJECTED, True),
        (499, Category.TRANSIENT, Delivery.UNKNOWN, True),
        (500, Category.TRANSIENT, Delivery.UNKNOWN, True),
        (502, Category.TRANSIENT, Delivery.UNKNOWN, True),
        (503, Category.TRANSIENT, Delivery.UNKNOWN, True),
        (504, Category.TRANSIENT, Delivery.UNKNOWN, True),
        (599, Category.TRANSIENT, Delivery.UNKNOWN, True),
    ],
)
def test_http_statuses(status: int, category: Category, delivery: Delivery, retryable: bool):
    """Without a session, every status gets the verdict that the table says."""
    verdict = classify(server_error(-32603), http(status), now=NOW)
    assert (verdict.category, verdict.delivery, verdict.retryable) == (category, delivery, retryable)
    assert not verdict.reconnect


def test_a_lost_session():
    """404 with a session id, or 400 that mentions the session, is a lost session; never without a session id."""
    for evidence in (http(404, session=True), http(400, session=True, detail="Bad Request: no valid session ID")):
        verdict = classify(None, evidence, now=NOW)
        assert verdict.category is Category.SESSION_LOST
        assert verdict.reconnect
        assert verdict.safe
        assert verdict.retryable
    for evidence in (http(400, session=True, detail="obsession"), http(400, detail="no session"), http(404)):
        assert classify(None, evidence, now=NOW).category is Category.PERMANENT


def test_an_overloaded_server():
    """503 with `Retry-After` is throttling, its wait is read, and the call may have run."""
    verdict = classify(None, http(503, retry_after="7"), now=NOW)
    assert verdict.category is Category.THROTTLED
    assert verdict.delivery is Delivery.UNKNOWN
    assert verdict.retry_after == 7


@pytest.mark.parametrize(
    ("data", "wait"),
    [
        ({"retryAfter": 3}, 3),
        ({"retry_after": "3"}, 3),
        ({"retryAfterMs": 250}, 0.25),
        ({"retry_after_ms": "soon"}, None),
        ({"limit": 3}, None),
        ("retryAfter", None),
        (None, None),
    ],
)
def test_a_retry_delay_in_the_error_data(data: Any, wait: float | None):
    """The data of a server's error may say when to retry."""
    assert classify(ErrorBase(-32000, "busy", data), None, now=NOW).retry_after == wait


def test_an_internal_error_is_retried_once():
    """-32603, mostly a tool's exception, allows one retry; a meaning given in the policy lifts that limit."""
    assert classify(server_error(-32603), None, now=NOW).once
    assert not classify(server_error(-32000), None, now=NOW).once
    assert not classify(server_error(-32603), None, now=NOW, error_codes={-32603: "transient"}).once


@pytest.mark.parametrize("status", range(500, 600))
@pytest.mark.parametrize("retry_after", [None, "1"])
def test_a_5xx_never_proves_that_a_call_did_not_run(status: int, retry_after: str | None):
    """The delivery of every 5xx is unknown: a gateway may have forwarded the request before it gave up."""
    assert classify(None, http(status, retry_after=retry_after), now=NOW).delivery is Delivery.UNKNOWN


def test_a_policy_defines_what_a_status_means():
    """The tool's table overrides the server's, and that the default; "refused" means not run, and is retried."""
    options = {"http_statuses": {503: "refused", "429": "transient"}, "tools": {"e*": {"http_statuses": {503: "auth"}}}}
    verdict = classify(None, http(503), now=NOW, **options)
    assert (verdict.category, verdict.rule) == (Category.AUTH, "ToolPolicy.http_statuses[503]")
    verdict = classify(None, http(429, retry_after="3"), now=NOW, **options)
    assert (verdict.category, verdict.delivery) == (Category.THROTTLED, Delivery.UNKNOWN)
    other = Classifier(Policy.model_validate(options)).judge(Failure("ping", None, None, http(503)), now=NOW)
    assert (other.category, other.delivery, other.retryable) == (Category.TRANSIENT, Delivery.REJECTED, True)
    assert other.rule == "Policy.http_statuses[503]"


def test_a_permanent_status_does_not_prove_that_a_call_did_not_run():
    """A status that the policy calls permanent leaves the delivery unknown, unless it is a 4xx."""
    assert classify(None, http(500), now=NOW, http_statuses={500: "permanent"}).delivery is Delivery.UNKNOWN
    assert classify(None, http(429), now=NOW, http_statuses={429: "permanent"}).delivery is Delivery.REJECTED


def test_a_json_rpc_error_in_a_4xx_response():
    """The server's own JSON-RPC code decides if it is known and specific; otherwise the HTTP status does."""
    own = replace(http(422), own_error=True)
    verdict = classify(server_error(-32002), own, now=NOW)
    assert (verdict.category, verdict.delivery) == (Category.PERMANENT, Delivery.REJECTED)
    assert verdict.rule == "HTTP 422 with JSON-RPC code -32002"
    assert classify(server_error(-32001), own, now=NOW).delivery is Delivery.UNKNOWN
    assert classify(server_error(-32603), own, now=NOW).category is Category.PERMANENT
    assert classify(server_error(12), own, now=NOW).category is Category.PERMANENT
    assert classify(server_error(-32001), http(422), now=NOW).category is Category.PERMANENT


@pytest.mark.parametrize(
    ("kind", "category", "reconnect"),
    [
        (FailureKind.NETWORK, Category.TRANSIENT, False),
        (FailureKind.PROCESS, Category.CONNECTION_LOST, True),
        (FailureKind.CLOSED, Category.CONNECTION_LOST, True),
        (FailureKind.TIMEOUT, Category.TIMEOUT, False),
        (FailureKind.PROTOCOL, Category.PERMANENT, False),
        (FailureKind.AUTH, Category.AUTH, False),
    ],
)
@pytest.mark.parametrize("delivery", Delivery)
def test_evidence_overrides_the_error_code(kind: FailureKind, category: Category, reconnect: bool, delivery: Delivery):
    """The transport's evidence decides category and delivery, whatever code the SDK made up."""
    verdict = classify(server_error(-32000), Evidence(kind, delivery, "seen"), now=NOW)
    assert (verdict.category, verdict.delivery, verdict.reconnect) == (category, delivery, reconnect)
    assert verdict.reason == "seen"


def test_an_exception_after_the_answer_is_permanent():
    """An exception without a code, such as a result that violates its schema, is permanent and keeps its delivery."""
    for delivery in Delivery:
        failure = Failure("tools/call", "t", RuntimeError("Invalid structured content"), delivery=delivery)
        verdict = Classifier(Policy()).judge(failure, now=NOW)
        assert (verdict.retryable, verdict.delivery) == (False, delivery)
    assert classify(None, None, now=NOW).reason == "no answer"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 500, 999_999_999_999.0),
        (format_datetime(datetime.fromtimestamp(NOW + 30, timezone.utc), usegmt=True), 30.0),
        (format_datetime(datetime.fromtimestamp(NOW - 30, timezone.utc), usegmt=True), 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("²", None),
        ("Fri, 99 Feb 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None):
    """Seconds and HTTP dates, also past ones, are parsed; anything else is ignored."""
    assert parse_retry_after(value, now=NOW) == expected


@given(st.text())
def test_retry_after_accepts_any_text(value: str):
    """No header value raises or gives a negative wait."""
    seconds = parse_retry_after(value, now=NOW)
    assert seconds is None or seconds >= 0


def ended(code: int | None, signal: int | None = None) -> Evidence:
    return Evidence(FailureKind.PROCESS, Delivery.UNKNOWN, "x", exit=ExitStatus(1, code, signal))


def seen(kind: FailureKind) -> Evidence:
    return Evidence(kind, Delivery.NOT_SENT, "x")


def invalid() -> Exception:
    with pytest.raises(ValueError, match="attempts") as caught:
        Policy.model_validate({"retry": {"attempts": -1}})
    return caught.value


OPEN, DOUBTFUL, NONE = Prospect.OPEN, Prospect.DOUBTFUL, Prospect.NONE


@pytest.mark.parametrize(
    ("failure", "evidence", "prospect"),
    [
        (None, None, OPEN),
        (None, ended(1), OPEN),
        (None, ended(None, 9), OPEN),
        (None, ended(126), NONE),
        (None, ended(127), NONE),
        (None, http(503), OPEN),
        (None, http(429), OPEN),
        (None, http(408), OPEN),
        (None, http(401), NONE),
        (None, http(403), NONE),
        (None, http(301), DOUBTFUL),
        (None, http(400), DOUBTFUL),
        (None, http(404), DOUBTFUL),
        (None, http(405), DOUBTFUL),
        (None, http(421), DOUBTFUL),
        (None, http(200), DOUBTFUL),  # an HTML page
        (None, seen(FailureKind.NETWORK), OPEN),
        (None, seen(FailureKind.TIMEOUT), OPEN),
        (None, seen(FailureKind.TLS), DOUBTFUL),
        (None, seen(FailureKind.PROTOCOL), DOUBTFUL),
        (None, seen(FailureKind.AUTH), NONE),
        (server_error(-32022), None, NONE),
        (server_error(-32022), replace(http(400), own_error=True), NONE),
        (server_error(-32022), http(503), NONE),
        (server_error(-32601), None, DOUBTFUL),
        (server_error(-32603), None, OPEN),
        (RuntimeError("Unsupported protocol version from the server: 1"), None, NONE),
        (RuntimeError("x"), None, OPEN),
        (invalid(), None, DOUBTFUL),
        (FileNotFoundError("x"), None, NONE),
        (PermissionError("x"), None, NONE),
        (NotADirectoryError("x"), None, NONE),
        (OSError(errno.ENOEXEC, "x"), None, NONE),
        (OSError(errno.E2BIG, "x"), None, NONE),
        (OSError(errno.EAGAIN, "x"), None, OPEN),
        (ConnectionRefusedError("x"), None, OPEN),
        (ValueError("embedded null byte"), None, NONE),
        (TypeError("x"), None, NONE),
        (KeyError("x"), None, NONE),
    ],
)
def test_prospects_of_another_start(failure: Exception | None, evidence: Evidence | None, prospect: Prospect):
    """A failed start is hopeless, doubtful or may pass; nothing is doubtful on a server that has worked before."""
    assert prospect_of(failure, evidence, Policy()) is prospect
    known = prospect_of(failure, evidence, Policy(), known=True)
    assert known is (OPEN if prospect is DOUBTFUL else prospect)


def test_a_policy_defines_what_a_status_means_during_a_start():
    """A 404 that the policy calls transient is an outage, and a 503 that it calls permanent is not."""
    assert prospect_of(None, http(404), Policy(http_statuses={404: "transient"})) is OPEN
    assert prospect_of(None, http(503), Policy(http_statuses={503: "permanent"})) is DOUBTFUL
    assert prospect_of(None, http(404), Policy(http_statuses={404: "auth"})) is NONE


@pytest.mark.parametrize(
    ("failure", "evidence", "absent"),
    [
        (ConnectionRefusedError("x"), None, True),
        (RuntimeError("x"), None, False),
        (None, seen(FailureKind.NETWORK), True),
        (None, replace(seen(FailureKind.NETWORK), delivery=Delivery.UNKNOWN), False),
        (None, Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, "disconnected", not_http=True), True),
        (None, Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, "RemoteProtocolError: said the server"), False),
        (None, seen(FailureKind.TLS), True),
        (None, seen(FailureKind.TIMEOUT), False),
        (None, ended(1), True),
        (None, http(503), False),
    ],
)
def test_an_absent_server(failure: Exception | None, evidence: Evidence | None, absent: bool):
    """A server is absent if nothing listens or its process has ended, not if it answers or is slow."""
    assert is_absent(failure, evidence) is absent


def test_an_outage_does_not_decide_the_protocol_era():
    """Statuses with which a server refuses an unknown method decide the era; every other failure is an outage."""
    assert not is_outage(None, Policy())
    assert is_outage(Evidence(FailureKind.NETWORK, Delivery.UNKNOWN, "x"), Policy())
    for status in (401, 408, 429, 500, 503):
        assert is_outage(http(status), Policy())
    for status in (400, 404, 405, 406, 415):
        assert not is_outage(http(status), Policy())


def test_descriptions_are_never_empty():
    """Every exception has a description, and a group has that of its first leaf."""
    assert describe(KeyError()) == "KeyError"
    assert describe(ValueError("a\x1b[31m\nb")) == "ValueError: a b"

    class Group(Exception):
        exceptions = (ValueError("leaf"),)

    assert describe(Group()) == "ValueError: leaf"
    error = ValueError("x")
    add_note(error, "one")
    add_note(error, "two")
    assert error.__notes__ == ["one", "two"]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(dialect: str):
    """Each code of a dialect gets the verdict its table says, and the rule names the dialect; others fall through."""
    for codes, meaning in DIALECTS[dialect].items():
        for code in [codes] if isinstance(codes, int) else [codes[0], codes[500], codes[-1]]:
            verdict = classify(server_error(code), None, now=NOW, dialect=dialect)
            assert (verdict.category, verdict.delivery) == _MEANINGS[meaning]
            assert repr(dialect) in verdict.rule
    assert classify(server_error(-32602), None, now=NOW, dialect=dialect).category is Category.PERMANENT


def test_a_policy_overrides_the_tables():
    """The tool's table overrides the server's, and that its dialect."""
    options = {
        "dialect": "mcpcat",
        "error_codes": {-32603: "throttled", "7": "auth"},
        "tools": {"e*": {"error_codes": {-32603: "transient"}}},
    }
    verdict = classify(server_error(-32603), None, now=NOW, **options)
    assert (verdict.category, verdict.rule) == (Category.TRANSIENT, "ToolPolicy.error_codes[-32603]")
    verdict = classify(server_error(7), None, now=NOW, **options)
    assert (verdict.category, verdict.rule) == (Category.AUTH, "Policy.error_codes[7]")
    other = Classifier(Policy.model_validate(options)).judge(Failure("ping", None, server_error(-32603)), now=NOW)
    assert other.category is Category.THROTTLED


def test_a_code_that_is_not_an_integer():
    """Any value in place of a code gets a verdict with a short reason."""
    for code in ("x" * 10_000_000, [1], {"a": 1}, 1.5, True):
        error = server_error(1)
        error.error = type("Data", (), {"code": code, "message": "x"})()  # type: ignore[attr-defined]
        verdict = classify(error, None, now=NOW)
        assert not verdict.retryable
        assert len(verdict.reason) < 1000


def test_a_huge_message_of_control_characters():
    """The reason of a verdict is one short printable line."""
    verdict = classify(server_error(-32603, "\x1b[31m\n\x00" * 3_000_000), None, now=NOW)
    assert len(verdict.reason) < 1000
    assert verdict.reason.isprintable()


def test_a_users_own_classifier_is_asked_first():
    """Its verdict is used; if it returns None or raises, the tables decide."""
    mine = Verdict(Category.PERMANENT, retryable=False, delivery=Delivery.REJECTED, reason="mine")
    seen: list[Failure] = []

    def own(failure: Failure) -> Verdict | None:
        seen.append(failure)
        if failure.method == "ping":
            raise ZeroDivisionError
        return mine if failure.tool == "echo" else None

    classifier = Classifier(Policy(), own)
    verdict = classifier.judge(Failure("tools/call", "echo", server_error(-32603)), now=NOW)
    assert (verdict.reason, verdict.rule) == ("mine", "the classifier given to ResilientClient")
    for method, target in (("tools/call", "other"), ("ping", None), ("prompts/get", "echo")):
        verdict = classifier.judge(Failure(method, target, server_error(-32603)), now=NOW)
        assert verdict.category is Category.TRANSIENT
    ruled = Verdict(Category.AUTH, retryable=False, delivery=Delivery.REJECTED, reason="x", rule="my rule")
    assert Classifier(Policy(), lambda _: ruled).judge(Failure("x"), now=NOW) is ruled
    assert len(seen) == 4


def test_which_failures_count_for_the_breaker():
    """Server failures count; a tool's error, a refusal and a cancellation do not."""
    assert classify(None, http(503), now=NOW).counts_for_breaker
    assert classify(None, Evidence(FailureKind.TIMEOUT, Delivery.UNKNOWN, "x"), now=NOW).counts_for_breaker
    assert not classify(None, http(401), now=NOW).counts_for_breaker
    assert not classify(server_error(-32800), None, now=NOW).counts_for_breaker
    result = error_result("try again in 5 seconds")
    assert not Classifier(Policy()).judge(Failure("tools/call", result=result), now=NOW).counts_for_breaker


def test_an_earlier_request_keeps_the_delivery_unknown():
    """A call may have run if an earlier request of it may have, even if the last one provably did not."""
    refused = Evidence(FailureKind.NETWORK, Delivery.NOT_SENT, "refused")
    for error, evidence in ((None, refused), (server_error(-32602), None)):
        failure = Failure("tools/call", "t", error, evidence, earlier=True)
        assert Classifier(Policy()).judge(failure, now=NOW).delivery is Delivery.UNKNOWN


def test_explain():
    """`explain` names the rule that decided, for server errors, this library's errors and tool results."""
    verdict = explain(server_error(-32001), policy=Policy(dialect="chatforest-errors"))
    assert str(verdict) == (
        "throttled (a retry may help); rejected; "
        f"{describe(server_error(-32001))} (-32001) [JSON-RPC code -32001 in the dialect 'chatforest-errors']"
    )
    policy = Policy(tools={"t": ToolPolicy(error_codes={5: "permanent"})})
    assert explain(server_error(5), policy=policy, tool="t").rule == "ToolPolicy.error_codes[5]"
    assert explain(ConnectionLost("x", advice="y", verdict=verdict)) is verdict
    assert explain(error_result("no such file")).category is Category.PERMANENT
    with pytest.raises(TypeError, match="has no verdict"):
        explain(ConnectionLost("x", advice="y"))
    with pytest.raises(TypeError, match="takes an exception or a tool result, not int"):
        explain(5)


def test_a_classifier_of_the_user_that_returns_no_verdict_is_ignored(caplog: pytest.LogCaptureFixture):
    """The built-in rules judge, and the log says what it returned."""
    failure = Failure("tools/call", "t", RuntimeError("x"), None)
    odd: Any = lambda _failure: "retry"  # noqa: E731
    assert Classifier(Policy(), odd).judge(failure, now=0.0) == Classifier(Policy()).judge(failure, now=0.0)
    assert "it returned a str, not a Verdict or None" in caplog.text

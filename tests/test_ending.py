"""The end of a call without an answer: which error its caller gets, and that it never claims more than is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest

from resilient_mcp import (
    Category,
    ConnectionLost,
    DeadlineExceeded,
    Delivery,
    Evidence,
    InvalidArguments,
    RateLimitExceeded,
    ResilienceError,
    ServerFailed,
    ServerUnavailable,
    Verdict,
)
from resilient_mcp._sdk.installed import MCPError, mcp_error
from resilient_mcp._sdk.messages import UnencodableError
from resilient_mcp.calls.ending import Ending, error_of
from resilient_mcp.calls.operation import History
from resilient_mcp.evidence import FailureKind
from resilient_mcp.verdicts.verdict import AttemptError

RETRYABLE = {Category.TRANSIENT, Category.THROTTLED, Category.TIMEOUT, Category.SESSION_LOST, Category.CONNECTION_LOST}
# What an error may not contain once the server may have run the call.
DENIALS = ("not run", "before it was run", "Nothing was sent")


def verdict(category: Category, delivery: Delivery, *, retry_after: float | None = None) -> Verdict:
    return Verdict(category, category in RETRYABLE, delivery, "the reason", "the rule", retry_after)


def evidence(delivery: Delivery, **options: Any) -> Evidence:
    return Evidence(FailureKind.HTTP, delivery, "the detail", **options)


def ending(
    category: Category,
    *deliveries: Delivery,
    cause: Exception | None = None,
    seen: bool = True,
    own_error: bool = False,
    repeatable: bool = False,
    retry_after: float | None = None,
    **options: Any,
) -> Ending:
    """The end of a call of which one attempt per delivery has failed, all with the same category.

    Args:
        category: The verdict's.
        deliveries: How far each attempt got.
        cause: What the SDK raised last.
        seen: Whether the transport saw the last failure.
        own_error: Whether it saw the server's own error.
        repeatable: Whether the call may be repeated.
        retry_after: Seconds the server asked to wait.
        options: Other fields of the ending.
    """
    history = History(repeatable=repeatable)
    for delivery in deliveries:
        last = verdict(category, delivery, retry_after=retry_after)
        history.add(last)
    failed = AttemptError(cause, evidence(last.delivery, own_error=own_error) if seen else None, delivery=last.delivery)
    return Ending("the-server", "tools/call search", last, failed, history, **options)


def said(error: BaseException) -> str:
    """All that the caller reads of an error."""
    return "\n".join([str(error), getattr(error, "advice", ""), *getattr(error, "__notes__", [])])


# --- an answer that the server gave itself ---


def test_the_servers_own_error_is_raised_unchanged():
    """An error that came as an answer is the one that the SDK raised; after one attempt it needs no note."""
    cause = mcp_error(-32602, "no such city")
    end = ending(Category.PERMANENT, Delivery.REJECTED, cause=cause, seen=False)
    assert error_of(end) is cause
    assert said(cause) == "no such city\n"


def test_the_servers_own_error_with_an_http_status():
    """The same where it came with a status that adds nothing to it."""
    cause = mcp_error(-32602, "no such city")
    assert error_of(ending(Category.PERMANENT, Delivery.REJECTED, cause=cause, own_error=True)) is cause


def test_the_servers_own_error_after_retries():
    """A note says how often the call was sent; attempts that never left do not count."""
    cause = mcp_error(-32603, "out of disk")
    deliveries = (Delivery.NOT_SENT, Delivery.UNKNOWN, Delivery.UNKNOWN)
    assert error_of(ending(Category.TRANSIENT, *deliveries, cause=cause, seen=False)) is cause
    assert cause.__notes__ == ["tools/call search was sent to the MCP server 'the-server' 2 times"]


def test_the_servers_own_error_with_data():
    """What helps in the error's `data` becomes a note, since neither SDK shows it."""
    cause = mcp_error(-32602, "bad", {"issues": [{"path": "city", "message": "is unknown"}]})
    error_of(ending(Category.PERMANENT, Delivery.REJECTED, cause=cause, seen=False))
    assert cause.__notes__ == ["the server says: city: is unknown"]


@pytest.mark.parametrize(
    ("category", "kind"),
    [
        (Category.AUTH, ServerFailed),
        (Category.THROTTLED, RateLimitExceeded),
        (Category.SESSION_LOST, ServerUnavailable),
        (Category.TRANSIENT, ServerUnavailable),
        (Category.TIMEOUT, DeadlineExceeded),
    ],
)
def test_a_status_that_says_more_than_the_servers_own_error(category: Category, kind: type[ResilienceError]):
    """Credentials, limits, sessions and outages are reported as such, with the `data` of the server's error."""
    cause = mcp_error(-32000, "denied", {"hint": "log in"})
    error = error_of(ending(category, Delivery.REJECTED, cause=cause, own_error=True))
    assert type(error) is kind
    assert error.data == {"hint": "log in"}
    assert "The server says: hint: log in." in error.advice


# --- no answer ---


def test_arguments_that_json_cannot_represent():
    """The problem is named by its path in the arguments, and nothing was sent."""
    cause = UnencodableError("$.params.arguments.tags[0]", "a set")
    error = error_of(ending(Category.PERMANENT, Delivery.NOT_SENT, cause=cause, seen=False))
    assert isinstance(error, InvalidArguments)
    assert str(error) == "tools/call search cannot be sent: $.tags[0]: a set. Nothing was sent."
    assert error.problems == [("$.tags[0]", "a set")]
    assert (error.server, error.operation, error.attempts) == ("the-server", "tools/call search", 0)


def test_another_place_that_json_cannot_represent():
    """A path outside the arguments is shown as it is."""
    error = error_of(ending(Category.PERMANENT, Delivery.NOT_SENT, cause=UnencodableError("$.params._meta", "a set")))
    assert error.problems == [("$.params._meta", "a set")]


def test_refused_credentials():
    """The error names the configuration to check, and a model is not invited to repeat the call."""
    error = error_of(ending(Category.AUTH, Delivery.REJECTED, credentials="the token in .mcp.json"))
    assert type(error) is ServerFailed
    assert str(error).endswith("It was sent once and was not run. Check the token in .mcp.json.")
    assert "was refused: the reason." in str(error)
    assert "Do not repeat the call: it cannot succeed until a person changes them." in error.advice


def test_a_login_that_failed_after_the_call_was_sent():
    """It is not a refusal, because the call may have run."""
    error = error_of(ending(Category.AUTH, Delivery.UNKNOWN))
    assert type(error) is ConnectionLost
    assert error.may_have_run


@pytest.mark.parametrize(
    ("category", "delivery", "expired", "how"),
    [
        (Category.TIMEOUT, Delivery.UNKNOWN, False, ": the reason."),
        (Category.TIMEOUT, Delivery.NOT_SENT, False, ", before it was run: the reason."),
        (Category.TRANSIENT, Delivery.REJECTED, True, ", before it was run: the reason."),
        (Category.THROTTLED, Delivery.NOT_SENT, True, ", before it was run: the reason."),
    ],
)
def test_time_limits(category: Category, delivery: Delivery, expired: bool, how: str):
    """A time limit, and a failure after the deadline of a call that was not run."""
    error = error_of(ending(category, delivery, expired=expired, elapsed=12.34))
    assert isinstance(error, DeadlineExceeded)
    assert isinstance(error, TimeoutError)
    assert f"tools/call search on MCP server 'the-server' timed out after 12.3 s{how}" in str(error)
    assert error.elapsed == 12.34


def test_a_deadline_hides_no_lost_answer():
    """A call that may have run is reported as such, even if its deadline has passed meanwhile."""
    assert type(error_of(ending(Category.CONNECTION_LOST, Delivery.UNKNOWN, expired=True))) is ConnectionLost


def test_a_time_limit_after_an_attempt_that_may_have_run():
    """The last attempt was not sent, but an earlier one was, so the call may have run."""
    error = error_of(ending(Category.TIMEOUT, Delivery.UNKNOWN, Delivery.NOT_SENT))
    assert "timed out after 0.0 s: the reason. It was sent once. The server may have run it" in str(error)


@pytest.mark.parametrize("category", [Category.CONNECTION_LOST, Category.PERMANENT, Category.UNKNOWN])
def test_a_lost_answer(category: Category):
    """A call that was sent, was not answered and may have run."""
    error = error_of(ending(category, Delivery.UNKNOWN, retry_after=7))
    assert type(error) is ConnectionLost
    assert "got no answer: the reason. It was sent once. The server may have run it, and may still be" in str(error)
    assert error.retry_in == 7


def test_a_refusal_after_a_lost_answer():
    """A later attempt that certainly did not run does not make the call one that did not."""
    error = error_of(ending(Category.TRANSIENT, Delivery.UNKNOWN, Delivery.REJECTED))
    assert type(error) is ConnectionLost
    assert (error.may_have_run, error.attempts) == (True, 2)


def test_a_refusal_after_a_lost_answer_of_a_repeatable_call():
    """If running it twice does no harm, the server's absence is the more useful thing to know."""
    error = error_of(ending(Category.TRANSIENT, Delivery.UNKNOWN, Delivery.REJECTED, repeatable=True))
    assert type(error) is ServerUnavailable
    assert "got no answer: the reason. It was sent 2 times. The server may have run it; it is safe to" in str(error)
    assert (error.may_have_run, error.repeatable) == (True, True)


def test_a_permanent_refusal():
    """Repeating the call unchanged will not help, and the error says so."""
    error = error_of(ending(Category.PERMANENT, Delivery.REJECTED))
    assert type(error) is ResilienceError
    assert str(error).endswith("It was sent once and was not run. Repeating it unchanged will not help.")


def test_a_lost_session_is_explained():
    """What the sessions lost lately have in common is part of the reason; it is not added to other failures."""
    diagnosis = "each was lost after 5 s"
    lost = error_of(ending(Category.SESSION_LOST, Delivery.REJECTED, diagnosis=diagnosis))
    assert "was not run: the reason; each was lost after 5 s. It was sent once" in str(lost)
    assert "was not run: the reason. " in str(error_of(ending(Category.SESSION_LOST, Delivery.REJECTED)))
    assert diagnosis not in said(error_of(ending(Category.TRANSIENT, Delivery.REJECTED, diagnosis=diagnosis)))


@pytest.mark.parametrize(
    ("category", "retry_after", "kind", "when"),
    [
        (Category.TRANSIENT, None, ServerUnavailable, "Try again later."),
        (Category.TRANSIENT, 30.4, ServerUnavailable, "Try again in 30 s; do not call it sooner."),
        (Category.THROTTLED, None, RateLimitExceeded, "Try again later."),
        (Category.THROTTLED, 30.4, RateLimitExceeded, "Try again in 30 s; do not call it sooner."),
        (Category.UNKNOWN, None, ServerUnavailable, "Try again later."),
    ],
)
def test_a_server_that_is_away(category: Category, retry_after: float | None, kind: type[Exception], when: str):
    """A call that certainly did not run says when to try again, in words and as a number."""
    error = error_of(ending(category, Delivery.NOT_SENT, retry_after=retry_after))
    assert type(error) is kind
    assert str(error) == (
        f"tools/call search on MCP server 'the-server' was not run: the reason. Nothing was sent. {when}"
    )
    assert error.retry_in == retry_after
    assert not error.may_have_run


# --- what must hold for every end ---


def every_end() -> Iterator[tuple[Ending, Exception | None]]:
    """Every combination of what decides, with up to three attempts."""
    got = [Delivery.NOT_SENT, Delivery.REJECTED, Delivery.UNKNOWN]
    deliveries = [row for length in (1, 2, 3) for row in itertools.product(got, repeat=length)]
    flags = itertools.product([True, False], repeat=4)
    for category, row, (seen, own_error, repeatable, expired) in itertools.product(Category, deliveries, list(flags)):
        for cause in (None, mcp_error(-32000, "denied"), UnencodableError("$.params", "a set"), OSError("gone")):
            wait = 3.0 if len(row) == 2 else None
            options = {"seen": seen, "own_error": own_error, "repeatable": repeatable, "expired": expired}
            yield ending(category, *row, cause=cause, retry_after=wait, diagnosis="they expire", **options), cause


def test_no_error_claims_more_than_is_known():
    """Once any attempt may have run, no text says that the call was not run, and `may_have_run` is true."""
    seen = set()
    for end, cause in every_end():
        error = error_of(end)
        seen.add(type(error))
        if error is cause:
            assert not any(denial in said(error) for denial in DENIALS), end
            continue
        assert isinstance(error, ResilienceError)
        assert error.may_have_run is end.history.may_have_run
        denied = any(denial in text for denial in DENIALS for text in (str(error), error.advice))
        assert denied is not end.history.may_have_run, (end, said(error))
        if not isinstance(error, DeadlineExceeded) and end.history.may_have_run and not end.history.repeatable:
            assert type(error) in {ConnectionLost, ServerFailed, InvalidArguments}, (end, said(error))
    own = {ConnectionLost, DeadlineExceeded, InvalidArguments, RateLimitExceeded, ResilienceError, ServerFailed}
    assert seen == {*own, ServerUnavailable, MCPError, OSError}


def test_every_error_has_the_facts():
    """Server, operation, attempts, verdict and repeatability are those of the whole call, in every error."""
    for end, cause in every_end():
        error = error_of(end)
        if error is not cause:
            assert (error.server, error.operation) == ("the-server", "tools/call search")
            assert (error.attempts, error.repeatable) == (end.history.sent, end.history.repeatable)
            assert error.verdict is end.history.verdict

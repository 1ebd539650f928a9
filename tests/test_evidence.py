"""What transports record: exit statuses, printable text, and which request belongs to which attempt."""

from __future__ import annotations

import math
import signal

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp import Delivery, Evidence, ExitStatus
from resilient_mcp import in_flight as in_flight_module
from resilient_mcp.evidence import FailureKind
from resilient_mcp.in_flight import _ABANDONED_KEPT, Attempt, InFlight, current_attempt
from resilient_mcp.text.printable import printable

LOST = Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "lost")


@given(st.text(), st.integers(1, 100))
def test_foreign_text_becomes_one_printable_line(text: str, limit: int):
    """No control character or line break survives, and the length is bounded."""
    line = printable(text, limit)
    assert len(line) <= limit
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" for c in line)


def test_terminal_escapes_are_removed_whole():
    """Whole escape sequences are removed, not only their first byte."""
    assert printable("\x1b[1;31mred\x1b[0m\tand\r\nblue") == "red and blue"
    assert printable("cleared\n\x1b[2K\x1b\x1b[1mline\x1b") == "cleared line"
    assert printable("x" * 1000, 10) == "x" * 9 + "…"


def test_exit_statuses_are_readable():
    """Exit codes and signals are described, an unknown signal by its number."""
    assert str(ExitStatus.from_returncode(1, 3)) == "exit status 3"
    assert str(ExitStatus.from_returncode(1, -signal.SIGKILL)) == "killed by SIGKILL"
    assert str(ExitStatus.from_returncode(1, -250)) == "killed by signal 250"
    assert "secret" not in repr(ExitStatus.from_returncode(1, 0, "secret"))


def attempt() -> Attempt:
    return Attempt(anyio.CancelScope())


@pytest.mark.anyio
async def test_a_request_belongs_to_the_attempt_that_writes_it():
    """Request ids are bound to the running attempt through sending and answer, also if echoed as a string."""
    in_flight = InFlight()
    in_flight.sending("ping", 1)  # the SDK's own, in no attempt
    assert in_flight.get(1) is None
    mine = attempt()
    token = current_attempt.set(mine)
    in_flight.sending("tools/call", 2)
    assert in_flight.get(2) is in_flight.get("2") is mine
    assert in_flight.get("3") is in_flight.get(None) is in_flight.get("x") is in_flight.get([]) is None
    assert mine.delivery is Delivery.NOT_SENT
    in_flight.sent(2)
    in_flight.sent(99)
    assert mine.delivery is Delivery.UNKNOWN
    in_flight.answered(2)
    in_flight.answered(99)
    assert mine.answered
    mine.fail(LOST)
    assert mine.evidence is None
    in_flight.sending("tools/list", 3)  # one SDK call, second request: from here it may have run
    assert mine.delivery is Delivery.UNKNOWN
    assert in_flight.get(2) is None
    in_flight.note(3, LOST)
    in_flight.note(99, LOST)
    assert mine.evidence is LOST
    in_flight.forget(mine)
    assert in_flight.is_abandoned(3)
    current_attempt.reset(token)


@pytest.mark.anyio
async def test_abandoned_requests_are_reported_and_bounded():
    """An attempt that ends before its answer is reported to the transport, and only the latest ids are kept."""
    abandoned: list[object] = []
    in_flight = InFlight()
    nothing_written = attempt()
    in_flight.forget(nothing_written)
    in_flight.on_abandoned = abandoned.append
    for n in range(_ABANDONED_KEPT + 2):
        one = attempt()
        token = current_attempt.set(one)
        in_flight.sending("ping", n)
        current_attempt.reset(token)
        in_flight.forget(one)
        in_flight.forget(one)
    assert abandoned == list(range(_ABANDONED_KEPT + 2))
    assert not in_flight.is_abandoned(0)
    assert in_flight.is_abandoned(_ABANDONED_KEPT + 1)


@pytest.mark.anyio
async def test_a_failed_attempt_is_cancelled():
    """`fail` keeps the evidence and cancels the scope."""
    one = attempt()
    one.fail(LOST)
    assert one.evidence is LOST
    assert one.scope.cancel_called


@pytest.mark.anyio
async def test_the_clock_of_an_attempt():
    """It stands still until the last pause is lifted, progress restarts it, and nothing moves it after the end."""
    now = anyio.current_time()
    attempt = Attempt(anyio.CancelScope(deadline=now + 10))
    attempt.pause()
    attempt.pause()
    assert attempt.scope.deadline == math.inf
    attempt.restart(5, now + 100)
    attempt.resume()
    assert attempt.scope.deadline == math.inf
    attempt.resume()
    assert attempt.scope.deadline == pytest.approx(now + 5, abs=1)
    attempt.restart(20, now + 100)
    assert attempt.scope.deadline == pytest.approx(now + 20, abs=1)
    attempt.restart(1000, now + 100)
    assert attempt.scope.deadline == pytest.approx(now + 100, abs=1)
    attempt.ended = Evidence(FailureKind.CLOSED, Delivery.UNKNOWN, "over")
    ended = attempt.scope.deadline
    attempt.restart(5, now + 100)
    attempt.pause()
    attempt.resume()
    assert attempt.scope.deadline == ended


@pytest.mark.anyio
async def test_silence_between_requests_means_nothing(monkeypatch: pytest.MonkeyPatch):
    """Only the time while a request is in flight counts, until the server is heard."""
    now = 100.0
    monkeypatch.setattr(in_flight_module, "loop_time", lambda: now)
    in_flight = InFlight()

    def ask(request_id: int) -> Attempt:
        mine = attempt()
        current_attempt.set(mine)
        in_flight.sending("tools/call", request_id)
        return mine

    first = ask(1)
    now = 105.0
    in_flight.forget(first)
    assert in_flight.waiting_since is None
    now = 1000.0
    second = ask(2)
    assert in_flight.waiting_since == 995.0
    in_flight.hear()
    assert in_flight.waiting_since == 1000.0
    in_flight.answered(2)
    in_flight.forget(second)
    now = 2000.0
    ask(3)
    assert in_flight.waiting_since == 2000.0


def test_the_servers_own_requests_are_bounded():
    """One more than a thousand open ones is refused, until one of them is answered; ids may be used twice."""
    in_flight = InFlight()
    assert all(in_flight.asked(n // 2) for n in range(1000))
    assert not in_flight.asked("x")
    for unknown in ("x", None, 5000, 1.5):
        in_flight.replied(unknown)
    assert not in_flight.asked("x")
    in_flight.replied(0)
    in_flight.replied(0)
    in_flight.replied(0)
    assert in_flight.asked("x")
    assert in_flight.asked("x")
    assert not in_flight.asked("x")

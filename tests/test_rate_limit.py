"""The token bucket under a simulated clock."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient_mcp.strategies.rate_limit import TokenBucket

EVER = math.inf
ROUNDING = 1e-6


def within_limit(dues: list[float], rate: float, burst: int) -> bool:
    """Whether every window of t seconds holds at most burst + rate * t of them."""
    dues = sorted(dues)
    return all(
        last - first + 1 <= burst + rate * (dues[last] - dues[first]) + ROUNDING
        for first in range(len(dues))
        for last in range(first, len(dues))
    )


def test_a_burst_and_then_the_rate():
    """Three go immediately, then one each half second, in the order of their requests."""
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.reserve(0, EVER) for _ in range(6)] == [0, 0, 0, 0.5, 1, 1.5]


def test_an_idle_bucket_refills_up_to_the_burst():
    """After an hour there are three tokens, not more."""
    bucket = TokenBucket(rate=2, burst=3)
    for _ in range(3):
        bucket.reserve(0, EVER)
    assert [bucket.reserve(3600, EVER) for _ in range(4)] == [0, 0, 0, 0.5]


def test_a_wait_that_is_too_long_reserves_nothing():
    """The caller is refused, and the next one gets the token."""
    bucket = TokenBucket(rate=1, burst=1)
    assert bucket.reserve(0, 0) == 0
    assert [bucket.reserve(0, 0.9) for _ in range(100)] == [None] * 100
    assert bucket.retry_in(0) == 1
    assert bucket.reserve(0, 1) == 1


def test_without_a_rate_only_pauses_matter():
    """Without a rate nothing waits, except for a pause."""
    bucket = TokenBucket()
    assert {bucket.reserve(0, 0) for _ in range(10_000)} == {0}
    bucket.pause(5)
    assert (bucket.reserve(1, 3.9), bucket.reserve(1, 4)) == (None, 4)
    assert (bucket.retry_in(1), bucket.retry_in(6)) == (4, 0)


def test_a_pause_applies_to_callers_already_waiting():
    """A caller that wakes during the pause learns how long it lasts; one that wakes after it goes."""
    bucket = TokenBucket()
    assert bucket.reserve(0, EVER) == 0
    bucket.pause(5)
    assert [bucket.paused(0, now) for now in (0, 4, 5, 6)] == [5, 1, 0, 0]


def test_a_pause_is_only_ever_extended():
    """A shorter push-back does not shorten the one before."""
    bucket = TokenBucket()
    bucket.pause(5)
    bucket.pause(3)
    assert bucket.retry_in(0) == 5
    bucket.pause(8)
    assert bucket.retry_in(0) == 8


def test_callers_leave_a_pause_at_the_rate():
    """Of ten callers that waited, one burst goes when the pause ends, and the rest at the rate."""
    bucket = TokenBucket(rate=10, burst=2)
    dues = [bucket.reserve(0, EVER) for _ in range(10)]
    bucket.pause(5)
    moved = [due + bucket.paused(due, due) for due in dues if due is not None]
    assert moved == pytest.approx([5, 5, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.7, 5.8])
    assert {bucket.paused(due, due) for due in moved} == {0}


def test_a_reservation_after_a_pause_is_one_token():
    """A reservation moved by a pause does not cost a token before it and another after it."""
    bucket = TokenBucket(rate=1e-6, burst=3)
    assert bucket.reserve(0, EVER) == 0
    bucket.pause(5)
    assert bucket.paused(0, 0) == 5
    assert [bucket.reserve(5, 0) for _ in range(3)] == [0, 0, None]


def test_a_sleep_that_ends_a_tick_early_costs_no_second_token():
    """Event loops round, so a caller that wakes early waits for the rest, in its place."""
    bucket = TokenBucket(rate=0.01, burst=1)
    bucket.pause(5)
    assert bucket.reserve(0, EVER) == 5
    assert bucket.paused(5, 4.9999) == pytest.approx(0.0001)
    assert bucket.retry_in(5) == 100


def test_a_returned_token_goes_to_the_next_caller():
    """The last reservation leaves no trace; one in the middle frees its own slot, since later ones keep theirs."""
    bucket = TokenBucket(rate=1, burst=1)
    assert [bucket.reserve(0, EVER) for _ in range(4)] == [0, 1, 2, 3]
    bucket.give_back(3, 0)
    assert bucket.reserve(0, EVER) == 3
    bucket.give_back(1, 0)
    assert bucket.retry_in(0) == 1
    assert bucket.reserve(0, EVER) == 1
    assert bucket.reserve(0, EVER) == 4


def test_a_slot_returned_too_late_is_lost():
    """Nothing falls due in the past, and no two callers at the same moment."""
    bucket = TokenBucket(rate=1, burst=1)
    assert [bucket.reserve(0, EVER) for _ in range(3)] == [0, 1, 2]
    bucket.give_back(1, 1.5)
    assert bucket.reserve(1.5, EVER) == 1.5


def test_an_unused_token_refills_the_bucket():
    """The bucket is as full as if the token had never been taken: later slots stay, and it never overflows."""
    bucket = TokenBucket(rate=1, burst=3)
    assert [bucket.reserve(now, EVER) for now in (0, 0.5, 0.75)] == [0, 0, 0]
    bucket.give_back(0.5, 0.8)
    assert [bucket.reserve(0.8, EVER) for _ in range(2)] == [0, pytest.approx(0.2)]
    bucket = TokenBucket(rate=1, burst=1)
    assert [bucket.reserve(now, EVER) for now in (0, 5)] == [0, 0]
    bucket.give_back(0, 5)  # the bucket would be full by now in any case
    assert bucket.reserve(5, EVER) == 1


def test_a_returned_slot_that_passes_unused_refills_the_bucket():
    """A slot returned before it fell due, and taken by no other caller, counts as a token again."""
    bucket = TokenBucket(rate=1, burst=3)
    assert [bucket.reserve(0, EVER) for _ in range(5)] == [0, 0, 0, 1, 2]
    bucket.give_back(1, 0)
    assert bucket.reserve(2.5, EVER) == 0
    assert bucket.reserve(2.5, EVER) == pytest.approx(0.5)


def test_a_thousand_cancelled_waits_delay_no_caller():
    """All are cancelled in any order, and the next caller goes as if they had never waited."""
    bucket = TokenBucket(rate=1, burst=1)
    for due in range(1000):
        assert bucket.reserve(0, EVER) == due
    for due in range(1, 1000):
        bucket.give_back(due, 0)
    assert bucket.reserve(0, EVER) == 1


def test_a_returned_burst_is_available_again():
    """Reservations for the same moment are interchangeable."""
    bucket = TokenBucket(rate=1, burst=5)
    for _ in range(5):
        bucket.reserve(0, EVER)
    for _ in range(5):
        bucket.give_back(0, 0)
    assert [bucket.reserve(0, EVER) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


@given(st.floats(1e-6, 1e9), st.integers(1, 1_000_000_000), st.floats(0, 1e9))
def test_any_rate_and_burst(rate: float, burst: int, now: float):
    """The first caller may always go, and no number leads to an invalid wait for the next."""
    bucket = TokenBucket(rate, burst)
    assert bucket.reserve(now, 0) == 0
    assert 0 <= bucket.retry_in(now) <= 1.001 / rate + 2 * math.ulp(now)


def test_a_token_available_now_precedes_a_returned_slot():
    """A token that is free now is used before a future slot that was returned."""
    bucket = TokenBucket(0.5, 4)
    assert [bucket.reserve(0, 5) for _ in range(6)] == [0, 0, 0, 0, 2, 4]
    for due in (0, 0, 0):
        bucket.give_back(due, 0)
    bucket.give_back(2, 0)
    assert bucket.retry_in(0) == 0
    assert bucket.reserve(0, 0) == 0


class BucketMachine(RuleBasedStateMachine):
    """Callers reserve, wake, give up and are paused in any order; the clock may stand still."""

    @initialize(rate=st.sampled_from([0.5, 1.0, 3.0, 20.0]), burst=st.integers(1, 5))
    def start(self, rate: float, burst: int):
        self.rate, self.burst = rate, burst
        self.bucket = TokenBucket(rate, burst)
        self.now = 0.0
        self.paused_until = 0.0
        self.waiting: list[float] = []
        self.sent: list[float] = []

    @rule(longest=st.sampled_from([0.0, 0.5, 5.0, math.inf]))
    def reserve(self, longest: float):
        expected = self.bucket.retry_in(self.now)
        assert expected == self.bucket.retry_in(self.now)
        wait = self.bucket.reserve(self.now, longest)
        assert wait == (expected if expected <= longest else None)
        if wait is not None:
            assert wait >= 0
            assert self.now + wait >= self.paused_until - ROUNDING
            self.waiting.append(self.now + wait)

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.3, 1.0, 10.0]))
    def time_passes(self, seconds: float):
        """Each caller that comes due checks for a pause, then sends."""
        end = self.now + seconds
        while self.waiting and min(self.waiting) <= end:
            due = min(self.waiting)
            self.waiting.remove(due)
            self.now = max(self.now, due)
            if more := self.bucket.paused(due, self.now):
                self.waiting.append(self.now + more)
            else:
                assert self.now >= self.paused_until
                self.sent.append(due)
        self.now = max(self.now, end)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject):
        due = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        before = self.bucket.retry_in(self.now)
        self.bucket.give_back(due, self.now)
        assert self.bucket.retry_in(self.now) <= before + ROUNDING

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def turn_out_not_to_have_left(self, data: st.DataObject):
        due = self.sent.pop(data.draw(st.integers(max(0, len(self.sent) - 5), len(self.sent) - 1)))
        before = self.bucket.retry_in(self.now)
        self.bucket.give_back(due, self.now)
        assert self.bucket.retry_in(self.now) <= before + ROUNDING

    @rule(seconds=st.sampled_from([0.0, 0.1, 2.0]))
    def push_back(self, seconds: float):
        self.bucket.pause(self.now + seconds)
        self.paused_until = max(self.paused_until, self.now + seconds)

    @invariant()
    def no_window_holds_too_many(self):
        if hasattr(self, "bucket"):
            alive = [due for due in self.waiting if due >= self.paused_until]
            assert within_limit(self.sent + alive, self.rate, self.burst)


TestBucketMachine = BucketMachine.TestCase
TestBucketMachine.settings = settings(TestBucketMachine.settings, max_examples=60)

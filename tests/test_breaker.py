"""The circuit breaker under a clock of our own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient_mcp import BreakerPolicy
from resilient_mcp.strategies.breaker import Breaker, BreakerState, Permit

CLOSED, OPEN, HALF_OPEN, ISOLATED = BreakerState
ROUNDING = 1e-6


def admitted(breaker: Breaker, now: float) -> Permit:
    permit = breaker.admit(now)
    assert permit is not None
    return permit


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(admitted(breaker, now), now)


def succeed(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.succeeded(admitted(breaker, now), now)


def opened(now: float = 0, **numbers: float) -> Breaker:
    breaker = Breaker(BreakerPolicy.model_validate(numbers))
    fail(breaker, now, 5)
    assert breaker.state is OPEN
    return breaker


def test_failures_in_a_row_open_it():
    """The fifth opens it; a success in between starts the count anew."""
    breaker = Breaker(BreakerPolicy(min_calls=100))
    fail(breaker, 0, 4)
    succeed(breaker, 0)
    fail(breaker, 0, 4)
    assert breaker.state is CLOSED
    assert breaker.retry_in(0) == 0
    fail(breaker, 0)
    assert breaker.state is OPEN
    assert breaker.retry_in(0) == 60


def test_a_share_of_failures_opens_it():
    """Half of ten calls, at the failure that makes it so and at no success."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 5)
    succeed(breaker, 0, 5)
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


def test_few_calls_have_no_share():
    """Nine failures of nine calls are no share of ten."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 9)
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_share_is_reached_exactly(percent: int):
    """n of 100 calls reach a rate of n/100, whatever floats make of it."""
    breaker = Breaker(BreakerPolicy(failures=1000, min_calls=100, rate=percent / 100))
    succeed(breaker, 0, 100 - percent)
    fail(breaker, 0, percent - 1)
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


def test_what_is_older_than_the_window_is_forgotten():
    """Failures of half a minute ago have no share in what is now."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 9)
    fail(breaker, 30)
    assert breaker.state is CLOSED
    fail(breaker, 33, 8)
    assert breaker.state is CLOSED
    fail(breaker, 36)
    assert breaker.state is OPEN


def test_the_window_takes_no_more_memory_for_more_calls():
    """Twenty thousand calls leave a handful of numbers."""
    breaker = Breaker(BreakerPolicy())
    for n in range(20_000):
        succeed(breaker, n / 200)
        assert len(breaker._window._buckets) <= 11
    assert 5_400 <= breaker._window.calls <= 6_000


def test_an_open_circuit_refuses_until_its_time_is_over():
    """Then exactly one trial goes out, and its success closes the circuit."""
    breaker = opened()
    assert [breaker.admit(now) for now in (0, 30, 59.9)] == [None] * 3
    assert breaker.retry_in(59) == 1
    trial = admitted(breaker, 60)
    assert (trial.trial, trial.began, breaker.state) == (True, 60, HALF_OPEN)
    assert breaker.admit(61) is None
    assert breaker.retry_in(61) == 29
    breaker.succeeded(trial, 62)
    assert breaker.state is CLOSED
    assert admitted(breaker, 62).trial is False


def test_an_open_circuit_refuses_a_thousand_callers():
    """However many ask."""
    breaker = opened()
    assert not any(breaker.admit(1) for _ in range(1000))


def test_the_open_time_doubles_with_each_reopening_in_a_row():
    """60, 120, 240, 300, 300; after a success, 60 again."""
    breaker = opened()
    now = 0.0
    waits = []
    for _ in range(5):
        wait = breaker.retry_in(now)
        assert wait is not None
        waits.append(wait)
        now += wait
        fail(breaker, now)
    assert waits == [60, 120, 240, 300, 300]
    now += 300
    succeed(breaker, now)
    fail(breaker, now, 5)
    assert breaker.retry_in(now) == 60


def test_a_trial_that_takes_too_long_keeps_nobody_out():
    """After its time limit the next one goes, and decides alone."""
    breaker = opened()
    slow = admitted(breaker, 60)
    assert breaker.admit(89.9) is None
    second = admitted(breaker, 90)
    breaker.failed(slow, 91)
    assert breaker.state is HALF_OPEN
    assert breaker.admit(91) is None
    breaker.succeeded(second, 92)
    assert breaker.state is CLOSED


def test_a_slow_trial_that_nobody_replaced_still_decides():
    """Its permit lapsed, but its answer is the latest news."""
    breaker = opened()
    slow = admitted(breaker, 60)
    breaker.succeeded(slow, 200)
    assert breaker.state is CLOSED


def test_a_cancelled_trial_gives_its_permit_back():
    """It says nothing, and the next caller has its place."""
    breaker = opened()
    breaker.released(admitted(breaker, 60))
    assert breaker.state is HALF_OPEN
    assert breaker.retry_in(60) == 0
    assert admitted(breaker, 60).trial


def test_cancelled_calls_count_for_nothing():
    """Neither as failures nor as successes."""
    breaker = Breaker(BreakerPolicy())
    fail(breaker, 0, 4)
    for _ in range(100):
        breaker.released(admitted(breaker, 0))
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


SETTLE: list[Callable[[Breaker, Permit], None]] = [
    lambda breaker, permit: breaker.succeeded(permit, 70),
    lambda breaker, permit: breaker.failed(permit, 70),
    lambda breaker, permit: breaker.released(permit),
]


@pytest.mark.parametrize("settle", SETTLE, ids=["success", "failure", "release"])
def test_late_outcomes_say_nothing(settle: Callable[[Breaker, Permit], None]):
    """A call from before the circuit opened does not close it, end the trial, or count once it is closed again."""
    breaker = Breaker(BreakerPolicy())
    late = [admitted(breaker, 0) for _ in range(30)]
    fail(breaker, 0, 5)
    settle(breaker, late.pop())
    assert (breaker.state, breaker.retry_in(0)) == (OPEN, 60)
    trial = admitted(breaker, 60)
    settle(breaker, late.pop())
    assert (breaker.state, breaker.admit(70)) == (HALF_OPEN, None)
    breaker.succeeded(trial, 70)
    for permit in late:
        settle(breaker, permit)
    fail(breaker, 70, 4)
    assert breaker.state is CLOSED


@pytest.mark.parametrize("settle", SETTLE, ids=["success", "failure", "release"])
def test_a_permit_is_settled_once(settle: Callable[[Breaker, Permit], None]):
    """Settling it again is ignored."""
    breaker = Breaker(BreakerPolicy(failures=2))
    permit = admitted(breaker, 60)
    breaker.failed(permit, 60)
    for _ in range(10):
        settle(breaker, permit)
    assert breaker.state is CLOSED
    fail(breaker, 60)
    assert breaker.state is OPEN


def test_news_counts_once():
    """Fifty calls hit by one 502, or by one lost connection, are one failure; a call that began after it is news."""
    breaker = Breaker(BreakerPolicy())
    for n in range(4):
        permits = [admitted(breaker, 10 * n + 1) for _ in range(50)]
        for permit in permits:
            breaker.failed(permit, 10 * n + 2)
        assert breaker.state is CLOSED
    breaker.failed(admitted(breaker, 50), 51)
    assert breaker.state is OPEN


def test_a_trial_that_loses_its_connection_reopens_at_once():
    """Even when the clock has not moved since the failure before."""
    breaker = opened()
    breaker.hint(0)
    breaker.failed(admitted(breaker, 0), 0)
    assert (breaker.state, breaker.retry_in(0)) == (OPEN, 120)


def test_a_sign_of_life_lets_the_trial_go_early():
    """An open circuit turns half-open at once; the others stay what they are."""
    breaker = opened()
    breaker.hint(1)
    assert (breaker.state, breaker.retry_in(1)) == (HALF_OPEN, 0)
    trial = admitted(breaker, 1)
    breaker.hint(1)
    assert breaker.admit(1) is None
    breaker.succeeded(trial, 1)
    breaker.hint(1)
    assert breaker.state is CLOSED


def test_isolated_by_hand():
    """Only `reset` ends it: no time, no sign of life, no late answer."""
    breaker = Breaker(BreakerPolicy())
    late = admitted(breaker, 0)
    breaker.isolate(0)
    breaker.hint(1)
    breaker.succeeded(late, 1)
    assert (breaker.state, breaker.admit(1e9), breaker.retry_in(1e9)) == (ISOLATED, None, None)
    breaker.reset()
    assert breaker.state is CLOSED
    assert breaker.admit(1e9)


def test_reset_forgets():
    """The count, the window and the open time start anew."""
    breaker = opened()
    fail(breaker, 60)
    breaker.reset()
    fail(breaker, 60, 4)
    assert breaker.state is CLOSED
    fail(breaker, 60)
    assert breaker.retry_in(60) == 60


def test_a_closed_circuit_forgets_why_it_was_open():
    """A trial soon after the failures succeeds: they have no share in what comes then."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 10)
    assert breaker.state is OPEN
    breaker.hint(1)
    succeed(breaker, 1)
    fail(breaker, 1, 9)
    assert breaker.state is CLOSED


def test_permits_are_equal_only_to_themselves():
    """Two of the same moment are two."""
    breaker = Breaker(BreakerPolicy())
    assert admitted(breaker, 0) != admitted(breaker, 0)


class BreakerMachine(RuleBasedStateMachine):
    """Any order of events, under a clock that may stand still."""

    @initialize(failures=st.integers(1, 4), rate=st.floats(0.01, 1), min_calls=st.integers(1, 6), cap=st.floats(5, 50))
    def start(self, failures: int, rate: float, min_calls: int, cap: float):
        self.policy = BreakerPolicy(
            failures=failures, rate=rate, min_calls=min_calls, window=10, open=5, max_open=cap, trial=3
        )
        self.breaker = Breaker(self.policy)
        self.now = 0.0
        self.permits: list[Permit] = []
        self.settled: list[Permit] = []
        self.newest_trial: Permit | None = None

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 3.0, 5.0, 60.0]))
    def time_passes(self, seconds: float):
        self.now += seconds

    @rule()
    def admit(self):
        before = self.breaker.state
        wait = self.breaker.retry_in(self.now)
        permit = self.breaker.admit(self.now)
        assert (permit is not None) == (wait == 0)
        if permit is None:
            assert before is not CLOSED
            return
        assert permit.trial == (before is not CLOSED)
        assert permit.began == self.now
        if permit.trial:
            live = self.newest_trial
            assert live is None or self.now >= live.began + self.policy.trial
            self.newest_trial = permit
        self.permits.append(permit)

    def taken(self, data: st.DataObject) -> Permit:
        permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        self.settled.append(permit)
        return permit

    @precondition(lambda self: self.permits)
    @rule(data=st.data(), how=st.sampled_from(["succeeded", "failed", "released"]))
    def settle(self, data: st.DataObject, how: str):
        permit = self.taken(data)
        before = self.breaker.state
        decides = permit is self.newest_trial and before is HALF_OPEN
        match how:
            case "succeeded":
                self.breaker.succeeded(permit, self.now)
                expected = CLOSED if decides else before
            case "released":
                self.breaker.released(permit)
                expected = before
            case _:
                self.breaker.failed(permit, self.now)
                expected = OPEN if decides or self.breaker.state is OPEN else before
        assert self.breaker.state is expected
        if before is CLOSED and self.breaker.state is OPEN:
            assert how == "failed"
        if permit is self.newest_trial:
            self.newest_trial = None
        self.settled_state()

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject):
        permit = data.draw(st.sampled_from(self.settled))
        before = (self.breaker.state, self.breaker.retry_in(self.now), self.breaker._in_a_row)
        self.breaker.succeeded(permit, self.now)
        self.breaker.failed(permit, self.now)
        self.breaker.released(permit)
        assert before == (self.breaker.state, self.breaker.retry_in(self.now), self.breaker._in_a_row)

    @rule()
    def hint(self):
        before = self.breaker.state
        self.breaker.hint(self.now)
        assert self.breaker.state is (HALF_OPEN if before is OPEN else before)

    @rule()
    def isolate(self):
        self.breaker.isolate(self.now)
        self.settled_state()

    @rule()
    def reset(self):
        self.breaker.reset()
        assert self.breaker.state is CLOSED
        self.settled_state()

    def settled_state(self):
        if self.breaker.state is not HALF_OPEN:
            self.newest_trial = None

    @invariant()
    def waits_are_within_bounds(self):
        wait = self.breaker.retry_in(self.now)
        match self.breaker.state:
            case BreakerState.ISOLATED:
                assert wait is None
            case BreakerState.CLOSED:
                assert wait == 0
            case BreakerState.OPEN:
                assert wait is not None
                assert 0 <= wait <= self.policy.max_open + ROUNDING
            case BreakerState.HALF_OPEN:
                assert wait is not None
                assert 0 <= wait <= self.policy.trial + ROUNDING

    @invariant()
    def the_window_adds_up(self):
        window = self.breaker._window
        assert len(window._buckets) <= 11
        assert window.calls == sum(bucket.calls for bucket in window._buckets)
        assert window.failures == sum(bucket.failures for bucket in window._buckets)
        assert 0 <= window.failures <= window.calls


TestBreakerMachine = BreakerMachine.TestCase
TestBreakerMachine.settings = settings(TestBreakerMachine.settings, max_examples=60)

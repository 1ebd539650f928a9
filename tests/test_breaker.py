"""The circuit breaker, driven by an explicit clock."""

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


def test_consecutive_failures_open_the_circuit():
    """The fifth consecutive failure opens the circuit; a success resets the count."""
    breaker = Breaker(BreakerPolicy(min_calls=100))
    fail(breaker, 0, 4)
    succeed(breaker, 0)
    fail(breaker, 0, 4)
    assert breaker.state is CLOSED
    assert breaker.retry_in(0) == 0
    fail(breaker, 0)
    assert breaker.state is OPEN
    assert breaker.retry_in(0) == 60


def test_the_failure_rate_opens_the_circuit():
    """Half of at least ten calls opens the circuit, on the failure that reaches the rate, never on a success."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 5)
    succeed(breaker, 0, 5)
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


def test_the_failure_rate_needs_a_minimum_of_calls():
    """Nine failures in nine calls do not open the circuit when `min_calls` is ten."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 9)
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


@pytest.mark.parametrize("percent", range(1, 101))
def test_the_failure_rate_is_exact(percent: int):
    """n failures in 100 calls reach a rate of n/100, despite floating-point rounding."""
    breaker = Breaker(BreakerPolicy(failures=1000, min_calls=100, rate=percent / 100))
    succeed(breaker, 0, 100 - percent)
    fail(breaker, 0, percent - 1)
    assert breaker.state is CLOSED
    fail(breaker, 0)
    assert breaker.state is OPEN


def test_failures_older_than_the_window_are_forgotten():
    """Failures from half a minute ago do not count towards the rate."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 9)
    fail(breaker, 30)
    assert breaker.state is CLOSED
    fail(breaker, 33, 8)
    assert breaker.state is CLOSED
    fail(breaker, 36)
    assert breaker.state is OPEN


def test_the_window_uses_constant_memory():
    """After twenty thousand calls the window still holds at most eleven buckets."""
    breaker = Breaker(BreakerPolicy())
    for n in range(20_000):
        succeed(breaker, n / 200)
        assert len(breaker._window._buckets) <= 11
    assert 5_400 <= breaker._window.calls <= 6_000


def test_an_open_circuit_refuses_calls_until_its_open_time_has_passed():
    """Then exactly one trial is admitted, and its success closes the circuit."""
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
    """None of a thousand callers is admitted."""
    breaker = opened()
    assert not any(breaker.admit(1) for _ in range(1000))


def test_the_open_time_doubles_with_each_reopening_in_a_row():
    """It grows 60, 120, 240, 300, 300 s, and is 60 s again after a success."""
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


def test_a_slow_trial_does_not_block_the_next_one():
    """After its time limit the next trial is admitted, and only that one decides."""
    breaker = opened()
    slow = admitted(breaker, 60)
    assert breaker.admit(89.9) is None
    second = admitted(breaker, 90)
    breaker.failed(slow, 91)
    assert breaker.state is HALF_OPEN
    assert breaker.admit(91) is None
    breaker.succeeded(second, 92)
    assert breaker.state is CLOSED


def test_a_slow_trial_that_was_not_replaced_still_decides():
    """Its permit has lapsed, but its outcome is the most recent one."""
    breaker = opened()
    slow = admitted(breaker, 60)
    breaker.succeeded(slow, 200)
    assert breaker.state is CLOSED


def test_a_cancelled_trial_gives_its_permit_back():
    """Its outcome is not counted, and the next caller becomes the trial."""
    breaker = opened()
    breaker.released(admitted(breaker, 60))
    assert breaker.state is HALF_OPEN
    assert breaker.retry_in(60) == 0
    assert admitted(breaker, 60).trial


def test_cancelled_calls_are_not_counted():
    """A hundred cancelled calls neither count as failures nor reset the failure count."""
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
def test_late_outcomes_are_not_counted(settle: Callable[[Breaker, Permit], None]):
    """A call admitted before the circuit opened does not close it, end its trial, or count after it has closed."""
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
    """Settling a permit a second time has no effect."""
    breaker = Breaker(BreakerPolicy(failures=2))
    permit = admitted(breaker, 60)
    breaker.failed(permit, 60)
    for _ in range(10):
        settle(breaker, permit)
    assert breaker.state is CLOSED
    fail(breaker, 60)
    assert breaker.state is OPEN


def test_simultaneous_failures_count_once():
    """Fifty calls hit by the same 502 or lost connection count as one failure; a call that began later counts again."""
    breaker = Breaker(BreakerPolicy())
    for n in range(4):
        permits = [admitted(breaker, 10 * n + 1) for _ in range(50)]
        for permit in permits:
            breaker.failed(permit, 10 * n + 2)
        assert breaker.state is CLOSED
    breaker.failed(admitted(breaker, 50), 51)
    assert breaker.state is OPEN


def test_a_failed_trial_reopens_the_circuit_immediately():
    """It does so even when the clock has not advanced since the previous failure."""
    breaker = opened()
    breaker.hint(0)
    breaker.failed(admitted(breaker, 0), 0)
    assert (breaker.state, breaker.retry_in(0)) == (OPEN, 120)


def test_a_sign_of_life_admits_the_trial_early():
    """An open circuit becomes half-open immediately; other states do not change."""
    breaker = opened()
    breaker.hint(1)
    assert (breaker.state, breaker.retry_in(1)) == (HALF_OPEN, 0)
    trial = admitted(breaker, 1)
    breaker.hint(1)
    assert breaker.admit(1) is None
    breaker.succeeded(trial, 1)
    breaker.hint(1)
    assert breaker.state is CLOSED


def test_an_isolated_circuit_stays_open_until_reset():
    """Neither time, nor a sign of life, nor a late answer closes it; only `reset` does."""
    breaker = Breaker(BreakerPolicy())
    late = admitted(breaker, 0)
    breaker.isolate(0)
    breaker.hint(1)
    breaker.succeeded(late, 1)
    assert (breaker.state, breaker.admit(1e9), breaker.retry_in(1e9)) == (ISOLATED, None, None)
    breaker.reset()
    assert breaker.state is CLOSED
    assert breaker.admit(1e9)


def test_reset_clears_the_history():
    """The failure count, the window and the open time start over."""
    breaker = opened()
    fail(breaker, 60)
    breaker.reset()
    fail(breaker, 60, 4)
    assert breaker.state is CLOSED
    fail(breaker, 60)
    assert breaker.retry_in(60) == 60


def test_closing_the_circuit_clears_earlier_failures():
    """After a successful trial, the failures that opened the circuit no longer count towards the rate."""
    breaker = Breaker(BreakerPolicy(failures=100))
    fail(breaker, 0, 10)
    assert breaker.state is OPEN
    breaker.hint(1)
    succeed(breaker, 1)
    fail(breaker, 1, 9)
    assert breaker.state is CLOSED


def test_permits_are_equal_only_to_themselves():
    """Two permits issued at the same time are distinct."""
    breaker = Breaker(BreakerPolicy())
    assert admitted(breaker, 0) != admitted(breaker, 0)


class BreakerMachine(RuleBasedStateMachine):
    """Runs events in any order, on a clock that may stand still."""

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

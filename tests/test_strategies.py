"""Back-off, restart meter, budget, bulkhead and loop guard, with time and randomness as arguments."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilient_mcp import BudgetPolicy, LoopGuard, RestartPolicy
from resilient_mcp.strategies.backoff import exponential, full_jitter, half_jitter
from resilient_mcp.strategies.budget import RetryBudget
from resilient_mcp.strategies.concurrency import Bulkhead, Ticket
from resilient_mcp.strategies.loop_guard import RefusalCounter
from resilient_mcp.strategies.restart_meter import RestartMeter

CHANCE = st.floats(0, 1)


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 1e6), CHANCE)
def test_waits_are_bounded(n: int, base: float, cap: float, random: float):
    """No wait is negative or above its cap, however many came before."""
    longest = exponential(n, base=base, cap=cap)
    assert 0 <= full_jitter(n, base=base, cap=cap, random=random) <= longest <= cap
    assert longest / 2 <= half_jitter(n, base=base, cap=cap, random=random) <= longest


def test_waits_double():
    """Waits are base * 2ⁿ, up to the cap."""
    assert [exponential(n, base=0.5, cap=3) for n in range(5)] == [0.5, 1, 2, 3, 3]


def test_the_first_restart_is_immediate_and_later_ones_back_off():
    """The delays are 0, then 0.5 s * 2ⁿ."""
    meter = RestartMeter(RestartPolicy(intensity=9))
    assert [meter.next(0, 1).delay for _ in range(5)] == [0, 0.5, 1, 2, 4]


def test_more_than_intensity_within_period_suspends():
    """The sixth loss within 60 s suspends for 30 s, the next one for 60 s, at most 300 s."""
    meter = RestartMeter(RestartPolicy())
    now = 0.0
    suspensions = []
    for _ in range(40):
        step = meter.next(now, 1)
        if step.suspended:
            suspensions.append(step.delay)
            now += step.delay
    assert suspensions[:5] == [30, 60, 120, 240, 300]


def test_slow_failures_do_not_suspend():
    """Losses spread over more than the period only back off."""
    meter = RestartMeter(RestartPolicy())
    assert not any(meter.next(n * 13.0, 1).suspended for n in range(50))


def test_only_proven_clears_the_count():
    """`proven` resets the meter; nothing else does."""
    meter = RestartMeter(RestartPolicy())
    for _ in range(5):
        meter.next(0, 1)
    meter.proven()
    assert meter.next(0, 1).delay == 0
    meter.proven()
    meter.proven()
    assert meter.next(0, 1).delay == 0


def test_unreachable_servers_are_not_metered():
    """A server that cannot be reached is retried with back-off, and never suspended."""
    meter = RestartMeter(RestartPolicy())
    steps = [meter.next(0, 1, metered=False) for _ in range(50)]
    assert not any(step.suspended for step in steps)
    assert steps[-1].delay == 30


@given(st.lists(st.tuples(st.floats(0, 100), CHANCE, st.booleans()), max_size=60))
def test_starts_within_any_period_are_bounded(steps: list[tuple[float, float, bool]]):
    """Without a proof in between, a window of `period` holds at most `intensity` + 1 starts."""
    policy = RestartPolicy(suspend=60)
    meter = RestartMeter(policy)
    now = 0.0
    starts: list[float] = []
    for pause, random, proven in steps:
        if proven:
            meter.proven()
            starts.clear()
        step = meter.next(now, random)
        assert 0 <= step.delay <= policy.max_suspend
        now += step.delay
        starts.append(now)
        window = [start for start in starts if start > now - policy.period]
        assert len(window) <= policy.intensity + 1
        now += pause


def test_an_hour_of_back_off_takes_no_time():
    """An hour of outage is retried at the meter's pace on a simulated clock, so no test sleeps."""
    for metered, fewest, most in ((True, 10, 30), (False, 120, 260)):
        meter = RestartMeter(RestartPolicy())
        now, tries = 0.0, 0
        while now < 3600:
            now += meter.next(now, 0.5, metered=metered).delay
            tries += 1
        assert fewest < tries < most


class MeterMachine(RuleBasedStateMachine):
    """Losses and proofs in any order, with a clock that may stand still."""

    @initialize(intensity=st.integers(1, 4), metered=st.booleans())
    def start(self, intensity: int, metered: bool):
        self.policy = RestartPolicy(intensity=intensity, base=1, max_delay=8, period=20, suspend=25, max_suspend=60)
        self.meter = RestartMeter(self.policy)
        self.metered = metered
        self.now = 0.0
        self.starts: list[float] = []
        self.suspension = 0.0
        self.fresh = True

    @rule(seconds=st.sampled_from([0.0, 0.5, 7.0, 100.0]))
    def time_passes(self, seconds: float):
        self.now += seconds

    @rule()
    def proven(self):
        self.meter.proven()
        self.starts.clear()
        self.suspension = 0.0
        self.fresh = True

    @rule(random=CHANCE, patient=st.booleans())
    def lost(self, random: float, patient: bool):
        recent = [start for start in self.starts if start > self.now - self.policy.period]
        step = self.meter.next(self.now, random, metered=self.metered)
        if step.suspended:
            assert self.metered
            assert self.policy.suspend <= step.delay <= self.policy.max_suspend
            assert step.delay >= self.suspension, "each suspension in a row is as long as the one before, or longer"
            assert self.suspension or len(recent) >= self.policy.intensity
            self.suspension = step.delay
        else:
            assert not self.suspension, "only a proof ends a series of suspensions"
            assert 0 <= step.delay <= self.policy.max_delay
            assert (step.delay == 0) == self.fresh
            assert not self.metered or len(recent) < self.policy.intensity
            self.starts.append(self.now)
        self.fresh = False
        if patient:
            self.now += step.delay


TestMeterMachine = MeterMachine.TestCase
TestMeterMachine.settings = settings(TestMeterMachine.settings, max_examples=60)


class BudgetMachine(RuleBasedStateMachine):
    """Retries and successes in any order."""

    @initialize(tokens=st.floats(1, 20), cost=st.floats(0.1, 1), refund=st.one_of(st.just(0.0), st.floats(0, 5)))
    def start(self, tokens: float, cost: float, refund: float):
        self.policy = BudgetPolicy(tokens=tokens, cost=cost, refund=refund)
        self.budget = RetryBudget(self.policy)
        assert self.budget.tokens == tokens

    @rule()
    def spend(self):
        before = self.budget.tokens
        if self.budget.spend():
            assert self.budget.tokens == before - self.policy.cost
        else:
            assert self.budget.tokens == before < self.policy.cost

    @rule()
    def earn(self):
        before = self.budget.tokens
        self.budget.earn()
        assert before <= self.budget.tokens <= before + self.policy.refund

    @invariant()
    def is_neither_overdrawn_nor_overfull(self):
        assert not hasattr(self, "budget") or 0 <= self.budget.tokens <= self.policy.tokens


TestBudgetMachine = BudgetMachine.TestCase
TestBudgetMachine.settings = settings(TestBudgetMachine.settings, max_examples=60)


def test_a_budget_lasts_for_its_retries_and_no_longer():
    """A budget allows exactly a hundred retries; two successes pay for one more."""
    budget = RetryBudget(BudgetPolicy())
    assert [budget.spend() for _ in range(102)] == [True] * 100 + [False] * 2
    budget.earn()
    assert not budget.spend()
    budget.earn()
    assert budget.spend()


def test_a_bulkhead_admits_queues_and_refuses():
    """Two run, two wait, the fifth is refused; a call that ends admits the first in the queue."""
    bulkhead = Bulkhead(limit=2, queue=2)
    tickets = [bulkhead.enter() for _ in range(5)]
    assert [ticket and ticket.admitted for ticket in tickets] == [True, True, False, False, None]
    assert (bulkhead.running, bulkhead.waiting) == (2, 2)
    first, _, third, fourth, _ = tickets
    assert first is not None
    assert fourth is not None
    assert bulkhead.leave(first) is third
    assert bulkhead.leave(first) is None
    assert bulkhead.leave(fourth) is None
    assert (bulkhead.running, bulkhead.waiting) == (2, 0)


def test_without_a_queue_the_second_call_is_refused():
    """One runs, the next is refused."""
    bulkhead = Bulkhead(limit=1, queue=0)
    ticket = bulkhead.enter()
    assert ticket is not None
    assert bulkhead.enter() is None
    bulkhead.leave(ticket)
    assert bulkhead.running == 0


class BulkheadMachine(RuleBasedStateMachine):
    """Calls arrive, leave, give up while waiting, and leave twice."""

    @initialize(limit=st.integers(1, 3), queue=st.integers(0, 3))
    def start(self, limit: int, queue: int):
        self.limit, self.queue = limit, queue
        self.bulkhead = Bulkhead(limit, queue)
        self.running: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.gone: list[Ticket] = []

    @rule()
    def enter(self):
        ticket = self.bulkhead.enter()
        if ticket is None:
            assert len(self.running) == self.limit
            assert len(self.waiting) == self.queue
        elif ticket.admitted:
            self.running.append(ticket)
        else:
            self.waiting.append(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject):
        ticket = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.gone.append(ticket)
        successor = self.bulkhead.leave(ticket)
        if self.waiting:
            assert successor is self.waiting.pop(0)
            self.running.append(successor)
        else:
            assert successor is None

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject):
        ticket = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        self.gone.append(ticket)
        assert self.bulkhead.leave(ticket) is None

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def leave_again(self, data: st.DataObject):
        assert self.bulkhead.leave(data.draw(st.sampled_from(self.gone))) is None

    @invariant()
    def counts_are_right(self):
        if hasattr(self, "bulkhead"):
            assert (self.bulkhead.running, self.bulkhead.waiting) == (len(self.running), len(self.waiting))
            assert len(self.running) <= self.limit
            assert len(self.waiting) <= self.queue
            assert not self.waiting or len(self.running) == self.limit
            assert all(ticket.admitted for ticket in self.running)
            assert not any(ticket.admitted for ticket in self.waiting)


TestBulkheadMachine = BulkheadMachine.TestCase
TestBulkheadMachine.settings = settings(TestBulkheadMachine.settings, max_examples=60)


def test_the_loop_guard_warns_from_the_fifth_refusal():
    """There is no warning before the fifth, and an answer that is not an error resets the count."""
    counter = RefusalCounter(LoopGuard())
    assert [counter.record(n, refused=True) for n in range(6)] == [None] * 4 + [5, 6]
    assert counter.record(6, refused=False) is None
    assert [counter.record(n, refused=True) for n in range(5)] == [None] * 4 + [5]


def test_old_refusals_are_not_counted():
    """Only refusals within the window count."""
    counter = RefusalCounter(LoopGuard(failures=2, window=10))
    assert [counter.record(now, refused=True) for now in (0, 11, 21, 22, 40)] == [None, None, 2, 2, None]


def test_refusals_take_bounded_memory():
    """The count stops at a hundred, or at the configured number."""
    for failures, most in ((5, 100), (150, 150)):
        counter = RefusalCounter(LoopGuard(failures=failures))
        assert [counter.record(0, refused=True) for _ in range(1000)][-1] == most


@pytest.mark.parametrize("bad", [{"intensity": 0}, {"period": -1}, {"base": -0.1}])
def test_impossible_numbers(bad: dict[str, float]):
    """Impossible values are rejected."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        RestartPolicy.model_validate(bad)

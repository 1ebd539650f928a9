"""Back-off and the restart meter, with time and chance as arguments."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient_mcp import RestartPolicy
from resilient_mcp.strategies.backoff import exponential, full_jitter, half_jitter
from resilient_mcp.strategies.restart_meter import RestartMeter

CHANCE = st.floats(0, 1)


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 1e6), CHANCE)
def test_waits_are_bounded(n: int, base: float, cap: float, random: float):
    """No wait is negative or over its cap, however many went before."""
    longest = exponential(n, base=base, cap=cap)
    assert 0 <= full_jitter(n, base=base, cap=cap, random=random) <= longest <= cap
    assert longest / 2 <= half_jitter(n, base=base, cap=cap, random=random) <= longest


def test_waits_double():
    """base * 2ⁿ, up to the cap."""
    assert [exponential(n, base=0.5, cap=3) for n in range(5)] == [0.5, 1, 2, 3, 3]


def test_the_first_replacement_is_at_once_and_later_ones_back_off():
    """0, then 0.5 s * 2ⁿ."""
    meter = RestartMeter(RestartPolicy(intensity=9))
    assert [meter.next(0, 1).delay for _ in range(5)] == [0, 0.5, 1, 2, 4]


def test_more_than_intensity_within_period_suspends():
    """The sixth within 60 s suspends for 30 s, the next time for 60 s, at most 300 s."""
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
    """Spread over more than the period, replacements only back off."""
    meter = RestartMeter(RestartPolicy())
    assert not any(meter.next(n * 13.0, 1).suspended for n in range(50))


def test_only_proof_clears_the_count():
    """`proven` starts all over; nothing else does."""
    meter = RestartMeter(RestartPolicy())
    for _ in range(5):
        meter.next(0, 1)
    meter.proven()
    assert meter.next(0, 1).delay == 0
    meter.proven()
    meter.proven()
    assert meter.next(0, 1).delay == 0


def test_what_was_not_started_is_not_metered():
    """A server that cannot be reached is tried on, with back-off, and never suspended."""
    meter = RestartMeter(RestartPolicy())
    steps = [meter.next(0, 1, metered=False) for _ in range(50)]
    assert not any(step.suspended for step in steps)
    assert steps[-1].delay == 30


@given(st.lists(st.tuples(st.floats(0, 100), CHANCE, st.booleans()), max_size=60))
def test_no_more_than_intensity_starts_within_any_period(steps: list[tuple[float, float, bool]]):
    """Whatever happens, between two proofs no window of `period` holds more than `intensity` starts."""
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


@pytest.mark.parametrize("bad", [{"intensity": 0}, {"period": -1}, {"base": -0.1}])
def test_impossible_numbers(bad: dict[str, float]):
    """A policy that cannot be is refused."""
    with pytest.raises(ValueError, match=next(iter(bad))):
        RestartPolicy.model_validate(bad)

"""Exponential back-off: how long to wait before try number n."""

from __future__ import annotations

_MAX_EXPONENT = 63
"""2.0 ** 63 is past every cap; an unbounded exponent would overflow a float."""


def exponential(n: int, *, base: float, cap: float) -> float:
    """`base` * 2ⁿ seconds, at most `cap`; `n` starts at 0."""
    return min(cap, base * 2.0 ** min(n, _MAX_EXPONENT))


def full_jitter(n: int, *, base: float, cap: float, random: float) -> float:
    """A wait drawn from 0 to `exponential(n)`: spreads callers that failed together (AWS's "full jitter").

    Args:
        n: How many waits went before this one.
        base: The scale, in seconds.
        cap: The longest wait, in seconds.
        random: A number from 0 to 1.
    """
    return random * exponential(n, base=base, cap=cap)


def half_jitter(n: int, *, base: float, cap: float, random: float) -> float:
    """A wait drawn from the upper half of `exponential(n)`: spread, but never at once."""
    return (0.5 + random / 2) * exponential(n, base=base, cap=cap)

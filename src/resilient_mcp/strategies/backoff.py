"""Exponential back-off: how long to wait before attempt n."""

from __future__ import annotations

# 2.0 ** 63 exceeds every cap; an unbounded exponent would overflow a float.
_MAX_EXPONENT = 63


def exponential(n: int, *, base: float, cap: float) -> float:
    """`base` * 2ⁿ seconds, at most `cap`; `n` starts at 0."""
    return min(cap, base * 2.0 ** min(n, _MAX_EXPONENT))


def full_jitter(n: int, *, base: float, cap: float, random: float) -> float:
    """A random wait from 0 to `exponential(n)`: spreads callers that failed together (AWS's "full jitter").

    Args:
        n: The number of earlier waits.
        base: The scale in seconds.
        cap: The longest wait in seconds.
        random: A number from 0 to 1.
    """
    return random * exponential(n, base=base, cap=cap)


def half_jitter(n: int, *, base: float, cap: float, random: float) -> float:
    """A random wait from the upper half of `exponential(n)`: spread out, but never zero."""
    return (0.5 + random / 2) * exponential(n, base=base, cap=cap)

"""The faults of a `FaultProxy`, named as in toxiproxy (https://github.com/Shopify/toxiproxy).

Each toxic is a value that is added to a proxy and removed again. All toxics take two more keyword arguments:
`direction`, which is "downstream" (what the server sends, the default) or "upstream" (what the client sends), and
`toxicity`, the probability from 0 to 1 that a connection is affected at all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Direction = Literal["upstream", "downstream"]
"""Upstream is from the client to the server, downstream from the server to the client."""


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """Base class of all toxics.

    Attributes:
        direction: The direction it affects.
        toxicity: The probability that a connection is affected; drawn once per connection.

    Raises:
        ValueError: A number is negative, the toxicity is above 1, or the direction is unknown.
    """

    direction: Direction = "downstream"
    toxicity: float = 1.0

    def __post_init__(self) -> None:
        if self.direction not in ("upstream", "downstream"):
            raise ValueError(f"direction is {self.direction!r}: write 'upstream' or 'downstream'")
        if self.toxicity > 1:
            raise ValueError(f"toxicity is {self.toxicity!r}: write a probability from 0 to 1")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (int, float)) and not value >= 0:
                raise ValueError(f"{field.name} is {value!r}: write a number that is not negative")


@dataclass(frozen=True)
class Latency(Toxic):
    """Delays everything, in order.

    Attributes:
        latency: The delay, in seconds.
        jitter: Seconds by which the delay varies in both directions, uniformly distributed.
    """

    latency: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Bandwidth(Toxic):
    """Limits the rate of each connection.

    Attributes:
        rate: Bytes per second, above 0.
    """

    rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate:
            raise ValueError("rate is 0: use Timeout() to block all data")


@dataclass(frozen=True)
class Slicer(Toxic):
    """Splits data into small pieces.

    Attributes:
        average_size: Bytes per piece, at least 1.
        size_variation: Bytes by which the size varies in both directions; less than `average_size`.
        delay: Seconds between pieces.
    """

    average_size: int
    size_variation: int = 0
    delay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size_variation >= self.average_size:
            raise ValueError("size_variation must be smaller than average_size: a piece cannot be empty")


@dataclass(frozen=True)
class SlowClose(Toxic):
    """Delays the end of the stream after the last byte.

    Attributes:
        delay: The delay, in seconds.
    """

    delay: float


@dataclass(frozen=True)
class Timeout(Toxic):
    """Blocks everything, even a close or a reset: a black hole, or in one direction a half-open connection.

    Data sent meanwhile is held as far as the proxy's buffers allow, and passes when the toxic is removed.

    Attributes:
        timeout: Seconds until the connection is closed; None (the default) for never.
    """

    timeout: float | None = None


@dataclass(frozen=True)
class ResetPeer(Toxic):
    """Drops the next bytes in its direction and resets the connection on both sides ("connection reset by peer").

    Upstream, the server never sees the request; downstream, the server has answered and the answer is lost.

    Attributes:
        timeout: Seconds from those bytes to the reset.
    """

    timeout: float = 0.0


@dataclass(frozen=True)
class LimitData(Toxic):
    """Closes a connection after a number of bytes.

    Attributes:
        bytes: The number of bytes, counted for each connection from when the toxic was added.
        reset: Whether to reset the connection instead of closing it normally.
    """

    bytes: int
    reset: bool = False

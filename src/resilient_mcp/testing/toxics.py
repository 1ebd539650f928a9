"""What a `FaultProxy` does to the connections through it, in the words of toxiproxy (https://github.com/Shopify/toxiproxy).

Each toxic is a value: add it to a proxy, and remove it again. All of them take two keywords more: `direction`, which is
"downstream" (what the server sends, the default) or "upstream" (what the client sends), and `toxicity`, the probability
from 0 to 1 that a connection has the toxic at all.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Direction = Literal["upstream", "downstream"]
"""Upstream is from the client to the server, downstream is back."""


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """What all toxics have.

    Attributes:
        direction: Which bytes it concerns.
        toxicity: The probability that a connection has it; drawn once for each connection.

    Raises:
        ValueError: A number is negative, a toxicity above 1, or a direction unknown.
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
    """Everything arrives later, and in order.

    Attributes:
        latency: Seconds.
        jitter: Seconds by which the latency varies, evenly, up and down.
    """

    latency: float
    jitter: float = 0.0


@dataclass(frozen=True)
class Bandwidth(Toxic):
    """No more than so many bytes pass in a second, for each connection.

    Attributes:
        rate: Bytes per second, above 0.
    """

    rate: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rate:
            raise ValueError("rate is 0: use Timeout() to let nothing through")


@dataclass(frozen=True)
class Slicer(Toxic):
    """What is sent arrives in small pieces.

    Attributes:
        average_size: Bytes of a piece, at least 1.
        size_variation: Bytes by which the size varies, up and down.
        delay: Seconds between two pieces.
    """

    average_size: int
    size_variation: int = 0
    delay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size_variation >= self.average_size:
            raise ValueError("size_variation must be smaller than average_size: no piece is empty")


@dataclass(frozen=True)
class SlowClose(Toxic):
    """The end of the stream arrives later than the last byte.

    Attributes:
        delay: Seconds.
    """

    delay: float


@dataclass(frozen=True)
class Timeout(Toxic):
    """Nothing passes, not even an end or a reset: a black hole, or in one direction a half-open connection.

    What is sent meanwhile is held, as much as fits into the proxy's buffers, and passes when the toxic is removed.

    Attributes:
        timeout: Seconds until the connection is closed; None, the default, for never.
    """

    timeout: float | None = None


@dataclass(frozen=True)
class ResetPeer(Toxic):
    """The first bytes in its direction are dropped, and both ends see "connection reset by peer".

    Upstream the server never sees the request; downstream it has answered, and the answer is lost.

    Attributes:
        timeout: Seconds from those bytes to the reset.
    """

    timeout: float = 0.0


@dataclass(frozen=True)
class LimitData(Toxic):
    """A connection is closed once so many bytes went through it.

    Attributes:
        bytes: How many, counted for each connection from when the toxic was added.
        reset: Whether the end is a reset; else it is an end as of a finished stream.
    """

    bytes: int
    reset: bool = False

"""The servers, and the schedule of their faults, which follows from the seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from resilient_mcp import Concurrency, HealthPolicy, Policy, RateLimit, RestartPolicy, RetryPolicy, TimeoutPolicy
from resilient_mcp._sdk.installed import MAJOR

PATIENT = Policy(
    breaker=None,
    budget=None,
    retry=RetryPolicy(attempts=200, crashes=200, base=0.02, throttled_base=0.05, max_delay=0.5),
    restart=RestartPolicy(base=0.02, max_delay=0.5, intensity=10_000),
    # It starts while faults are happening.
    timeout=TimeoutPolicy(attempt=15, reach=150, ready=150, connect=15, total=200, shutdown=5),
    health=HealthPolicy(idle=2, timeout=5, misses=2),
)
"""More time than any outage takes and practically unlimited attempts: every repeatable call can be answered."""
LIMITED = PATIENT.model_copy(update={"concurrency": Concurrency(limit=8, queue=1000)})
SLOWED = PATIENT.model_copy(update={"rate_limit": RateLimit(rate=100, burst=20)})


@dataclass(frozen=True)
class Spec:
    """One server of the fleet.

    Attributes:
        name: Its name.
        kind: The kind of server that `tests.servers.soak_server` runs.
        policy: Its client's policy.
        legacy: Whether its client requests a version up to 2025-11-25 instead of negotiating.
        options: Extra arguments of the server.
        faults: The kinds of faults that its schedule draws from.
        pause: The mean number of seconds between two faults.
        proxied: Whether a `FaultProxy` is in front of it.
    """

    name: str
    kind: str
    policy: Policy
    legacy: bool
    faults: Sequence[str]
    pause: float
    options: tuple[str, ...] = ()
    proxied: bool = False

    @property
    def is_process(self) -> bool:
        return self.kind in ("raw", "stdio")

    @property
    def has_resources(self) -> bool:
        return self.kind != "scripted"


PROCESS = ("kill", "freeze", "freeze")
HTTP = ("kill", "away", "freeze")
TCP = ("latency", "down", "cut", "reset", "reset_peer", "timeout", "slow_close", "limit_data", "bandwidth", "slicer")


def fleet() -> list[Spec]:
    """All servers that the installed SDK can talk to. SDK servers take a second to start, so they get fewer faults."""
    legacy = MAJOR != 1
    both = (*HTTP, *TCP)
    specs = [
        Spec("stdio", "raw", PATIENT, legacy=False, faults=PROCESS, pause=4),
        Spec("stdio-sdk", "stdio", LIMITED, legacy=False, faults=PROCESS, pause=8),
        Spec("http-json", "scripted", SLOWED, legacy=legacy, faults=both, pause=4, proxied=True),
        Spec("http-sse", "scripted", PATIENT, legacy=legacy, faults=HTTP, pause=6, options=("--sse",)),
        Spec("http-sdk", "http", LIMITED, legacy=legacy, faults=both, pause=5, proxied=True),
    ]
    if MAJOR != 1:
        specs.append(Spec("http-modern", "http", PATIENT, legacy=False, faults=both, pause=5, proxied=True))
    return specs


@dataclass(frozen=True)
class Fault:
    """Something that happens to a whole server.

    Attributes:
        pause: Seconds after the end of the previous fault; after a kill, since the server was ready again.
        kind: The kind of fault.
        seconds: Its duration.
    """

    pause: float
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.pause:.1f} {self.kind} {self.seconds:.1f}"


_LONGEST = {"kill": 0.5, "away": 2.0, "freeze": 5.0, "cut": 0.0, "reset": 0.0}


def schedule(seed: int, spec: Spec, length: float) -> list[Fault]:
    """The faults of one server in `length` seconds, in order."""
    rng = random.Random(f"{seed}/faults/{spec.name}")
    faults: list[Fault] = []
    while sum(fault.pause + fault.seconds for fault in faults) < length:
        kind = rng.choice(spec.faults)
        faults.append(Fault(rng.expovariate(1 / spec.pause), kind, rng.uniform(0, _LONGEST.get(kind, 3.0))))
    return faults

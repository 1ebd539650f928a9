"""What follows from the seed: the servers, what happens to them and when."""

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
    # It starts amid the faults.
    timeout=TimeoutPolicy(attempt=15, reach=150, ready=150, connect=15, total=200, shutdown=5),
    health=HealthPolicy(idle=2, timeout=5, misses=2),
)
"""More time than any outage takes, and no end of tries: whatever is repeatable can be answered."""
LIMITED = PATIENT.model_copy(update={"concurrency": Concurrency(limit=8, queue=1000)})
SLOWED = PATIENT.model_copy(update={"rate_limit": RateLimit(rate=100, burst=20)})


@dataclass(frozen=True)
class Spec:
    """One server of the fleet.

    Attributes:
        name: What it is called here.
        kind: What `tests.servers.soak_server` is to be.
        policy: Its client's.
        legacy: Whether its client asks for a version up to 2025-11-25; else it negotiates.
        options: More arguments of the server.
        faults: What its schedule draws from.
        pause: The mean number of seconds between two faults.
        proxied: Whether a `FaultProxy` stands before it.
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
    """The servers: all that the installed SDK can talk to. Those of the SDK take a second to start, and die less."""
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
        pause: Seconds after the end of the one before it; after a kill, since the server was there again.
        kind: What.
        seconds: How long it lasts.
    """

    pause: float
    kind: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.pause:.1f} {self.kind} {self.seconds:.1f}"


_LONGEST = {"kill": 0.5, "away": 2.0, "freeze": 5.0, "cut": 0.0, "reset": 0.0}


def schedule(seed: int, spec: Spec, length: float) -> list[Fault]:
    """What happens to one server in `length` seconds, one after the other."""
    rng = random.Random(f"{seed}/faults/{spec.name}")
    faults: list[Fault] = []
    while sum(fault.pause + fault.seconds for fault in faults) < length:
        kind = rng.choice(spec.faults)
        faults.append(Fault(rng.expovariate(1 / spec.pause), kind, rng.uniform(0, _LONGEST.get(kind, 3.0))))
    return faults

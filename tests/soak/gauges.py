"""How much this process holds: memory, tasks, descriptors, children."""

from __future__ import annotations

import gc
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..support import _descriptors, _tasks, children

MOST_MEMORY = 1.1
"""How much larger it may be at the end than after the first minute."""


@dataclass(frozen=True)
class Gauges:
    """A reading.

    Attributes:
        memory: Resident memory, in MiB.
        tasks: Of the event loop.
        descriptors: Of files, pipes and sockets.
        children: Processes.
    """

    memory: float
    tasks: int
    descriptors: int
    children: int

    @classmethod
    def read(cls) -> Gauges:
        gc.collect()
        return cls(memory(), _tasks(), len(_descriptors()), len(children()))

    def growth(self, first: Gauges) -> list[str]:
        """What of it, memory apart, is more than it was at first."""
        now, then = asdict(self), asdict(first)
        return [
            f"{name}: {then[name]}, now {now[name]}" for name in then if name != "memory" and now[name] > then[name]
        ]


def memory() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def cores(since: float) -> tuple[float, float]:
    """Processors used so far by this process, and by its children that have ended, since `since` (monotonic)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    elapsed = time.monotonic() - since
    return time.process_time() / elapsed, (ended.ru_utime + ended.ru_stime) / elapsed

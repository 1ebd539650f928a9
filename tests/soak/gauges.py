"""The resources that this process holds: memory, tasks, descriptors, children."""

from __future__ import annotations

import gc
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ..support import _descriptors, _tasks, children

MOST_MEMORY = 1.1
"""The largest allowed ratio of memory at the end to memory after the first minute."""


@dataclass(frozen=True)
class Gauges:
    """A reading.

    Attributes:
        memory: Resident memory, in MiB.
        tasks: Tasks of the event loop.
        descriptors: Open files, pipes and sockets.
        children: Child processes.
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
        """What has grown since the first reading, memory excepted."""
        now, then = asdict(self), asdict(first)
        return [
            f"{name}: {then[name]}, now {now[name]}" for name in then if name != "memory" and now[name] > then[name]
        ]


def memory() -> float:
    """Resident memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def cores(since: float) -> tuple[float, float]:
    """Average processor cores used since `since` (monotonic): by this process, and by its children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    elapsed = time.monotonic() - since
    return time.process_time() / elapsed, (ended.ru_utime + ended.ru_stime) / elapsed

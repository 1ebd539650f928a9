"""The memory cost of an idle Streamable HTTP client: the growth of a process that opens more and more of them.

Each figure is measured in its own process: `python -m tests.benchmarks.memory URL SIDE traced|grown` prints the KiB per
client that Python allocated (`traced`), or by which the process grew, including the TLS library (`grown`).
"""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import tracemalloc
from contextlib import AsyncExitStack
from pathlib import Path

from ._plain import BASELINES
from .measures import OURS, ROOT, Goal, Row, http_server, resilient

CLIENTS = 20
_CONNECTS = {**BASELINES, OURS: resilient}
_KIB = 1024
_STATM = Path("/proc/self/statm")


async def memory(*, quick: bool) -> list[Row]:
    """KiB per idle client; the baselines are for comparison, the goal is an absolute figure."""
    rounds = 1 if quick else 3
    rows = []
    with http_server("sdk_server", "json") as url:
        for figure, goal, traced in (("allocated by Python", 150.0, True), ("growth of the process", None, False)):
            figures = {side: [_in_a_process(url, side, traced) for _ in range(rounds)] for side in _CONNECTS}
            what = f"idle client, HTTP: {figure}"
            if goal is not None:
                rows.append(Row(what, "KiB", "150 KiB", [goal] * rounds, figures[OURS], Goal(1)))
            rows += [Row(what, "KiB", side, figures[side], figures[OURS]) for side in BASELINES]
    return rows


def _in_a_process(url: str, side: str, traced: bool) -> float:
    command = [sys.executable, "-m", __name__, url, side, "traced" if traced else "grown"]
    return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)


async def _per_client(url: str, side: str, traced: bool) -> float:
    async with AsyncExitStack() as clients:

        async def open_more(count: int) -> None:
            for _ in range(count):
                client = await clients.enter_async_context(_CONNECTS[side](url))
                await client.call_tool("echo", {"text": "hello"})
            await asyncio.sleep(6)  # background work after connecting is over, and idle connections are closed
            gc.collect()

        await open_more(CLIENTS)
        if traced:
            tracemalloc.start()
        before = 0 if traced else _resident()
        await open_more(CLIENTS)
        after = tracemalloc.get_traced_memory()[0] if traced else _resident()
        return (after - before) / CLIENTS / _KIB


def _resident() -> int:
    """The resident memory of this process, in bytes; without /proc, its peak as the system reports it."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(asyncio.run(_per_client(sys.argv[1], sys.argv[2], sys.argv[3] == "traced")))

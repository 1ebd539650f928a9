"""Draws the latency of calls during a crash: `python -m tests.benchmarks.plot FILE.png`.

A stdio server is called every 50 ms and killed after two seconds, once per side. Every call is a point at the time it
was made and the time it took to be answered, or a cross if it failed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import dataclass

from ._plain import BASELINES
from .measures import OURS, REPLACED, SDK_SERVER, call, resilient

PERIOD, KILLED_AT, END = 0.05, 2.0, 5.0
"""Seconds."""


@dataclass(frozen=True)
class Point:
    """One call.

    Attributes:
        at: When it was due, in seconds.
        took: Its duration, in seconds.
        answered: Whether it was answered.
    """

    at: float
    took: float
    answered: bool


async def through_a_crash(side: str) -> list[Point]:
    """The calls of one side."""
    connect = resilient if side == OURS else BASELINES[side]
    points: list[Point] = []
    async with connect(SDK_SERVER) as client:
        pid = int(await call(client, "pid", {}))
        began = time.perf_counter()

        async def ask(at: float) -> None:
            await asyncio.sleep(began + at - time.perf_counter())
            sent = time.perf_counter()
            try:
                answered = await call(client, "echo", {"text": "hello"}) == "hello"
            except Exception:
                answered = False
            points.append(Point(at, time.perf_counter() - sent, answered))

        async def kill() -> None:
            await asyncio.sleep(KILLED_AT)
            os.kill(pid, signal.SIGKILL)

        times = [n * PERIOD for n in range(int(END / PERIOD))]
        await asyncio.gather(kill(), *map(ask, times))
    return sorted(points, key=lambda point: point.at)


def draw(sides: dict[str, list[Point]], path: str) -> None:
    """Write the plot to `path`."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    for (side, points), colour in zip(sides.items(), ("#c44e52", "#4c72b0"), strict=True):
        answered = [point for point in points if point.answered]
        failed = [point for point in points if not point.answered]
        label = f"{side}: {len(answered)} answered, {len(failed)} failed"
        style = {"color": colour, "label": label}
        axes.plot([p.at for p in answered], [1000 * p.took for p in answered], "o", markersize=3.5, **style)
        axes.plot([p.at for p in failed], [1000 * p.took for p in failed], "x", markersize=6, color=colour)
    axes.axvline(KILLED_AT, color="grey", linewidth=1, linestyle="--")
    axes.text(KILLED_AT - 0.05, 0.9, "kill -9", transform=axes.get_xaxis_transform(), horizontalalignment="right")
    axes.set(yscale="log", xlabel="call made at (s)", ylabel="call duration (ms)", xlim=(0, END))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


async def main(path: str) -> None:
    """The command."""
    draw({side: await through_a_crash(side) for side in (REPLACED, OURS)}, path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("one argument: the PNG file to write")
    asyncio.run(main(sys.argv[1]))

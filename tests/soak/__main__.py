"""The command; see the package."""

from __future__ import annotations

import argparse
import logging
import platform
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import anyio

from resilient_mcp._sdk.installed import VERSION

from ..servers.soak_server import SABOTAGES
from .book import Book
from .gauges import Gauges, cores
from .judge import compare, fates, starts
from .plan import fleet
from .run import Errors, Options, Run, plan_of
from .watchdog import Watchdog

# Seconds that a run may take beyond its length: for starting, quiet points and the last calls.
_PATIENCE = 500.0
# Lines printed about broken promises, at most.
_LINES = 1000


def parse(names: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--callers", type=int, default=240, help="number of concurrent callers, over all servers")
    parser.add_argument("--pause", type=float, default=3.0, help="average seconds between two calls of a caller")
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument("--trio", action="store_true", help="run on trio instead of asyncio")
    parser.add_argument(
        "--sabotage",
        nargs="+",
        choices=[*SABOTAGES, "leak"],
        default=[],
        help="break promises on purpose, to check that it is detected",
    )
    return parser.parse_args()


def main() -> int:
    if not Path("/proc/self/statm").exists():
        sys.exit("the soak reads /proc and freezes processes: it needs Linux")
    specs = fleet()
    arguments = parse([spec.name for spec in specs])
    options = Options(
        seed=arguments.seed,
        length=60 * arguments.minutes,
        callers=arguments.callers,
        pause=arguments.pause,
        specs=[spec for spec in specs if spec.name in arguments.only],
        sabotages=arguments.sabotage,
    )
    backend = "trio" if arguments.trio else "asyncio"
    print(f"soak: seed {options.seed}, {arguments.minutes:g} min, {options.callers} callers, mcp {VERSION},", end=" ")
    print(f"Python {platform.python_version()}, {backend}; repeat with: python -m tests.soak {' '.join(sys.argv[1:])}")
    print(
        "Faults (seconds after the previous one, kind, duration in seconds):", *plan_of(options), sep="\n  ", flush=True
    )
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    book = Book(folder)
    errors = Errors(book)
    for name in ("resilient_mcp", "asyncio"):
        logging.getLogger(name).addHandler(errors)
    logging.getLogger().addHandler(logging.NullHandler())  # the SDK logs faults with tracebacks
    run = Run(options, book)
    began = time.monotonic()
    try:
        anyio.run(guarded, run, backend=backend)
    except Exception:
        book.break_promise(f"the run ended with {traceback.format_exc()}")
    own, children = cores(began)
    broken = [*book.broken, *compare(book, run.places)]
    if run.first is not None and run.last is not None:
        print(*table(run, run.first, run.last, own, children), sep="\n")
    if not broken:
        shutil.rmtree(folder)
        print("All promises were kept.")
        return 0
    print(f"\nBROKEN, seed {options.seed} (the records are in {folder}):")
    print(*broken[:_LINES], sep="\n")
    return 1


async def guarded(run: Run) -> None:
    """Run, supervised by the watchdog."""
    with Watchdog(run.options.length + _PATIENCE, lambda: last_words(run)):
        await run.run()


def last_words(run: Run) -> Iterator[str]:
    """The report on a run that does not end."""
    yield from run.book.broken
    for running in sorted(run.book.running.values(), key=lambda call: call.began)[:20]:
        yield f"in flight for {run.book.now() - running.began:.1f} s: {running.key}"
        yield from (f"    | {line}" for line in running.story)
    for place in run.places:
        yield f"{place.spec.name}: {place.health()}"
        now = run.book.now()
        yield from (f"    | {line}" for line in run.book.connection_events(place.spec.name, now - 60, now)[-10:])


def table(run: Run, first: Gauges, last: Gauges, own: float, children: float) -> Iterator[str]:
    """The figures of the run."""
    book, options = run.book, run.options
    latency = book.latency.latency()
    yield f"\ncalls      {book.calls}: {counted(book.outcomes)}"
    yield f"latency    p50 {latency.p50 or 0:.3f} s, p99 {latency.p99 or 0:.3f} s"
    for place in run.places:
        name, stats = place.spec.name, place.client.stats()
        slow = stats.latency
        yield f"{name}: {stats.calls} requests, p50 {slow.p50 or 0:.3f} s, p99 {slow.p99 or 0:.3f} s"
        yield f"  faults   {counted(place.happened)}"
        yield f"  fates    {counted(fates(place, options.seed))}"
        yield f"  starts   {starts(place)}; connections {stats.connections}, lost {stats.disconnects}"
        yield f"  retries  {stats.retries}, transparent {stats.transparent_retries}; {counted(Counter(stats.failures))}"
    then, now = asdict(first), asdict(last)
    yield "held       " + ", ".join(f"{name} {then[name]:.4g} -> {now[name]:.4g}" for name in then)
    lag = book.lag.latency()
    yield f"lag        p50 {lag.p50 or 0:.3f} s, p99 {lag.p99 or 0:.3f} s of this process's event loop"
    yield f"processor  {own:.2f} cores here, {children:.2f} in servers that have ended"


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


if __name__ == "__main__":
    sys.exit(main())

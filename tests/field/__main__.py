"""The command line; see the package."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio

from resilient_mcp._sdk.installed import VERSION

from .check import Bench, Row, found
from .servers import SERVERS, Server

COLUMNS = (
    "server",
    "cold start",
    "warm start",
    "plain SDK, warm",
    "version",
    "tools, resources, prompts",
    "a call",
    "kill -9 in a call",
    "kill -9 of npx or uvx",
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.field", description=__doc__)
    parser.add_argument("--trio", action="store_true", help="run on trio instead of asyncio")
    parser.add_argument("words", nargs="*", help="only servers with one of these words in their names")
    options = parser.parse_args()
    if not Path("/proc/self/environ").exists():
        sys.exit("this looks for processes in /proc: it needs Linux")
    for program in ("npx", "uvx"):
        if found(program) is None:
            sys.exit(f"needs {program}, which is not installed")
    for name in ("resilient_mcp", "mcp", "asyncio"):  # the table reports what they log
        logging.getLogger(name).addHandler(logging.NullHandler())
    chosen = [server for server in SERVERS if not options.words or any(w in server.package for w in options.words)]
    rows = []
    for server in chosen:
        began = time.monotonic()
        row = measured(server, "trio" if options.trio else "asyncio")
        rows.append(row)
        ended = "; ".join(row.faults) or "as promised"
        print(f"{server.package}: {ended} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
    print(*report(chosen, rows), sep="\n")
    return 1 if any(row.less for row in rows) else 0


def measured(server: Server, backend: str) -> Row:
    """Measure one server, in folders that are removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="field-", ignore_cleanup_errors=True) as folder:
        return anyio.run(Bench(server, Path(folder)).run, backend=backend)


def report(servers: Sequence[Server], rows: Sequence[Row]) -> Iterator[str]:
    """The table in Markdown, followed by anything odd or wrong."""
    yield f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
    for server, row in zip(servers, rows, strict=True):
        if row.connected:
            yield line(server, row)
    less = sum(row.less for row in rows)
    yield f"\nmcp {VERSION}: {sum(row.connected for row in rows)} of {len(rows)} connect."
    yield f"Rows where `ResilientClient` delivers less than promised, or less than the plain SDK: {less}.\n"
    for row in rows:
        if row.garbage:
            yield f"- {row.name} prints on stdout: {row.garbage}"
        for fault in row.faults:
            yield f"- {row.name}: {fault}"
        if math.isnan(row.plain):
            yield f"- {row.name} does not connect with the plain SDK: {row.plain_version}"


def line(server: Server, row: Row) -> str:
    cells = [
        f"{row.name} {server.version}",
        seconds(row.cold) + (f" (at {row.starting})" if row.starting else ""),
        seconds(row.warm),
        seconds(row.plain),
        row.version + (f" (cold: {row.cold_version})" if row.cold_version != row.version else ""),
        ", ".join("-" if count is None else str(count) for count in row.lists),
        row.call,
        row.killed,
        seconds(row.orphaned),
    ]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f} s"


if __name__ == "__main__":
    sys.exit(main())

"""Runs the comparisons and prints a table of them."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import platform
import statistics
import sys
import traceback
from pathlib import Path

from ._plain import FASTMCP, VERSION
from .growth import growth
from .http import http
from .measures import COMPARISONS as BESIDE_THE_SDK
from .measures import Row
from .memory import memory
from .overhead import overhead
from .wrapping import wrapping

COMPARISONS = {
    **BESIDE_THE_SDK,
    "http": http,
    "growth": growth,
    "overhead": overhead,
    "wrapping": wrapping,
    "memory": memory,
}


def _cells(row: Row) -> list[str]:
    plain, ours = statistics.median(row.plain), statistics.median(row.ours)
    low, high = row.ratios[0], row.ratios[-1]
    verdict = "" if row.goal is None else "yes" if row.goal.is_reached(row.ratio) else "no"
    figures = [f"{plain:.4g}", f"{ours:.4g}", row.unit, f"{row.ratio:.3f}", f"{low:.2f} - {high:.2f}"]
    return [row.what, row.against, *figures, str(row.goal or ""), verdict]


def _print_table(rows: list[Row]) -> None:
    header = ["what", "against", "plain", "resilient", "unit", "ratio", "from - to", "goal", "reached"]
    table = [header, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _as_json(row: Row) -> dict[str, object]:
    return {
        "what": row.what.strip(),
        "against": row.against,
        "unit": row.unit,
        "plain": row.plain,
        "resilient": row.ours,
        "ratio": row.ratio if math.isfinite(row.ratio) else None,
        "goal": None if row.goal is None else str(row.goal),
        "reached": None if row.goal is None else row.goal.is_reached(row.ratio),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", choices=COMPARISONS, action="append", metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds, for a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE as well")
    options = parser.parse_args()
    logging.disable(logging.WARNING)  # crashes are intended here
    versions = {"mcp": VERSION, "fastmcp": FASTMCP, "python": platform.python_version()}
    shown = ", ".join(f"{name} {version or 'is not installed'}" for name, version in versions.items())
    title = f"{shown}; ratio: resilient / plain, median of the rounds"
    rows: list[Row] = []
    failed = []
    for name in options.only or COMPARISONS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += asyncio.run(COMPARISONS[name](quick=options.quick))
        except Exception:  # the other results, which took minutes, must not be lost
            traceback.print_exc()
            failed.append(name)
    if options.json is not None:
        facts = {**versions, "rows": list(map(_as_json, rows))}
        options.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(title)
    _print_table(rows)
    if failed:
        sys.exit(f"{', '.join(failed)} failed, see above")


if __name__ == "__main__":
    main()

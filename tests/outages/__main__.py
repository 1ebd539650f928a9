"""What twenty callers get during outages behind nginx and HAProxy: `python -m tests.outages [WORDS...]`.

It prints a Markdown table, each row as soon as it is measured: first with the plain SDK, whose session is never
reopened, then with `ResilientClient` and its default policy. "back" is the number of seconds from the end of the
outage, or of the last pause that the server asked for, to the first answer, and until every caller had one. "refused"
counts calls that began more than two seconds after that point and were not sent.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections import Counter
from collections.abc import Iterator

import anyio

from resilient_mcp._sdk.installed import VERSION

from .load import Outcome
from .sides import SIDES
from .situations import Situation, situations

COLUMNS = ("answered", "failed", "back", "refused", "longest")


def cells(found: Outcome) -> Iterator[str]:
    """A side's outcome in a situation, in the order of `COLUMNS`."""
    yield str(found.answered)
    failed = counted(found.failed)
    if found.slow:
        failed += f"; the slow calls: {counted(found.slow)} after {found.slowest:.0f} s, {found.runs} runs"
    yield failed + (f"; torn by {found.torn}" if found.torn else "")
    if found.first is None:
        yield "-"
    else:
        yield f"{found.first:.1f} / {'never' if found.every is None else f'{found.every:.1f}'}"
    yield str(found.refused)
    yield f"{found.longest:.1f} s"


def counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"


def row(*texts: str) -> None:
    print(f"| {' | '.join(texts)} |", flush=True)


def chosen(words: list[str], *, quick: bool) -> list[Situation]:
    rows = situations(long=4.0) if quick else situations()
    return [each for each in rows if all(word.lower() in each.name.lower() for word in words)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.outages", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="limit outages of a server to 4 s")
    parser.add_argument("--list", action="store_true", help="print only the names of the rows")
    parser.add_argument("--side", choices=SIDES, action="append", help="only this side")
    parser.add_argument("--trio", action="store_true", help="run on trio instead of asyncio")
    parser.add_argument("words", nargs="*", help="only rows with all of these words in their names")
    options = parser.parse_args()
    rows = chosen(options.words, quick=options.quick)
    if options.list:
        print(*(each.name for each in rows), sep="\n")
        return
    logging.disable()  # the SDK logs faults with tracebacks
    warnings.simplefilter("ignore")
    sides = options.side or list(SIDES)
    row(f"mcp {VERSION}", *(f"{side}: {column}" for side in sides for column in COLUMNS))
    row(*["---"] * (1 + len(sides) * len(COLUMNS)))
    for each in rows:
        found = [anyio.run(each.outcome, SIDES[side], backend="trio" if options.trio else "asyncio") for side in sides]
        row(each.name, *(cell for outcome in found for cell in cells(outcome)))


if __name__ == "__main__":
    main()

"""How calls end under each fault, with the plain SDK and with `ResilientClient`: `python -m tests.matrix`.

It prints the README's table. Each side is measured at each place in its own process, which is started again if a fault
hangs it for good. `--json` prints the outcomes instead; words select the faults whose names contain one of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import anyio

from .faults import FAULTS
from .harness import HUNG, Outcome, outcome
from .sides import SIDES
from .stages import HERE, PLACES, Place
from .table import Cell, table

LIMIT = 60.0
"""Seconds without output after which a process is killed: it hangs in a way that cancellation cannot end."""
HELD_FAST = Outcome(calls={"echo": HUNG}, bystander=HUNG, next=HUNG)


def measure(side: str, where: str, first: int, words: Sequence[str]) -> NoReturn:
    """Run in its own process: print the number and the outcome of each fault at a place, from `first` on."""
    logging.disable()
    warnings.simplefilter("ignore")
    place = next(place for place in PLACES if str(place) == where)
    for n, fault in enumerate(FAULTS):
        if n >= first and place in fault.places and (not words or any(word in fault.name for word in words)):
            print(n, flush=True)
            found, _ = anyio.run(outcome, SIDES[side], fault, place)
            print(json.dumps(dataclasses.asdict(found)), flush=True)
    sys.stdout.flush()
    os._exit(0)  # leftovers of a torn-down session must not delay the exit


def measured(side: str, place: Place, words: Sequence[str]) -> list[Cell]:
    """The outcomes of one side at one place."""
    cells: list[Cell] = []
    number = -1
    while True:
        command = [sys.executable, "-m", "tests.matrix", "--measure", side, str(place), str(number + 1), *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with process:
            while line := _line(process):
                number = int(line)
                came = _line(process)
                found = Outcome(**json.loads(came)) if came else HELD_FAST
                cells.append(Cell(FAULTS[number].name, side, place, found))
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, f"{side} at {place} fails after {FAULTS[number].name}"
            return cells


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    watchdog = threading.Timer(LIMIT, process.kill)
    watchdog.start()
    try:
        return process.stdout.readline()
    finally:
        watchdog.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the outcomes instead of the table")
    parser.add_argument("--jobs", type=int, default=2, help="how many places are measured at the same time")
    parser.add_argument("--measure", nargs=3, metavar=("SIDE", "PLACE", "FIRST"), help=argparse.SUPPRESS)
    parser.add_argument("words", nargs="*", help="only faults with one of these words in their names")
    options = parser.parse_args()
    if options.measure:
        side, place, first = options.measure
        measure(side, place, int(first), options.words)
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(measured, side, place, options.words) for side in SIDES for place in HERE]
        cells = [cell for job in jobs for cell in job.result()]
    if options.json:
        print(json.dumps([dataclasses.asdict(cell) for cell in cells], indent=1))
    else:
        print(table(cells), end="")


if __name__ == "__main__":
    main()
